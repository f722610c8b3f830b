"""Writing one episode's results: five immutable Parquet files, the row in `episodes` last.

There is no shared writer and no lock. Each file appears whole or not at all (see `dgym.results.place`); a process that
is killed in between leaves at most a hidden `.tmp` file that nobody reads. Last comes a note that the episode is
finished, with the sizes of its files in its name, so that a run of thousands is continued without opening any.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from dgym import registry
from dgym.core import NEW_COMBINATION, Call, Feedback, Plan, Problem, Step, digest, to_json
from dgym.errors import InfrastructureError, boundary_of, one_line
from dgym.results.place import Place
from dgym.results.reader import REMOTE_READERS, is_whole, part_files, read_part
from dgym.results.schema import EPISODES, FINISHED, PLANNED, TABLES, part_path
from dgym.specs import EpisodeSpec, Identity

RETAINED: Final = 0.5
"""A skill whose test accuracy is above this before any training is one that the student has."""

_LIBRARIES = ("dgym", "torch", "transformers", "peft", "tokenizers", "ray", "numpy", "pyarrow", "reasoning-gym")

Row = dict[str, Any]


class EpisodeWriter:
    """Collects an episode's steps and writes its files when it ends.

    Args:
        run_dir: The run's folder, or its URL.
        identity: The episode.
        suite: Name of the suite that it is run for.
    """

    def __init__(self, run_dir: str | PathLike[str], identity: Identity, suite: str) -> None:
        self._run, self._identity, self._suite = Place.of(run_dir), identity, suite
        self._made = False
        self._steps: dict[int, Step] = {}
        self._started = datetime.now(UTC)
        self.agreement: float | None = None
        """Agreement of discovered skills with the domain's own; `None` for those."""
        self.deaths: Counter[str] = Counter()
        """Processes that died under the episode and were replaced, by kind: episode, host, worker."""

    def ready(self) -> None:
        """Checks that the folder is there and can be written, before work is done that could not be stored.

        From then on the folder is not made again, should it vanish: a file system that is not mounted any more would
        have its results on the disk behind it.

        Raises:
            InfrastructureError: If it cannot.
        """
        self._made = True
        self._there()
        self._run.make()

    def _there(self) -> None:
        if self._made and self._run.local and not self._run.is_folder():
            raise InfrastructureError(
                f"The results folder {self._run.name!r} has vanished: it was removed, or its file system is not "
                "mounted here."
            )

    def add(self, step: Step) -> None:
        """Takes a step; one of the same iteration, from before a resume, is replaced."""
        self._steps[step.iteration] = step

    def finish(self) -> None:
        """Writes the finished episode.

        Raises:
            InfrastructureError: If the files cannot be written, or if steps are missing.
        """
        steps = self._ordered()
        if [s.iteration for s in steps] != list(range(len(steps))) or not steps:
            raise InfrastructureError(f"The episode {self._identity.label} ended without all of its steps.")
        self._write(steps, {"status": "ok", "stopped": steps[-1].stopped or None})

    def fail(self, error: BaseException, stage: str | None = None) -> None:
        """Writes a failed episode, with the steps that it made.

        Args:
            error: What ended it.
            stage: Where in the loop, if known.

        Raises:
            InfrastructureError: If the files cannot be written.
        """
        self._write(
            self._ordered(),
            {
                "status": "failed",
                "error_boundary": boundary_of(error),
                "error_stage": stage,
                "error": _text(one_line(error)),
            },
        )

    def _ordered(self) -> list[Step]:
        return [self._steps[i] for i in sorted(self._steps)]

    def _write(self, steps: Sequence[Step], outcome: Row) -> None:
        rows = {
            "steps": [_step_row(step) for step in steps],
            "attempts": [row for step in steps for row in _attempt_rows(step)],
            "examples": [row for step in steps for row in _example_rows(step)],
            "calls": [row for step in steps for row in _call_rows(step)],
            "episodes": [_identity_row(self._identity) | _summary_row(steps) | outcome],
        }
        rows["episodes"][0] |= {
            "suite": self._suite,
            "skills_agreement": self.agreement,
            "deaths": _json(+self.deaths) if +self.deaths else None,
            "started_at": self._started,
            "finished_at": datetime.now(UTC),
        }
        spec = self._identity.spec
        partitions = {"domain": spec.domain, "environment": spec.environment, "teacher": spec.teacher}
        self._there()
        sizes = []
        for name, table in TABLES.items():
            for row in rows[name]:
                row["digest"] = self._identity.digest
            parts = part_path(name, partitions, self._identity.digest).parts
            sizes.append(_parquet(pa.Table.from_pylist(rows[name], schema=table.schema), self._run, *parts))
        if outcome["status"] == "ok" and outcome["stopped"] is None:
            note = dict(zip(TABLES, sizes, strict=True))
            self._run.write(_json({"bytes": note}), FINISHED, ".".join(map(str, (self._identity.digest, *sizes))))


