"""Tests that are programs themselves: a published `check(candidate)` with asserts, as HumanEval has them.

The benchmark's own harness runs the student's code and the test in one process, whose word then has to be taken. Here
they never meet. With a solution that is known to be right it is found out, once for each test, with which arguments
the test calls its candidate. The student's function is called with these in a process of its own. What it returned
goes into a third process, in which the test runs again and its candidate returns these values, call by call. The
response passes if the test ends without an exception there and has made all of its calls.

Values are passed on as far as `==`, iteration and arithmetic can tell them apart: built-in containers and their
subclasses, numbers, texts, and iterators as the items that they give. An object of a class of the student's own has no
value that could be passed on; its call counts as failed.

What this module does not know: any data set, and how a program is kept from doing harm (`dgym.sandbox`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dgym.errors import DomainError
from dgym.graders.code import NOTHING, Result, compiles, inside, on_all_cores, said
from dgym.sandbox import Limits, Program, find_sandbox


@dataclass(frozen=True, slots=True)
class CheckTest:
    """A test that is a program.

    Attributes:
        name: The function that is asked for.
        before: What test and response may rely on: imports, and functions beside the one that is asked for.
        right: A program with a solution.
        test: Defines `check(candidate)`, which raises if the candidate is wrong.
    """

    name: str
    before: str
    right: str
    test: str


_recorded: dict[CheckTest, tuple[tuple[Any, ...], ...]] = {}
_lock = threading.Lock()


def recorded(tests: Sequence[CheckTest], limits: Limits) -> list[tuple[tuple[Any, ...], ...]]:
    """Finds out with which arguments tests call their candidates; once in this process for each.

    Returns:
        For each test the packed arguments of each call, in order.

    Raises:
        DomainError: If the solution does not pass its test.
        SandboxError: If programs cannot be isolated on this machine.
    """
    missing = [test for test in dict.fromkeys(tests) if test not in _recorded]
    programs = [
        Program(inside("record"), "record", ((t.before, t.right, t.test, t.name),), limits=limits) for t in missing
    ]
    for test, outcome in zip(missing, find_sandbox().run(programs), strict=True):
        if not (outcome.returned and outcome.returned[0].ok):
            why = outcome.returned[0].error if outcome.returned else said(outcome)
            raise DomainError(f"The published solution of {test.name!r} does not pass its test: {why}.")
        with _lock:
            _recorded[test] = tuple((call,) for call in outcome.returned[0].value)
    return [_recorded[test] for test in tests]


def grade_checked(jobs: Sequence[tuple[tuple[str, ...], CheckTest]], limits: Limits) -> list[Result]:
    """Grades responses on all cores; never raises on what a student wrote.

    Args:
        jobs: Readings of a response, as `dgym.graders.code.programs_of` gives them, and its test.
        limits: For all calls of a test together.

    Returns:
        One result per job, in order; a test that passes counts as one, whatever number of calls it makes.

    Raises:
        DomainError: If a published solution does not pass its test.
        SandboxError: If programs cannot be isolated on this machine.
    """
    calls = recorded([test for _, test in jobs], limits)

    def graded(index: int) -> Result:
        texts, test = jobs[index]
        return _graded(texts, test, calls[index], limits) if texts else NOTHING

    return on_all_cores(graded, range(len(jobs)))


def _graded(texts: tuple[str, ...], test: CheckTest, calls: tuple[tuple[Any, ...], ...], limits: Limits) -> Result:
    sandbox = find_sandbox()
    source = f"{inside('function')}\nanswer = function({test.before!r}, {list(texts)!r}, {test.name!r})\n"
    (outcome,) = sandbox.run([Program(source, "answer", calls, limits=limits)])
    if len(outcome.returned) < len(calls):
        return Result(False, compiles(outcome), 0, 1, said(outcome))
    values = [[returned.value] if returned.ok else [] for returned in outcome.returned]
    given = [call for (call,) in calls]
    arguments = (test.before, test.test, test.name, given, values)
    (judged,) = sandbox.run([Program(inside("replay"), "replay", (arguments,), limits=limits)])
    if judged.returned and judged.returned[0].ok and judged.returned[0].value is True:
        return Result(True, True, 1, 1)
    failed = next((returned.error for returned in outcome.returned if not returned.ok), "")
    return Result(False, True, 0, 1, failed[:200] or "wrong answer")
