"""Who called a language model, what for, and what it took: a list that calls add themselves to.

The list travels in a context variable, so that neither policies nor engines have to hand it on. Work that is
spread over threads goes through `concurrently`, which keeps the order of the calls that of the work.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

from dgym.core import Call

S = TypeVar("S")
T = TypeVar("T")

MAX_THREADS: Final = 64
"""Most threads that wait for language models at a time in one `concurrently`."""

_CALLS: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar("dgym_calls", default=None)
_PURPOSE: contextvars.ContextVar[str] = contextvars.ContextVar("dgym_purpose", default="")


@contextmanager
def recording() -> Iterator[list[Call]]:
    """Collects the calls made inside, which then are in no outer list."""
    calls: list[Call] = []
    token = _CALLS.set(calls)
    try:
        yield calls
    finally:
        _CALLS.reset(token)


@contextmanager
def purpose(name: str) -> Iterator[None]:
    """Says what the calls made inside are for."""
    token = _PURPOSE.set(name)
    try:
        yield
    finally:
        _PURPOSE.reset(token)


def current_purpose() -> str:
    """Returns what calls made here are for; empty where nobody said."""
    return _PURPOSE.get()


def note(call: Call) -> None:
    """Adds a call to the list that is being collected, if there is one."""
    calls = _CALLS.get()
    if calls is not None:
        calls.append(call)


def concurrently(work: Callable[[S], T], items: Sequence[S]) -> list[T | Exception]:
    """Maps a function that waits for language models over items, in threads.

    Args:
        work: Called once per item, with the context of the caller.
        items: What to work on.

    Returns:
        What each item gave, or the exception that it raised, in the order of the items.
    """

    def one(item: S) -> tuple[T | Exception, list[Call]]:
        with recording() as calls:
            try:
                return work(item), calls
            except Exception as error:
                return error, calls

    if len(items) <= 1:
        ended = [one(item) for item in items]
    else:
        with ThreadPoolExecutor(min(len(items), MAX_THREADS)) as pool:
            futures = [pool.submit(contextvars.copy_context().run, one, item) for item in items]
            ended = [future.result() for future in futures]
    for _, calls in ended:
        for call in calls:
            note(call)
    return [outcome for outcome, _ in ended]