def finished(run_dir: str | PathLike[str]) -> set[str]:
    """Returns the digests of the episodes that ended by themselves with status ok and whose five files are intact.

    Names and sizes of files are enough for what the writer noted as finished; of the others, and of those whose files
    have another size now, the files are read.

    Raises:
        UsageError: If the folder cannot be read.
    """
    run = Place.of(run_dir)
    notes: dict[str, set[str]] = {}
    for note in run.sizes(FINISHED):
        digest, _, sizes = note.name.partition(".")
        notes.setdefault(digest, set()).add(sizes)
    there = {table: run.sizes(table) for table in TABLES} if notes else {}
    found, unsure = set(), []
    for part in part_files(run.below(EPISODES.name)):
        sizes = ".".join(str(sizes.get(part)) for sizes in there.values())
        if sizes in notes.get(part.stem, ()):
            found.add(part.stem)
        else:
            unsure.append(part)
    with ThreadPoolExecutor(1 if run.local else REMOTE_READERS) as pool:
        return found.union(*pool.map(lambda part: _finished(run, part), unsure))


def _finished(run: Place, part: PurePosixPath) -> set[str]:
    try:
        row = read_part(run.below(EPISODES.name), part, ["digest", "status", "stopped"]).to_pylist()[0]
    except ValueError:
        return set()
    ended = row["status"] == "ok" and row["stopped"] is None
    return {row["digest"]} if ended and all(is_whole(run.below(table), part) for table in TABLES) else set()


def announce(run_dir: str | PathLike[str], digests: Sequence[str]) -> None:
    """Notes which episodes a run is to have, so that a reader can say what is still to come.

    Args:
        run_dir: The run's folder.
        digests: Of all its episodes, finished ones among them; what was noted before is replaced.

    Raises:
        InfrastructureError: If it cannot be written.
    """
    Place.of(run_dir).write(_json({"episodes": sorted(digests)}), PLANNED)


def announced(run_dir: str | PathLike[str]) -> bool:
    """Whether a run's folder still has what `announce` noted there: it vanishes only together with results.

    Raises:
        UsageError: If the folder cannot be read.
    """
    return Place.of(run_dir).is_file(PLANNED)


def write_parquet(
    table: pa.Table | Iterable[pa.Table],
    path: str | PathLike[str],
    *,
    schema: pa.Schema | None = None,
    level: int | None = None,
) -> int:
    """Writes a Parquet file in one atomic step.

    Args:
        table: What to write, or pieces that are written one after the other.
        path: Path or URL of the file.
        schema: Of the pieces.
        level: How hard zstandard tries, from 1 to 22; Snappy without, which opens many small files in half the time.

    Returns:
        The file's size in bytes.

    Raises:
        InfrastructureError: If it cannot be written; nothing is then left behind.
    """
    folder, _, name = os.fspath(path).replace(os.sep, "/").rpartition("/")
    return _parquet(table, Place.of(folder or "."), name, schema=schema, level=level)


def _parquet(
    table: pa.Table | Iterable[pa.Table],
    place: Place,
    *parts: str,
    schema: pa.Schema | None = None,
    level: int | None = None,
) -> int:
    how = {"compression": "snappy"} if level is None else {"compression": "zstd", "compression_level": level}
    options: dict[str, Any] = {**how, "write_page_checksum": True}

    def write(file: IO[bytes]) -> None:
        if isinstance(table, pa.Table):
            pq.write_table(table, file, **options)
            return
        with pq.ParquetWriter(file, schema, **options) as writer:
            for piece in table:
                writer.write_table(piece)

    return place.build(write, *parts)


# --------------------------------------------------------------------------------------------------------------
# Steps to rows


def label_of(spec: EpisodeSpec) -> str:
    """A teacher's short name for tables: without a file's folder, with its parameters."""
    name = Path(spec.teacher).name if registry.is_file(spec.teacher) else spec.teacher
    params = ", ".join(f"{key}={value}" for key, value in sorted(spec.teacher_params.items()))
    return f"{name}({params})" if params else name


