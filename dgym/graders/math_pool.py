"""Processes that compare answers as mathematics, so that no answer can hold up or bring down the one that grades.

A process is started when it is first needed and used again and again. A pair on which it runs out of processor time or
memory is not equal, and the process is replaced. Nothing here uses a signal handler, so any thread may ask; a fork of
this process starts processes of its own; the caller's `__main__` is not run again.

What this module does not know: the rules by which answers are compared (`dgym.graders.math_worker`).
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dgym.errors import InfrastructureError

START_SECONDS: Final = 120.0
"""How long a process may take to be ready; it loads sympy, which takes a second on a machine with nothing to do."""

SHARE: Final = 16
"""One more process is worth its start for each so many pairs."""

TRIES: Final = 10
"""How often a process may turn out to be gone: those that were idle may all have left."""

Pair = tuple[str, str, str]
"""Rules, reference and answer."""


@dataclass(frozen=True, slots=True)
class PairLimits:
    """What comparing one pair may take.

    Attributes:
        cpu_seconds: Processor time. It decides, so that a busy machine does not change a verdict.
        wall_seconds: Elapsed time, for what waits without computing.
        memory_bytes: Memory of the process.
        idle_seconds: How long a process without work stays.
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 120.0
    memory_bytes: int = 1 << 30
    idle_seconds: float = 60.0


class _GoneError(Exception):
    """The process was gone before it took the pair."""


class _Process:
    """One process and the pipes to it; used by one thread at a time."""

    def __init__(self, limits: PairLimits) -> None:
        self._limits = limits
        numbers = (str(limits.cpu_seconds), str(limits.memory_bytes), str(limits.idle_seconds))
        # The same packages as here, wherever they come from; hashes, and with them sympy's order, the same everywhere.
        folders = [str(Path(folder or ".").resolve()) for folder in sys.path]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dgym.graders.math_worker", *numbers],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(folders), "PYTHONHASHSEED": "0"},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise InfrastructureError(f"The process that compares answers cannot be started: {error}.") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._said = b""
        state = self._line(time.monotonic() + START_SECONDS)
        if state != b"ready":
            self.close()
            why = state.decode(errors="replace") if state else "it ended, or was not ready in time"
            raise InfrastructureError(f"The process that compares answers cannot be started: {why}.")

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, pair: Pair) -> bool | None:
        """Returns whether a pair is equal, `None` where that took too much elapsed time.

        Raises:
            _GoneError: If it had ended before.
        """
        try:
            self._stdin.write(json.dumps(pair).encode() + b"\n")
        except OSError as error:
            raise _GoneError from error
        deadline = time.monotonic() + self._limits.wall_seconds
        if (taken := self._line(deadline)) == b"":
            raise _GoneError
        verdict = self._line(deadline) if taken else None
        if not verdict:
            self.close()
        return None if verdict is None else verdict == b"true"

    def _line(self, deadline: float) -> bytes | None:
        """Returns the next line; an empty one if the process ends, `None` if it is silent for too long."""
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        while b"\n" not in self._said:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            chunk = os.read(self._stdout.fileno(), 4096)
            if not chunk:
                return b""
            self._said += chunk
        line, _, self._said = self._said.partition(b"\n")
        return line

    @property
    def alive(self) -> bool:
        return not self._stdin.closed

    def close(self) -> None:
        """Ends it at once."""
        self.forget()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Closes the pipes to it."""
        self._stdin.close()
        self._stdout.close()

    def abandon(self) -> None:
        """Lets go of a process that belongs to the one this was forked from."""
        self.forget()
        self._process.returncode = 0  # not ours to wait for


class MathPool:
    """Compares pairs on as many processes as there are processors, at most 8.

    Args:
        limits: What a pair may take.
        size: Most processes, instead.
    """

    def __init__(self, limits: PairLimits | None = None, size: int = 0) -> None:
        self._limits = limits or PairLimits()
        here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._size = size or min(8, here)
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._size)
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that there are."""
        with self._lock:
            return tuple(sorted(process.pid for process in self._all))

    def equal(self, pair: Pair) -> bool | None:
        """Returns whether a pair is equal; `None` where the machine was too busy to say, which counts as no.

        Raises:
            InfrastructureError: If no process can be started.
        """
        with self._slots:
            for _ in range(TRIES):
                process = self._borrow()
                try:
                    return process.ask(pair)
                except _GoneError:
                    process.close()
                except BaseException:
                    process.close()  # its answer is still to come, and belongs to no other pair
                    raise
                finally:
                    self._give_back(process)
        raise InfrastructureError("The processes that compare answers end as soon as they are started.")

    def equal_all(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """Compares pairs side by side; verdicts in their order."""
        verdicts: list[bool | None] = [None] * len(pairs)
        indices = iter(range(len(pairs)))
        failures: list[BaseException] = []
        lock = threading.Lock()

        def work() -> None:
            try:
                while not failures:
                    with lock:
                        index = next(indices, None)
                    if index is None:
                        return
                    verdicts[index] = self.equal(pairs[index])
            except BaseException as error:  # handed to the caller's thread below
                failures.append(error)

        helpers = min(self._size - 1, len(pairs) // SHARE)
        threads = [threading.Thread(target=work, daemon=True) for _ in range(helpers)]
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return verdicts

    def _borrow(self) -> _Process:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        process = _Process(self._limits)
        with self._lock:
            self._all.add(process)
        return process

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            if process.alive:
                self._idle.append(process)
            else:
                self._all.discard(process)

    def close(self) -> None:
        """Ends all processes; later pairs start new ones."""
        with self._lock:
            processes, self._all, self._idle = self._all, set(), []
        for process in processes:
            process.close()

    def _abandon(self) -> None:
        processes = self._all
        self._reset()
        for process in processes:
            process.abandon()


_pools: weakref.WeakSet[MathPool] = weakref.WeakSet()


def _each(action: str) -> None:
    for pool in list(_pools):
        getattr(pool, action)()


atexit.register(_each, "close")
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _each("_abandon"))
