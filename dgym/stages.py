"""The three stages of the loop alone, on files: evaluate, generate, train.

Attempts and examples are JSON lines, a trained student is a folder, so that each stage can be run, looked at and
replaced by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeVar

from dgym.bench import open_loop, reachable, student_config
from dgym.core import (
    Attempt,
    Example,
    Feedback,
    Prepares,
    Problem,
    Split,
    Student,
    Summarises,
    Verdict,
    derive_seed,
    from_json,
    to_json,
)
from dgym.domains import make_domain
from dgym.episode import LocalPool, evaluate, teach, used
from dgym.errors import StudentError, UsageError, one_line
from dgym.results.place import Place, read_file, write_file
from dgym.specs import EpisodeSpec, identify
from dgym.students.host import StudentHost, local_student

T = TypeVar("T")


def open_student(spec: EpisodeSpec, folder: str | PathLike[str] | None = None) -> Student:
    """Opens a spec's student in this process, trained as saved in `folder`, a path or URL."""
    identity = identify(spec)
    student = local_student(StudentHost(), student_config(identity), "stage")
    if folder is not None:
        with Place.of(folder).as_folder() as here:
            student.load(str(here))
    return student


def evaluate_stage(
    spec: EpisodeSpec, splits: Sequence[Split], folder: str | PathLike[str] | None
) -> tuple[Feedback, Mapping[str, float]]:
    """Asks a student the problems of some splits, graded together.

    Returns:
        The attempts, and what the domain's field reports on all of them, if anything.
    """
    domain = make_domain(spec.domain)
    if isinstance(domain, Prepares):
        domain.prepare()
    problems = [problem for split in splits for problem in used(domain, split, spec.rules)]
    feedback = evaluate(open_student(spec, folder), domain, splits[-1], problems)
    return feedback, dict(domain.summary(feedback.attempts)) if isinstance(domain, Summarises) else {}


def train_stage(spec: EpisodeSpec, examples: Sequence[Example], folder: str | PathLike[str]) -> dict[str, float]:
    """Trains an untrained student on examples and saves it in `folder`, a path or URL."""
    student = open_student(spec)
    seed = derive_seed("train", spec.seeds.training, 1)
    report = dict(student.train(examples, seed=seed, fresh=True))
    with Place.of(folder).as_folder(write=True) as here:
        student.save(str(here))
    return report


def generate_stage(spec: EpisodeSpec, attempts: Sequence[Attempt]) -> tuple[Verdict, ...]:
    """Lets a teacher see the attempts of an untrained student, write one iteration's data, and judges them.

    Raises:
        UsageError: If the attempts leave out problems of the feedback split.
        UsageError: If its language model cannot be asked.
        TeacherError: If the teacher fails.
    """
    domain = make_domain(spec.domain)
    asked = {(p.prompt, p.images) for p in used(domain, "feedback", spec.rules)}
    missing = asked - {(a.problem.prompt, a.problem.images) for a in attempts}
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(asked)} feedback problems have no attempt; "
            "make the file with `dgym evaluate --split feedback` and the same --share."
        )
    identity = identify(spec)
    reachable([identity])
    loop, teacher = open_loop(identity, _Recorded(attempts))
    loop.begin()
    return teach(loop, teacher, LocalPool(teacher))


class _Recorded:
    """A student that answers as it did before; the hidden splits, which no teacher sees, stay unanswered."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self._answers = {(a.problem.prompt, a.problem.images): a.response for a in attempts}

    def answer(self, problems: Sequence[Problem]) -> list[str]:
        return [self._answers.get((p.prompt, p.images), "") for p in problems]

    def train(self, examples: Sequence[Example], *, seed: int, fresh: bool) -> dict[str, float]:
        raise StudentError("Recorded answers cannot be trained.")

    def save(self, path: str) -> None:
        raise StudentError("Recorded answers cannot be saved.")

    def load(self, path: str) -> None:
        raise StudentError("Recorded answers cannot be loaded.")

    def close(self) -> None:
        """Nothing to give back."""


def write_lines(file: str | PathLike[str], records: Iterable[Any]) -> int:
    """Writes records as JSON lines to a path or URL; returns how many.

    Raises:
        UsageError: If the file cannot be written.
    """
    lines = [json.dumps(to_json(r), ensure_ascii=False) for r in records]
    write_file(file, "".join(f"{line}\n" for line in lines))
    return len(lines)


def read_lines(file: str | PathLike[str], kind: type[T]) -> list[T]:
    """Reads what `write_lines` wrote.

    Raises:
        UsageError: If the file cannot be read, naming the first line that is wrong.
    """
    from pydantic import ValidationError

    try:
        lines = read_file(file).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} cannot be read: {one_line(error)}.") from error
    out = []
    for number, line in enumerate(lines, 1):  # not `splitlines`, which also splits at characters that texts hold
        if not line:
            continue
        try:
            out.append(from_json(kind, json.loads(line)))
        except (ValueError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{file}, line {number}: not a record of type {kind.__name__}: {reason}.") from error
    return out