def _identity_row(identity: Identity) -> Row:
    spec = identity.spec
    fields = spec.model_dump(mode="json")
    # Seeds differ within a comparison; those that the rules carry are overwritten by the spec's.
    rules = {name: value for name, value in fields["rules"].items() if not name.endswith("_seed")}
    names = ("recipe", "skills", "curriculum", "engine", "precision", "tier")
    protocol = {"rules": rules} | {name: fields[name] for name in names}
    return {
        "variation": spec.variation,
        "teacher_label": label_of(spec),
        "student": spec.student,
        "variant": identity.variant,
        "seed_variant": spec.seeds.variant,
        "seed_training": spec.seeds.training,
        "seed_teacher": spec.seeds.teacher,
        "privileged": identity.privileged,
        "state_blind": identity.state_blind,
        "ranked": identity.ranked,
        "twin": identity.twin or None,
        "protocol": digest(protocol),
        "spec": _json(fields),
        "pins": _json(identity.pins),
        "versions": _json(_versions()),
        "device": spec.device,
    }


def _summary_row(steps: Sequence[Step]) -> Row:
    verdicts = [v for step in steps for v in step.verdicts]
    calls = [call for step in steps for call in step.calls]
    seconds: Counter[str] = Counter()
    for step in steps:
        seconds.update(step.seconds)
    row: Row = {
        "iterations_run": max(len(steps) - 1, 0),
        "examples_submitted": _submitted(verdicts),
        "examples_kept": sum(v.kept for v in verdicts),
        "response_tokens": sum(v.tokens for v in verdicts),
        "teacher_calls": len(calls),
        "teacher_losses": _json(Counter(call.outcome for call in calls if call.outcome != "ok")),
        "teacher_tokens": sum(call.tokens_in + call.tokens_out for call in calls),
        "cost": _cost(calls),
        "seconds_student": seconds["train"] + seconds["answer"],
        "seconds_total": sum(seconds.values()),
    }
    if not steps:
        return row
    return row | score_row(steps, {problem for v in verdicts for problem in v.overlaps})


def score_row(steps: Sequence[Step], overlapped: Collection[str] | None) -> Row:
    """Returns the columns of `episodes` that follow from the verdicts of an episode's steps, of which there is one.

    Args:
        steps: The steps.
        overlapped: Ids of the problems that submitted examples repeated; `None` where that was not recorded.
    """
    base, last = steps[0], steps[-1]
    # Whatever is best was tested when it was answered; graded anew, another may be.
    tested = [step for step in steps if step.test is not None] or steps
    best = max(tested, key=lambda step: (step.selection.score, -step.iteration))
    had = _skills_had(base.test)
    row: Row = {}
    if overlapped is not None and base.test is not None:
        row = {
            "test_overlapped": sum(attempt.problem.id in overlapped for attempt in base.test.attempts),
            "base_test_clean": _score(_part(base.test, lambda problem: problem.id not in overlapped)),
            "best_test_clean": _score(_part(best.test, lambda problem: problem.id not in overlapped)),
        }
    return row | {
        "best_iteration": best.iteration,
        "base_test": _score(base.test),
        "best_test": _score(best.test),
        "last_test": _score(last.test),
        "base_test_new": _score(_new(base.test)),
        "best_test_new": _score(_new(best.test)),
        "base_selection": base.selection.score,
        "best_selection": best.selection.score,
        "retention": _retention(had, best.test),
        "retention_last": _retention(had, last.test),
        "retention_skills": len(had),
    }


def _step_row(step: Step) -> Row:
    row: Row = {
        "iteration": step.iteration,
        "feedback": step.feedback.score,
        "selection": step.selection.score,
        "test": _score(step.test),
        "best": step.best,
        "examples_submitted": _submitted(step.verdicts),
        "examples_kept": len(step.kept),
        "examples_total": step.examples_total,
        "rejected": _json(Counter(v.reason for v in step.verdicts if v.reason)),
        "response_tokens": sum(v.tokens for v in step.verdicts),
        "plans": _json([_plan(plan) for plan in step.plans]),
        "probes": _json([to_json(probe) for probe in step.probes]),
        "known_asked": sum(v.known is not None for v in step.verdicts),
        "cost": _cost(step.calls),
    }
    counts = {f"train_{name}": int(step.train[name]) for name in ("steps", "tokens") if name in step.train}
    seconds = {f"seconds_{stage}": value for stage, value in step.seconds.items()}
    return row | {"train_loss": step.train.get("loss")} | counts | seconds


