"""Grading a run's stored answers again, with the graders of today and without a student.

What a teacher saw and wrote stays as it was: only verdicts change, and with them scores and the chosen iteration.
Answers to problems that the domain does not have any more keep their grade, and so do those of a domain that cannot be
made here; both are counted.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dgym import registry
from dgym.core import Attempt, Domain, Feedback, Grade, Prepares, Problem, Split, Step
from dgym.domains import make_domain
from dgym.episode import grade
from dgym.errors import DgymError, UsageError, one_line
from dgym.results.compact import write_table
from dgym.results.place import Place
from dgym.results.reader import Run, codes
from dgym.results.schema import TABLES
from dgym.results.writer import score_row

_SPLITS: Final[tuple[Split, ...]] = ("feedback", "selection", "test")

_SAME: Final = 1e-9
"""Grades that differ by less are the same."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """What grading anew changed in a domain.

    Attributes:
        domain: Its registered name.
        before: What the episodes pin of it: version and contents; sorted.
        now: The same of today.
        attempts: Stored answers.
        missing: Of them, answers to problems that the domain does not have any more.
        answers: Different answers that were graded.
        better: Stored answers whose grade is higher now.
        worse: Stored answers whose grade is lower now.
        episodes: Episodes in which a grade changed.
        chosen: Of them, those that now choose another iteration.
        error: Why nothing was graded; else empty.
    """

    domain: str
    before: tuple[str, ...]
    now: str = ""
    attempts: int = 0
    missing: int = 0
    answers: int = 0
    better: int = 0
    worse: int = 0
    episodes: int = 0
    chosen: int = 0
    error: str = ""

    @property
    def changed(self) -> int:
        """Stored answers whose grade is another now."""
        return self.better + self.worse


def rescore(
    run: Run, out: str | PathLike[str] | None = None, report: Callable[[str], None] | None = None
) -> list[Change]:
    """Grades all stored answers of a run again.

    Args:
        run: The results.
        out: Folder or URL for a run with the new grades, one file a table; without, nothing is written.
        report: Called with a line before each domain.

    Returns:
        What changed, by domain.

    Raises:
        UsageError: If the run has no episode, or if no domain of it can be graded here.
        InfrastructureError: If the new run cannot be written.
    """
    episodes = run.arrow("episodes").to_pylist()
    if not episodes:
        raise UsageError(f"There is no episode in {run.name!r} to grade again.")
    if out is not None and Place.of(out).same_as(run.name):
        raise UsageError(f"{str(out)!r} is the run itself: name another folder for the new grades.")
    row_of = {row["digest"]: row for row in episodes}
    steps: dict[str, list[Row]] = defaultdict(list)
    for row in run.arrow("steps").to_pylist():
        steps[row["digest"]].append(row)
    overlapped: dict[str, set[str]] = defaultdict(set)
    repeats = pc.is_valid(pc.field("overlaps"))
    for row in run.arrow("examples", ["digest", "overlaps"], repeats).to_pylist():
        overlapped[row["digest"]].update(row["overlaps"])
    changes, pieces = [], []
    for name in sorted({row["domain"] for row in episodes}):
        own = [row for row in episodes if row["domain"] == name]
        attempts = run.arrow("attempts", where=[("domain", "==", name)], encoded=True)
        change = Change(name, tuple(sorted({_pinned(row) for row in own})), attempts=attempts.num_rows)
        if report is not None:
            report(f"{name}: {attempts.num_rows:,} answers")
        try:
            domain = make_domain(name)
            if isinstance(domain, Prepares):
                domain.prepare()
            graded = _graded(domain, attempts)
        except DgymError as error:
            changes.append(replace(change, error=one_line(error)))
            pieces.append(attempts)
            continue
        touched = list(_episodes_of(graded))
        changes.append(
            replace(
                change,
                now=_pin(name, domain),
                missing=graded.missing,
                answers=graded.answers,
                better=int((graded.difference > _SAME).sum()),
                worse=int((graded.difference < -_SAME).sum()),
                episodes=len(touched),
                chosen=sum(
                    _recount(row_of[digest], steps[digest], rows, overlapped[digest]) for digest, rows in touched
                ),
            )
        )
        for row in own:
            row["pins"] = json.dumps(json.loads(row["pins"]) | {"graded": changes[-1].now}, sort_keys=True)
        pieces.append(graded.attempts)
    if all(change.error for change in changes):
        raise UsageError(f"Nothing in {run.name!r} can be graded: {changes[0].domain}: {changes[0].error}")
    if out is not None:
        rows = {"episodes": episodes, "steps": [row for part in steps.values() for row in part]}
        for table, schema in ((name, TABLES[name].read_schema) for name in TABLES):
            if table == "attempts":
                write_table(table, pieces, out)
            elif table in rows:
                write_table(table, [pa.Table.from_pylist(rows[table], schema=schema)], out)
            else:
                write_table(table, [run.arrow(table, encoded=True)], out)
    return changes


# --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Graded:
    """Attempts with the grades of today, what each gained by it, and counts as in `Change`."""

    attempts: pa.Table
    difference: Any
    missing: int
    answers: int


def _graded(domain: Domain, attempts: pa.Table) -> _Graded:
    known = {problem.id: problem for split in _SPLITS for problem in domain.problems(split)}
    ids, of_problem = codes(attempts, "problem")
    responses, of_response = codes(attempts, "response")
    problems = [known.get(str(name)) for name in ids]
    there = np.array([problem is not None for problem in problems], dtype=bool)[of_problem]
    alone = np.array([problem is not None and not problem.group for problem in problems], dtype=bool)[of_problem]
    grades: list[Grade] = []
    which = np.full(attempts.num_rows, -1)
    rounds = [_different(np.flatnonzero(alone), of_problem, of_response)]
    rounds += _grouped(attempts, np.flatnonzero(there & ~alone), problems, of_problem, of_response)
    for rows in rounds:
        asked = [(problems[of_problem[mine[0]]], str(responses[of_response[mine[0]]])) for mine in rows]
        found = [(problem, response) for problem, response in asked if problem is not None]
        if found:
            for number, mine in enumerate(rows, start=len(grades)):
                which[mine] = number
            grades += grade(domain, *zip(*found, strict=True))
    before = attempts.column("score").to_numpy()
    now = np.array([score for score, _ in grades], dtype=float)
    score = np.where(which >= 0, now[which], before) if grades else before
    return _Graded(_with(attempts, score, which, grades), score - before, int((~there).sum()), len(grades))


def _different(rows: Any, of_problem: Any, of_response: Any) -> list[Any]:
    """Puts together rows with the same problem and answer, which are graded once."""
    keys = of_problem[rows].astype(np.int64) << 32 | of_response[rows]
    order = np.argsort(keys, kind="stable")
    bounds = np.flatnonzero(np.diff(keys[order])) + 1
    return np.split(rows[order], bounds) if len(rows) else []


def _grouped(
    attempts: pa.Table, rows: Any, problems: Sequence[Problem | None], of_problem: Any, of_response: Any
) -> Iterator[list[list[int]]]:
    """Puts problems that are graded in groups into rounds.

    No group occurs twice in a round, so that none is graded with the answers of another evaluation; groups with the
    same answers are graded once.
    """
    evaluations = zip(*(attempts.column(name).take(pa.array(rows)).to_pylist() for name in _EVALUATION), strict=True)
    members: dict[Any, list[int]] = defaultdict(list)
    for row, evaluation in zip(rows.tolist(), evaluations, strict=True):
        problem = problems[of_problem[row]]
        members[evaluation, problem.group if problem else ""].append(row)
    alike: dict[Any, list[list[int]]] = defaultdict(list)
    for (_, group), own in members.items():
        own.sort(key=lambda row: int(of_problem[row]))
        alike[group, tuple((int(of_problem[row]), int(of_response[row])) for row in own)].append(own)
    rounds: dict[int, list[list[int]]] = defaultdict(list)
    seen: Counter[str] = Counter()
    for (group, _), same in alike.items():
        rounds[seen[group]] += [list(each) for each in zip(*same, strict=True)]
        seen[group] += 1
    yield from rounds.values()


_EVALUATION = ("digest", "iteration", "split")


def _with(attempts: pa.Table, score: Any, which: Any, grades: Sequence[Grade]) -> pa.Table:
    """Puts new scores, and the measures that came with them, into attempts."""
    measures = attempts.schema.field("measures")
    old = attempts.column("measures").combine_chunks()
    old = pa.concat_arrays(old.chunks) if isinstance(old, pa.ChunkedArray) else old
    new = pa.array([list(found.items()) or None for _, found in grades], measures.type)
    rows = np.where(which >= 0, which + len(old), np.arange(len(old)))
    columns = {"score": pa.array(score), "measures": pa.concat_arrays([old, new]).take(pa.array(rows))}
    for name, values in columns.items():
        place = attempts.schema.get_field_index(name)
        attempts = attempts.set_column(place, attempts.schema.field(place), values)
    return attempts


def _episodes_of(graded: _Graded) -> Iterator[tuple[str, list[Row]]]:
    """Yields the episodes of which a grade changed, with all their attempts."""
    digests, of_digest = codes(graded.attempts, "digest")
    touched = np.unique(of_digest[np.abs(graded.difference) > _SAME])
    order = np.argsort(of_digest, kind="stable")
    starts = np.searchsorted(of_digest[order], touched, "left")
    ends = np.searchsorted(of_digest[order], touched, "right")
    columns = ["iteration", "split", "problem", "skill", "slice", "score"]
    for which, start, end in zip(touched, starts, ends, strict=True):
        yield str(digests[which]), graded.attempts.select(columns).take(pa.array(order[start:end])).to_pylist()


def _recount(episode: Row, steps: list[Row], attempts: Sequence[Row], overlapped: set[str]) -> bool:
    """Puts what follows from new grades into an episode's rows; whether it now chooses another iteration."""
    parts: dict[tuple[int, str], list[Attempt]] = defaultdict(list)
    for row in attempts:
        problem = Problem(row["problem"], "", "", row["skill"], slice=row["slice"] or "")
        parts[row["iteration"], row["split"]].append(Attempt(problem, "", row["score"]))
    steps.sort(key=lambda row: int(row["iteration"]))
    made, best = [], -1.0
    for row in steps:
        asked = {s: Feedback(s, tuple(parts[row["iteration"], s])) for s in _SPLITS if parts[row["iteration"], s]}
        if "feedback" not in asked:
            return False  # its attempts cannot be read
        selection = asked.get("selection", asked["feedback"])  # one split serves for both in the paper's protocol
        made.append(Step(row["iteration"], asked["feedback"], selection, asked.get("test")))
        row |= {"feedback": asked["feedback"].score, "selection": selection.score, "best": selection.score > best}
        row["test"] = asked["test"].score if "test" in asked else None
        best = max(best, selection.score)
    before = episode["best_iteration"]
    # Whatever wrote the run before overlaps were recorded left that empty, and so it stays.
    episode |= score_row(made, None if episode["test_overlapped"] is None else overlapped)
    return bool(episode["best_iteration"] != before)


def _pinned(episode: Row) -> str:
    return str(json.loads(episode["pins"]).get("domain", ""))


def _pin(name: str, domain: Domain) -> str:
    """What an episode pins of its domain; see `dgym.specs.identify`."""
    return " ".join(filter(None, (domain.version, registry.pin("domain", name), getattr(domain, "contents", ""))))
