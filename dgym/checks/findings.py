"""What a check finds, and how findings are collected; knows nothing of what is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from dgym.core import Attempt, Domain, Feedback, Problem, from_json, to_json
from dgym.errors import DgymError, one_line

GARBAGE: Final = (
    "",
    " \n\t",
    "?",
    "nan",
    "-inf",
    "1/0",
    "0x",
    "99:99",
    "[" * 5_000,
    "9" * 100_000,
    "\x00\ufffd\U0001f600",
    "{'a': [1,",
    "I do not know, perhaps 3 or 4.",
)
"""Responses that a student might give and that no grader may stumble over."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: What should hold, in words.
        ok: Whether it does.
        detail: What was seen instead; empty when it holds.
        warning: Whether it is advice: a failed one does not make the thing unusable.
    """

    name: str
    ok: bool
    detail: str = ""
    warning: bool = False


def passed(findings: Sequence[Finding]) -> bool:
    """Whether nothing but warnings failed."""
    return all(f.ok or f.warning for f in findings)


class UnmetError(DgymError):
    """What a check expected does not hold."""


def require(holds: bool, otherwise: str) -> None:
    """Fails the check in which it stands unless something holds."""
    if not holds:
        raise UnmetError(otherwise)


class Report:
    """Collects findings; an exception inside `with report(name):` is a failed check."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    @contextmanager
    def __call__(self, name: str, *, warning: bool = False) -> Iterator[None]:
        """Makes one check of what stands inside."""
        try:
            yield
        except Exception as error:
            self.findings.append(Finding(name, False, one_line(error), warning))
        else:
            self.findings.append(Finding(name, True, "", warning))

    @property
    def sound(self) -> bool:
        """Whether nothing but warnings failed so far."""
        return passed(self.findings)


def round_trip(record: Any) -> bool:
    """Whether a record is the same after a way through JSON."""
    return bool(from_json(type(record), to_json(record)) == record)


def feedback_on(
    problems: Sequence[Problem], answer: Callable[[int, Problem], str], domain: Domain | None = None
) -> Feedback:
    """Makes feedback from answers computed by place and problem, graded by a domain or by comparison."""
    attempts = []
    for i, p in enumerate(problems):
        response = answer(i, p)
        score = domain.grade(p, response) if domain else float(response == p.reference)
        attempts.append(Attempt(p, response, score))
    return Feedback("feedback", tuple(attempts))
