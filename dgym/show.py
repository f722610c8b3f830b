"""One episode from its stored rows, decision by decision: what the teacher saw, planned and wrote, and what came of it.

Nothing is run again. The states are made anew by the environment from the stored attempts and plans, so that they
are what the teacher was given, except for what no table holds: a policy's memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dgym.bench import discovered
from dgym.core import Action, Attempt, Domain, Feedback, Past, Probe, Problem, State, StateContext, from_json
from dgym.display import bar
from dgym.domains import make_domain
from dgym.environments import make_environment
from dgym.errors import UsageError
from dgym.gate import HIDDEN_REASONS
from dgym.results import open as open_run
from dgym.results.reader import Run
from dgym.specs import EpisodeSpec

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Iteration:
    """What is known of one iteration.

    Attributes:
        number: 0 for the untrained student.
        row: Its row in `steps`.
        state: What the teacher saw before it; `None` for iteration 0.
        plans: What it planned, one per data generation: `actions` and `items`.
        examples: The rows of what was written.
        skills: Feedback accuracy by skill after it.
        calls: The rows of the teacher's calls.
    """

    number: int
    row: Row
    state: State | None
    plans: Sequence[Mapping[str, Any]]
    examples: Sequence[Row]
    skills: Mapping[str, float]
    calls: Sequence[Row] = ()


@dataclass(frozen=True)
class Story:
    """An episode's row and its iterations."""

    row: Row
    iterations: Sequence[Iteration]


def find_episode(folder: str | PathLike[str], name: str) -> tuple[Run, Row]:
    """Finds an episode in a run by the beginning of its digest, or by words of its label.

    Raises:
        UsageError: If there is none, or more than one.
    """
    run = open_run(folder)
    rows = run.arrow("episodes").to_pylist()
    words = name.lower().split()
    chosen = [r for r in rows if r["digest"].startswith(name)] or [
        r for r in rows if words and all(word in _label(r).lower().split() for word in words)
    ]
    if len(chosen) == 1:
        return run, chosen[0]
    listed = "; ".join(f"{r['digest'][:8]} = {_label(r)}" for r in (chosen or rows)[:6])
    if chosen:
        raise UsageError(f"{len(chosen)} episodes of {str(folder)!r} fit {name!r}: {listed}.")
    raise UsageError(f"No episode of {str(folder)!r} fits {name!r}. There are {len(rows)}, such as: {listed}.")


def tell(folder: str | PathLike[str], name: str) -> Story:
    """Puts an episode together from a run's tables, in a folder or at a URL.

    Raises:
        UsageError: If there is no such episode, or if its domain is not registered any more.
    """
    run, row = find_episode(folder, name)
    spec = EpisodeSpec.model_validate_json(row["spec"])
    domain: Domain = make_domain(spec.domain)
    problems = {p.id: p for p in domain.problems("feedback")}
    environment = make_environment(spec.environment, spec.curriculum, discovered(spec, domain))
    own = pc.field("digest") == row["digest"]
    steps = sorted(run.arrow("steps", where=own).to_pylist(), key=lambda r: r["iteration"])
    examples = run.arrow("examples", where=own).to_pylist()
    calls = run.arrow("calls", where=own).to_pylist()
    attempts = run.arrow("attempts", where=own & (pc.field("split") == "feedback")).to_pylist()
    feedback = {s["iteration"]: _feedback(attempts, s["iteration"], problems) for s in steps}
    past: list[Past] = []
    iterations = []
    for step in steps:
        number = step["iteration"]
        plans = json.loads(step["plans"] or "[]")
        written = [e for e in examples if e["iteration"] == number]
        state = None
        if number > 0:
            before = steps[number - 1]
            context = StateContext(
                iteration=number - 1,
                seed=0,
                past=tuple(past),
                probes=tuple(from_json(Probe, p) for p in json.loads(before["probes"] or "[]")),
                rejected=json.loads(before["rejected"] or "{}"),
                examples_left=spec.rules.budget.examples_per_iteration,
            )
            state = environment.observe(feedback[number - 1], context)
            past += _past(number - 1, feedback[number - 1], plans, written)
        skills = {k: Feedback("feedback", v).score for k, v in feedback[number].by_skill().items()}
        asked = [c for c in calls if c["iteration"] == number]
        iterations.append(Iteration(number, step, state, plans, written, skills, asked))
    return Story(row, iterations)


