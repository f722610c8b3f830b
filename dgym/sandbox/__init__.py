"""Runs untrusted Python: every program in a fresh, isolated process, judged from outside.

    from dgym.sandbox import Program, find_sandbox, verdict

    programs = [Program("def double(x): return 2 * x", "double", ((1,), (2,)))]
    outcomes = find_sandbox().run(programs)
    assert verdict(outcomes[0], [2, 4])

What a program prints, returns or raises is data. The expected values never enter its process. Providers are
registered by the kind `"sandbox"`; importing this package starts nothing.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Sequence
from typing import Any, Final

from dgym import registry
from dgym.errors import UsageError, one_line
from dgym.sandbox.plain import same
from dgym.sandbox.records import Limits, Outcome, Program, Returned, Sandbox, SandboxError, Status

__all__ = [
    "Limits",
    "Outcome",
    "Program",
    "Returned",
    "Sandbox",
    "SandboxError",
    "Status",
    "find_sandbox",
    "same",
    "scaled",
    "tier",
    "verdict",
]

SAFE: Final = ("namespaces", "bubblewrap")
"""The providers that are tried when none is named, best first."""

_PROCEED = (
    "To proceed, allow unprivileged user namespaces or install bubblewrap, run dgym on a machine that allows either, "
    "or, if this machine may be lost to what the programs do, run them without isolation: `--unsafe` or "
    "DGYM_SANDBOX=unsafe."
)

_found: dict[str, Sandbox] = {}
_lock = threading.RLock()


def find_sandbox(name: str | None = None) -> Sandbox:
    """Returns this process's sandbox; starts it on the first call.

    A fork of this process, and a process that unpickles a sandbox, get one of their own.

    Args:
        name: A registered provider; `None` means `$DGYM_SANDBOX`, and without that the best one that works here.

    Returns:
        The sandbox, shared by all threads.

    Raises:
        UsageError: If there is no provider of that name.
        SandboxError: If it does not work on this machine; the message says why and how to proceed.
    """
    wanted = name or os.environ.get("DGYM_SANDBOX") or ""
    with _lock:
        if wanted in _found:
            return _found[wanted]
        reasons = []
        for candidate in (wanted,) if wanted else SAFE:
            try:
                sandbox = _found.get(candidate) or _checked(candidate)
            except SandboxError as error:
                reasons.append(f"{candidate}: {error}")
                continue
            _found[candidate] = _found[wanted] = sandbox
            return sandbox
        raise SandboxError(f"Untrusted programs cannot be isolated here. {'; '.join(reasons)}. {_PROCEED}")


def _checked(name: str) -> Sandbox:
    """Starts a provider and has it run a small program."""
    made = registry.load("sandbox", name)
    try:
        sandbox: Sandbox = made()
    except SandboxError:
        raise
    except Exception as error:
        raise SandboxError(f"it cannot be started: {one_line(error)}") from error
    probe = Program("def probe(x):\n    return [x, True]", "probe", ((1,),))
    outcome = sandbox.run([probe])[0]
    if not verdict(outcome, [[1, True]]):
        sandbox.close()
        raise SandboxError(f"a trial program ended with {outcome.status!r} {outcome.error}".rstrip())
    return sandbox


def tier() -> str:
    """Says in one line which provider would be used and which layers it has; never raises."""
    try:
        sandbox = find_sandbox()
    except (SandboxError, UsageError) as error:
        return f"none: {error}"
    detail = getattr(sandbox, "detail", "")
    return f"{sandbox.name}: {detail}" if detail else sandbox.name


def scaled(reference_cpu_seconds: float, factor: float = 10.0, floor: float = 0.5, ceiling: float = 10.0) -> Limits:
    """Returns limits whose CPU time follows what a reference solution took for the same calls.

    Measure the reference with this sandbox (`Outcome.cpu_seconds`), so that both include the same set-up.

    Args:
        reference_cpu_seconds: CPU time of the reference solution.
        factor: How many times that a program may take.
        floor: Least CPU limit, in seconds: below it, noise decides.
        ceiling: Greatest CPU limit, in seconds.

    Returns:
        Default limits with `cpu_seconds = min(ceiling, max(floor, factor * reference))` and ten times that, and at
        least ten seconds, of elapsed time.
    """
    cpu = min(ceiling, max(floor, factor * reference_cpu_seconds))
    return Limits(cpu_seconds=cpu, wall_seconds=max(10.0, 10.0 * cpu))


def verdict(outcome: Outcome, expected: Sequence[Any]) -> bool:
    """Whether a program returned what it should have.

    Args:
        outcome: What came of it.
        expected: The right value of every call; they never were in the program's process.

    Returns:
        Whether it ran to its end, every call returned a plain value, and each is `same` as expected.
    """
    if outcome.status != "done" or len(outcome.returned) != len(expected):
        return False
    return all(r.ok and same(r.value, e) for r, e in zip(outcome.returned, expected, strict=True))


def _forget() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
    _found.clear()


@atexit.register
def _close() -> None:
    for sandbox in set(_found.values()):
        sandbox.close()
    _found.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
