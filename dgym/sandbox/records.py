"""The records and the Protocol of the sandbox: what is to be run, under which limits, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dgym.errors import InfrastructureError

Status = Literal["done", "error", "time", "memory", "output", "killed"]
"""How a program ended: *done* ran to its end; *error* raised, did not compile, lacks the function or left early;
*time*, *memory* and *output* went over that limit; *killed* died of a signal, or its sandbox did."""


class SandboxError(InfrastructureError):
    """Untrusted code cannot be isolated on this machine; the message says why and how to proceed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu_seconds: CPU time of the program and, as far as the kernel tells, of the processes it starts.
        wall_seconds: Elapsed time; generous, because a busy machine must not change a verdict.
        memory_bytes: Memory on top of the bare interpreter's.
        processes: Processes and threads that may exist at once, the program's own included.
        file_bytes: Largest file; all files together may hold four times that.
        output_bytes: What may be printed, and apart from that, what may be returned.
    """

    cpu_seconds: float = 1.0
    wall_seconds: float = 10.0
    memory_bytes: int = 256 << 20
    processes: int = 16
    file_bytes: int = 1 << 20
    output_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """Untrusted Python and what to do with it.

    Attributes:
        source: Text of a module.
        function: Name of a function in it, called once per entry of `arguments`; empty runs the text as a script.
        arguments: Positional arguments of each call: plain values (see `dgym.sandbox.plain`).
        stdin: What the program reads from its standard input.
        limits: What it may use, all calls together.
    """

    source: str
    function: str = ""
    arguments: tuple[tuple[Any, ...], ...] = ()
    stdin: str = ""
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Returned:
    """What one call gave. All of it was written by the program: data, never to be trusted or executed.

    Attributes:
        ok: Whether the call returned a plain value.
        value: That value.
        error: Otherwise what happened, such as `"ZeroDivisionError: division by zero"`, cut to a few hundred
            characters.
    """

    ok: bool
    value: Any = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a program.

    Attributes:
        status: How it ended.
        returned: The calls that finished before the end, in order.
        stdout: What it printed, up to the limit; bytes that are not UTF-8 are replaced.
        error: Why the status is not `"done"`, in words.
        cpu_seconds: CPU time that it used, as seen from outside, a millisecond or two of set-up included.
    """

    status: Status
    returned: tuple[Returned, ...] = ()
    stdout: str = ""
    error: str = ""
    cpu_seconds: float = 0.0


class Sandbox(Protocol):
    """A way to run untrusted programs, registered by the kind `"sandbox"` as a factory without arguments.

    One that keeps programs from nothing says so by an attribute `isolates = False`; without it, it isolates.

    Attributes:
        name: Its registered name.
    """

    name: str

    def run(self, programs: Sequence[Program]) -> list[Outcome]:
        """Runs every program in a fresh process of its own; never raises on what a program does.

        Args:
            programs: What to run. Several may run at once.

        Returns:
            One outcome per program, in the same order.
        """

    def close(self) -> None:
        """Ends every helper process; a later `run` starts new ones."""