def _past(iteration: int, before: Feedback, plans: Sequence[Mapping[str, Any]], written: Sequence[Row]) -> list[Past]:
    looks_kept = (e for e in written if e["kept"] or e["reason"] in HIDDEN_REASONS)
    kept = Counter(e["skill"] for e in looks_kept if e["skill"] is not None)
    out = [Past(iteration, before, tuple(from_json(Action, a) for a in plan["actions"])) for plan in plans]
    # Rows do not say which generation of an iteration an example is from; together they are what was kept.
    return [*out[:-1], replace(out[-1], kept=dict(kept))] if out else []


def _feedback(attempts: Sequence[Row], iteration: int, problems: Mapping[str, Problem]) -> Feedback:
    made = []
    for row in attempts:
        if row["iteration"] == iteration:
            problem = problems.get(row["problem"]) or Problem(row["problem"], "", "", row["skill"])
            made.append(Attempt(problem, row["response"], row["score"]))
    return Feedback("feedback", tuple(made))


def _label(row: Row) -> str:
    return f"{row['teacher_label']} {row['environment']} {row['domain']} seed {row['seed_variant']}"


# --------------------------------------------------------------------------------------------------------------
# For people


def render(story: Story, iteration: int | None = None, samples: int = 3) -> RenderableType:
    """Draws an episode for the terminal.

    Args:
        story: The episode.
        iteration: Only this one; all by default.
        samples: Kept and rejected examples shown of each iteration.

    Raises:
        UsageError: If there is no such iteration.
    """
    chosen = [i for i in story.iterations if iteration in (None, i.number)]
    if not chosen:
        raise UsageError(f"The episode has the iterations 0 to {len(story.iterations) - 1}, and no {iteration}.")
    row = story.row
    parts: list[RenderableType] = [
        Text.assemble((_label(row), "bold"), f"  student {row['student'].partition(':')[0]}:{row['variant']}"),
        Text(f"{row['digest']}  {row['status']}" + (f": {row['error']}" if row["error"] else ""), style="dim"),
    ]
    if row["test_overlapped"]:
        scores = [
            "none" if row[f"{when}_test_clean"] is None else f"{row[f'{when}_test_clean']:.1%}"
            for when in ("base", "best")
        ]
        parts.append(
            f"{row['test_overlapped']} test problems were repeated by its examples; on the others the test score was "
            f"{scores[0]} before and {scores[1]} at the chosen iteration"
        )
    for each in chosen:
        before = story.iterations[each.number - 1] if each.number else None
        parts += ["", *_iteration(each, before, samples)]
    return Group(*parts)


def _iteration(each: Iteration, before: Iteration | None, samples: int) -> list[RenderableType]:
    row = each.row
    scores = [f"{name} {row[name]:.1%}" for name in ("feedback", "selection", "test") if row[name] is not None]
    head = f"Iteration {each.number}" if each.number else "The untrained student"
    parts: list[RenderableType] = [
        Text.assemble((head, "bold"), "  " + ", ".join(scores), ("  best so far" if row["best"] else "", "green"))
    ]
    if each.state is not None:
        parts += [Text("What the teacher saw", style="underline"), *_state(each.state)]
        parts += [Text("What it planned", style="underline"), *_plans(each.plans)]
        parts += [Text("What was written", style="underline"), *_written(each, samples)]
    if before is not None:
        parts += [
            Text("What came of it, by skill on feedback", style="underline"),
            _indented(_change(before.skills, each.skills)),
        ]
    return parts


def _state(state: State) -> list[RenderableType]:
    if state.trees:
        return [_indented(_forest(state))]
    if state.skills:
        table = _table("skill", "", "accuracy", "problems", "errors")
        for report in state.skills:
            table.add_row(
                report.skill, bar(report.accuracy), f"{report.accuracy:.1%}", str(report.count), str(len(report.errors))
            )
        return [_indented(table)]
    wrong = [o for o in state.observations if not o.correct]
    return [
        f"  {len(state.observations)} answered problems, {len(wrong)} of them wrong; such as",
        *(
            Text(f"    {_short(o.prompt)}  →  {_short(o.response, 40)}  (not {_short(o.reference, 40)})")
            for o in wrong[:3]
        ),
    ]


def _forest(state: State) -> Table:
    table = _table("skill and subskills", "", "accuracy", "allocated", "data")
    for report, tree in zip(state.skills, state.trees, strict=True):
        frozen = "  [dim]frozen[/dim]" if tree.frozen else ""
        table.add_row(f"{report.skill}{frozen}", bar(report.accuracy), f"{report.accuracy:.1%}", "", "")
        for leaf in tree.subskills:
            accuracy = "" if leaf.accuracy is None else f"{leaf.accuracy:.1%}"
            drawn = "" if leaf.accuracy is None else bar(leaf.accuracy)
            name = leaf.name.removeprefix(f"{tree.skill}/")
            table.add_row(f"  [dim]└[/dim] {name}", drawn, accuracy, str(leaf.allocation), str(leaf.data))
    return table


