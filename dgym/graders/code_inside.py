"""What runs in the sandbox beside a student's program: compiling it, calling it, recording and replaying tests.

The text of this file is put before a line that says what to do (see `dgym.graders.code` and
`dgym.graders.code_checks`). Nothing here decides anything: what a student's process sends is data, and the student's
code can reach and change all of this. It imports the standard library only.

What this file does not know: any right answer, except in `replay`, in whose process no student's code runs.
"""

from __future__ import annotations

import collections.abc
import contextlib
import decimal
import fractions
import json
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any


class NotPythonError(Exception):
    """None of the texts is a program."""


def compiled(texts: list[str]) -> types.CodeType:
    """Compiles the first of some texts that is Python."""
    why: BaseException | None = None
    for text in texts:
        try:
            return compile(text, "answer.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
            why = why or error
    raise NotPythonError(str(why)[:200])


def compiles(texts: list[str]) -> bool:
    """Whether one of the texts is Python."""
    try:
        compiled(texts)
    except NotPythonError:
        return False
    return True


def module(name: str, before: str, texts: list[str], forget: str = "") -> dict[str, Any]:
    """Executes a program, after what every program may rely on; returns its names."""
    code = compiled(texts)
    made = sys.modules[name] = types.ModuleType(name)
    exec(compile(before, "before.py", "exec", dont_inherit=True), made.__dict__)
    made.__dict__.pop(forget, None)
    exec(code, made.__dict__)
    return made.__dict__


def script(before: str, texts: list[str]) -> None:
    """Runs a program that reads and prints; leaving by `exit` is a way to end."""
    with contextlib.suppress(SystemExit):
        module("__main__", before, texts)


def solution(before: str, texts: list[str], name: str) -> Callable[[str], str]:
    """Returns a function from arguments to a value, all in JSON: a method of `Solution`, or a function."""
    names = module("solution", before, texts)
    found = getattr(names["Solution"](), name) if "Solution" in names else names[name]

    def answer(given: str) -> str:
        return json.dumps(found(*map(json.loads, given.split("\n"))))

    return answer


def function(before: str, texts: list[str], name: str) -> Callable[[list[Any]], Any]:
    """Returns a function from packed arguments to a packed value."""
    found = module("solution", before, texts, name)[name]

    def answer(given: list[Any]) -> Any:
        return pack(found(*map(unpack, given)))

    return answer


def pack(value: Any) -> Any:
    """Writes a value down in lists, numbers and texts, as far as Python's `==` can tell values apart."""
    if value is None or isinstance(value, bool):
        return value
    plain: tuple[Any, ...] = (int, float, str, bytes)
    for kind in plain:
        if isinstance(value, kind):
            return kind.__add__(value, kind())
    if isinstance(value, dict):
        return ["d", [[pack(k), pack(v)] for k, v in dict.items(value)]]
    containers: tuple[tuple[str, Any], ...] = (("l", list), ("t", tuple), ("s", set), ("s", frozenset))
    for tag, container in containers:
        if isinstance(value, container):
            return [tag, [pack(item) for item in container.__iter__(value)]]
    if isinstance(value, fractions.Fraction):
        return ["f", [value.numerator, value.denominator]]
    if isinstance(value, decimal.Decimal):
        return ["n", str(value)]
    if isinstance(value, complex):
        return ["c", [value.real, value.imag]]
    if isinstance(value, range):
        return ["r", [value.start, value.stop, value.step]]
    if isinstance(value, collections.abc.Iterable):
        return ["i", [pack(item) for item in value]]
    raise TypeError(f"{type(value).__name__[:100]} is no value that a test can see from outside")


def unpack(packed: Any) -> Any:
    """Makes the value again."""
    if not isinstance(packed, list):
        return packed
    tag, inside = packed
    if tag == "d":
        return {unpack(k): unpack(v) for k, v in inside}
    if tag == "n":
        return decimal.Decimal(inside)
    if tag == "f":
        return fractions.Fraction(*inside)
    items: Iterator[Any] = map(unpack, inside)
    makers: dict[str, Callable[[Iterator[Any]], Any]] = {
        "l": list,
        "t": tuple,
        "s": set,
        "c": lambda parts: complex(*parts),
        "r": lambda parts: range(*parts),
        "i": lambda parts: iter(list(parts)),
    }
    return makers[tag](items)


def check(before: str, test: str, name: str, candidate: Callable[..., Any]) -> None:
    """Runs a published test, which defines `check(candidate)`, with some function as the candidate."""
    names = module("test", before, [test])
    names[name] = candidate  # some tests call it by its name
    random.seed(0)
    names["check"](candidate)


def record(before: str, right: str, test: str, name: str) -> list[Any]:
    """Returns with which arguments a test calls a function, given one that is right."""
    found = module("right", "", [right])[name]
    calls: list[Any] = []

    def candidate(*given: Any) -> Any:
        calls.append(pack(given)[1])
        state = random.getstate()
        value = found(*given)
        random.setstate(state)
        return value

    check(before, test, name, candidate)
    return calls


def replay(before: str, test: str, name: str, calls: list[Any], values: list[Any]) -> bool:
    """Runs a test with a function that returns what another one returned elsewhere, call by call.

    Args:
        before: Names that the test may use.
        test: The test.
        name: The function's name.
        calls: The arguments of each call.
        values: A list of one packed value for each call that returned, an empty one for each that did not.

    Returns:
        Whether the test is content and has made all of the calls.
    """
    left = iter(zip(calls, values, strict=False))

    def candidate(*given: Any) -> Any:
        arguments, returned = next(left)
        if pack(given)[1] != arguments:
            raise ValueError("the test makes other calls than before")
        (value,) = returned
        return unpack(value)

    check(before, test, name, candidate)
    return next(left, None) is None and len(values) == len(calls)