def _attempt_rows(step: Step) -> list[Row]:
    # Where one split serves for feedback and selection, its attempts are written once.
    splits = {f.split: f for f in (step.feedback, step.selection, step.test) if f is not None}
    return [
        {
            "iteration": step.iteration,
            "split": split,
            "problem": _text(attempt.problem.id),
            "skill": _text(attempt.problem.skill),
            "slice": attempt.problem.slice or None,
            "score": attempt.score,
            "measures": list(attempt.measures.items()) or None,
            "response": _text(attempt.response),
        }
        for split, feedback in splits.items()
        for attempt in feedback.attempts
    ]


def _example_rows(step: Step) -> list[Row]:
    return [
        {
            "iteration": step.iteration,
            "item": v.example.item,
            "skill": None if v.example.skill is None else _text(v.example.skill),
            "kept": v.kept,
            "reason": v.reason or None,
            "correct": v.correct,
            "overlaps": [_text(problem) for problem in v.overlaps] or None,
            "tokens": v.tokens,
            "known": v.known,
            "prompt": _text(v.example.prompt),
            "response": _text(v.example.response),
            "rejected": None if v.example.rejected is None else _text(v.example.rejected),
            "images": list(v.example.images) or None,
        }
        for v in step.verdicts
    ]


def _call_rows(step: Step) -> list[Row]:
    returned = Counter(v.example.item for v in step.verdicts)
    asked = {
        (generation, index): item.count
        for generation, plan in enumerate(step.plans)
        for index, item in enumerate(plan.items)
    }

    def place(generation: int, item: int | None) -> Row:
        known = item is not None and len(step.plans) == 1
        return {
            "iteration": step.iteration,
            "generation": generation,
            "item": item,
            "asked": asked.get((generation, item)) if item is not None else None,
            "returned": returned[item] if known and item is not None else None,
        }

    modelled = {(call.generation, call.item) for call in step.calls}
    return [
        place(call.generation, call.item)
        | {
            "purpose": call.purpose or None,
            "model": call.model,
            "outcome": call.outcome,
            "tokens_in": call.tokens_in,
            "tokens_out": call.tokens_out,
            "tokens_cached": call.tokens_cached,
            "retries": call.requests - 1,
            "cache_hit": call.cache_hit,
            "cost": call.cost,
            "seconds": call.seconds,
        }
        for call in step.calls
    ] + [place(*key) for key in asked if key not in modelled]


def _cost(calls: Sequence[Call]) -> float | None:
    """Sums prices; `None` where one is unknown."""
    costs = [call.cost for call in calls]
    return None if None in costs else float(sum(c for c in costs if c is not None))


def _submitted(verdicts: Sequence[Any]) -> int:
    return sum(v.reason != "over-budget" for v in verdicts)


def _score(feedback: Feedback | None) -> float | None:
    return None if feedback is None else feedback.score


def _part(feedback: Feedback | None, wanted: Callable[[Problem], bool]) -> Feedback | None:
    """Returns the attempts at some problems, if the split has any."""
    chosen = () if feedback is None else tuple(a for a in feedback.attempts if wanted(a.problem))
    return Feedback("test", chosen) if chosen else None


def _new(feedback: Feedback | None) -> Feedback | None:
    return _part(feedback, lambda problem: problem.slice == NEW_COMBINATION)


def _plan(plan: Plan) -> dict[str, Any]:
    items = [
        {"count": i.count, "skill": i.skill, "instruction": i.instruction, "like": len(i.like)} for i in plan.items
    ]
    return {"actions": [to_json(action) for action in plan.actions], "items": items}


def _accuracy(feedback: Feedback) -> dict[str, float]:
    return {skill: Feedback(feedback.split, part).score for skill, part in feedback.by_skill().items()}


def _skills_had(base: Feedback | None) -> dict[str, float]:
    return {} if base is None else {skill: a for skill, a in _accuracy(base).items() if a > RETAINED}


def _retention(had: dict[str, float], later: Feedback | None) -> float | None:
    if later is None or not had:
        return None
    now = _accuracy(later)
    return sum(now[skill] - before for skill, before in had.items()) / len(had)


def _text(text: str) -> str:
    # A lone surrogate, which a model or a teacher can write, has no place in UTF-8.
    return text.encode("utf-8", "replace").decode("utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