def _plans(plans: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for plan in plans:
        for action in plan["actions"]:
            what = ", ".join(action["grow"]) if action["kind"] == "explore" else _shifts(action["shift"])
            data = f", {action['data']} each" if action["kind"] == "explore" and action["grow"] else ""
            why = f"  [dim]{action['why']}[/dim]" if action["why"] else ""
            parts.append(f"  {action['skill']}: {action['kind']} {what or 'nothing'}{data}{why}")
        asked: Counter[tuple[str, str]] = Counter()
        for item in plan["items"]:
            asked[item["skill"] or "any skill", item["instruction"]] += item["count"]
        table = _table("asked for", "examples", "")
        for (skill, instruction), count in asked.items():
            table.add_row(skill, str(count), Text(_short(instruction, 80), style="dim"))
        parts.append(_indented(table) if asked else "  no data")
    return parts or ["  nothing"]


def _shifts(shift: Mapping[str, int]) -> str:
    return ", ".join(f"{name.rpartition('/')[2]} {change:+d}" for name, change in shift.items())


def _written(each: Iteration, samples: int) -> list[RenderableType]:
    kept = [e for e in each.examples if e["kept"]]
    reasons = Counter(e["reason"] for e in each.examples if not e["kept"])
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    asked = [e for e in each.examples if e["known"] is not None]
    known = f"; the student knew {sum(e['known'] for e in asked)} of {len(asked)} before" if asked else ""
    parts: list[RenderableType] = [*_asked(each.calls)]
    parts.append(
        f"  {len(kept)} of {len(each.examples)} kept{f'; rejected: {why}' if why else ''}{known}; "
        f"trained on {each.row['examples_total']}"
    )
    spread = kept[:: max(1, len(kept) // samples)][:samples] if samples else []
    for example in (*spread, *[e for e in each.examples if not e["kept"]][:samples]):
        mark = Text("  + ", "green") if example["kept"] else Text(f"  - {example['reason']}: ", "red")
        image = "[image] " if example["images"] else ""
        parts.append(mark + Text(f"{image}{_short(example['prompt'], 90)}  →  {_short(example['response'], 50)}"))
    return parts


def _asked(calls: Sequence[Row]) -> list[str]:
    """Says what language models were asked, if any were."""
    asked = [call for call in calls if call["model"] is not None]
    if not asked:
        return []
    purposes = Counter(call["purpose"] or "other" for call in asked)
    lost = Counter(call["outcome"] for call in asked if call["outcome"] != "ok")
    losses = f"; lost: {', '.join(f'{n} {why}' for why, n in lost.most_common())}" if lost else ""
    tokens = sum((call["tokens_in"] or 0) + (call["tokens_out"] or 0) for call in asked)
    what = ", ".join(f"{n} {purpose}" for purpose, n in purposes.most_common())
    return [f"  {asked[0]['model']}: {len(asked)} calls ({what}), {tokens:,} tokens{losses}"]


def _change(before: Mapping[str, float], after: Mapping[str, float]) -> Table:
    table = _table("skill", "", "accuracy", "change")
    for skill, accuracy in after.items():
        change = 100 * (accuracy - before.get(skill, accuracy))
        style = "green" if change > 0.5 else "red" if change < -0.5 else "dim"
        table.add_row(skill, bar(accuracy), f"{accuracy:.1%}", Text(f"{change:+.1f}", style=style))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), show_header=True)
    for index, column in enumerate(columns):
        left = index == 0 or not column
        table.add_column(column, justify="left" if left else "right")
    table.columns[0].no_wrap = True
    return table


def _indented(table: Table) -> Padding:
    return Padding(table, (0, 0, 0, 2))


def _short(text: str, length: int = 70) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"


# --------------------------------------------------------------------------------------------------------------
# For programs


def as_json(story: Story, iteration: int | None = None) -> dict[str, Any]:
    """Returns an episode as JSON values: its row, and state, plans, examples, calls and scores by iteration."""
    from dgym.core import to_json

    def plain(row: Row) -> dict[str, Any]:
        return {k: v for k, v in row.items() if isinstance(v, str | int | float | bool | None)}

    return {
        "episode": plain(story.row),
        "iterations": [
            {
                "iteration": i.number,
                "scores": {name: i.row[name] for name in ("feedback", "selection", "test")},
                "skills": dict(i.skills),
                "state": None if i.state is None else to_json(i.state),
                "plans": list(i.plans),
                "examples": [plain(e) for e in i.examples],
                "calls": [plain(c) for c in i.calls],
            }
            for i in story.iterations
            if iteration in (None, i.number)
        ],
    }
