"""Processes that answer requests within limits: for graders that may hang, crash or take all memory.

A worker is a Python process that imports one function and calls it for every request, a line of JSON in and a line of
JSON out. One that takes too long, or dies, is replaced, and its request is answered with the reason. Nothing here
relies on signals in the calling process, so any thread may ask, and the caller's `__main__` is not run again. Workers
hash texts with a fixed seed, so that what follows the order of a set is the same in all of them.

What this module does not know: what is asked. It is no sandbox: text that is handed to a worker must not be run there.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from dgym.errors import InfrastructureError, one_line

START_SECONDS: Final = 120.0
"""How long a worker may take to import its function."""

WALL_FACTOR: Final = 20.0
"""How much more elapsed time than processor time a request may take, on a machine with much else to do."""

IDLE_SECONDS: Final = 60.0
"""How long a worker without work stays."""

MEMORY_BYTES: Final = 4 << 30
"""How much address space a worker may take."""

_ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",
    "PYTHONSAFEPATH": "1",
    # One request is one thread's work; pools of threads would also take address space by the processor.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_CHUNK: Final = 1 << 16
_FEWEST: Final = 8  # requests that are worth one more process


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request.

    Attributes:
        value: What the function returned, as JSON gives it back; `None` where it did not return.
        lost: Why it did not: it took too long, its process died, or it raised. Empty where it did.
        error: What it raised, in a line.
    """

    value: Any = None
    lost: Literal["", "time", "died", "error"] = ""
    error: str = ""


class _GoneError(Exception):
    """The process had ended before it took the request."""


class _Worker:
    """One process and the pipes to it; used by one thread at a time."""

    def __init__(self, function: str) -> None:
        # The same packages as here, wherever they come from.
        path = os.pathsep.join(dict.fromkeys(str(Path(folder or ".").resolve()) for folder in sys.path))
        # What a library writes to the current folder, such as a program of codeio that it runs, is nobody's business.
        self._folder = tempfile.mkdtemp(prefix="dgym-grader-")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "utf8", "-m", "dgym.graders.worker", function],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
                start_new_session=True,
                cwd=self._folder,
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise InfrastructureError(f"The process that runs {function} cannot be started: {error}.") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._rest = b""
        ready = self._read(time.monotonic() + START_SECONDS)
        if not ready or "error" in ready:
            self.close()
            why = ready["error"] if ready else "it ended, or was not ready in time"
            raise InfrastructureError(f"The process that runs {function} cannot be started: {why}.")

    def ask(self, value: Any, seconds: float) -> Reply:
        """Asks; a worker that loses the request has ended.

        Raises:
            _GoneError: If it had ended before, for want of work.
        """
        line = memoryview(json.dumps([seconds, value]).encode() + b"\n")
        try:
            while line:
                line = line[self._stdin.write(line) or 0 :]
        except OSError as error:
            raise _GoneError from error
        deadline = time.monotonic() + WALL_FACTOR * seconds
        taken = self._read(deadline)
        if taken == {}:
            raise _GoneError
        answer = self._read(deadline) if taken else None
        if answer is None:
            self.close()
            return Reply(lost="time")
        if not answer:
            ended = self.close()
            return Reply(lost="time" if ended == -signal.SIGPROF else "died")
        if "error" in answer:
            return Reply(lost="error", error=answer["error"])
        return Reply(answer["value"])

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._stdin.closed

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """Returns the next line; an empty one if the process ends, `None` if it is silent for too long."""
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        parts = [self._rest]
        while b"\n" not in parts[-1]:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            parts.append(os.read(self._stdout.fileno(), _CHUNK))
            if not parts[-1]:
                return {}
        line, _, self._rest = b"".join(parts).partition(b"\n")
        value: dict[str, Any] = json.loads(line)
        return value

    def close(self) -> int:
        """Ends the process at once; returns how it ended."""
        self._stdin.close()
        self._stdout.close()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(0.1)  # one that is ending by itself says why
            self._process.kill()
            return self._process.wait()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def abandon(self) -> None:
        """Lets go of a process that belongs to the one this was forked from."""
        self._stdin.close()
        self._stdout.close()
        self._process.returncode = 0  # not ours to wait for


class Workers:
    """Up to a number of processes that run one function; started when they are first needed.

    Args:
        function: `"package.module:name"`; it takes and returns JSON values.
        most: How many processes there may be; by default one a processor, eight at most.
    """

    def __init__(self, function: str, most: int = 0) -> None:
        here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._function, self._most = function, most or min(8, here)
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._most)
        self._idle: list[_Worker] = []

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[_Worker]:
        with self._slots:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                worker = _Worker(self._function)
            try:
                yield worker
            except BaseException:
                worker.close()  # interrupted between a request and its reply
                raise
            if worker.alive:
                with self._lock:
                    self._idle.append(worker)

    def _one(self, request: Any, seconds: float) -> Reply:
        while True:
            try:
                with self._borrowed() as worker:
                    return worker.ask(request, seconds)
            except _GoneError:
                continue

    def ask(self, requests: Sequence[Any], seconds: float) -> list[Reply]:
        """Asks for each request what the function makes of it.

        Args:
            requests: JSON values.
            seconds: How much processor time each may take.

        Returns:
            The replies, in the order of the requests.

        Raises:
            InfrastructureError: If no process can be started.
        """
        replies: list[Reply | None] = [None] * len(requests)
        indices = iter(range(len(requests)))
        failures: list[BaseException] = []
        lock = threading.Lock()

        def work() -> None:
            try:
                while not failures:
                    with lock:
                        index = next(indices, None)
                    if index is None:
                        return
                    replies[index] = self._one(requests[index], seconds)
            except BaseException as error:  # handed to the caller's thread below
                failures.append(error)

        helpers = min(self._most - 1, len(requests) // _FEWEST)
        threads = [threading.Thread(target=work, daemon=True) for _ in range(helpers)]
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return [reply for reply in replies if reply is not None]

    def close(self) -> None:
        """Ends the processes that are not at work; later requests start new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def _abandon(self) -> None:
        idle = self._idle
        self._reset()
        for worker in idle:
            worker.abandon()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process starts workers of its own."""
        return Workers, (self._function, self._most)


_all: weakref.WeakSet[Workers] = weakref.WeakSet()


def _each(action: str) -> None:
    for workers in list(_all):
        getattr(workers, action)()


atexit.register(_each, "close")
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _each("_abandon"))


def serve(name: str) -> None:
    """Answers requests from standard input until there are none; what a worker process runs."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no reply

    def say(**value: Any) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    try:
        module, _, attribute = name.partition(":")
        function: Callable[[Any], Any] = getattr(import_module(module), attribute)
        _limit_memory()
    except Exception as error:
        say(error=one_line(error)[:500])
        return
    say(ready=True)
    while select.select([0], [], [], IDLE_SECONDS)[0] and (line := sys.stdin.readline()):
        seconds, value = json.loads(line)
        say(taken=True)
        # By default this timer's signal ends the process, whatever it is at; it counts the time of user and system.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            answer = {"value": function(value)}
        except Exception as error:
            answer = {"error": one_line(error)[:500]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        say(**answer)


def _limit_memory() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    serve(sys.argv[1])
