"""The host's side: starts helper processes, hands programs to them and reads what comes back.

A program's standard output and report arrive through pipes that only this program's processes can write to, and
are read here up to a limit. How it ended arrives through the helper's socket. All of the decisions are made here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dgym.sandbox.plain import PlainError, decode, encode
from dgym.sandbox.records import Outcome, Program, Returned, SandboxError, Status
from dgym.sandbox.runner import CPU, CROWD, EXITED, FRAME, JOB, MEMORY, RESULT, WALL

RUNNER = Path(__file__).with_name("runner.py")
"""The script that helper processes run."""

START_SECONDS = 30.0
"""How long a helper may take to be ready."""

GRACE_SECONDS = 10.0
"""How long past a program's wall limit a helper may be silent before it counts as broken."""

ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""All that a helper's environment holds; it clears even that before the first program."""


class WorkerLostError(Exception):
    """A helper process was gone before it took a program."""


def interpreter() -> str:
    """Returns the Python to run helpers with: the one under a virtual environment, so that no packages come along."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def command(mode: str) -> list[str]:
    """Returns the command line of a helper."""
    return [interpreter(), "-P", "-s", "-S", "-X", "utf8", str(RUNNER), mode]


def hints() -> str:
    """Says what on this machine forbids namespaces, as far as its settings tell."""
    known = (
        ("user/max_user_namespaces", "0", "1000"),
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    )
    found = []
    for name, bad, good in known:
        try:
            value = Path("/proc/sys", name).read_text().strip()
        except OSError:
            continue
        if value == bad:
            setting = name.replace("/", ".")
            found.append(f"{setting} is {bad}: an administrator can allow it with `sysctl {setting}={good}`")
    return "; ".join(found)


class Worker:
    """One helper process and the socket to it; used by one thread at a time."""

    def __init__(self, words: Sequence[str], folder: str = "/") -> None:
        """Starts the helper and waits until it is ready.

        Args:
            words: Its command line.
            folder: Its working directory.

        Raises:
            SandboxError: If it cannot be started or cannot set up its isolation.
        """
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.folder = folder
        try:
            with theirs:
                self._process = subprocess.Popen(
                    words,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=ENVIRONMENT,
                    cwd=folder,
                    start_new_session=True,
                )
        except OSError as error:
            self._socket.close()
            raise SandboxError(f"{words[0]} cannot be started: {error.strerror}") from error
        self.pid = self._process.pid
        self._socket.settimeout(START_SECONDS)
        try:
            text = self._socket.recv(4096).decode(errors="replace")
        except OSError as error:
            text = f"failed {error}"
        self._socket.settimeout(None)
        state, _, self.detail = text.partition(" ")
        if state != "ready":
            self.close(kill=True)
            raise SandboxError(self.detail or "the helper process died while it was set up")

    def run(self, program: Program) -> Outcome:
        """Runs one program.

        Raises:
            WorkerLostError: If the helper was gone before it took the program.
        """
        limits = program.limits
        try:
            request = encode((program.source, program.function, [list(a) for a in program.arguments]))
        except PlainError as error:
            return Outcome("error", error=f"the arguments cannot be passed: {error}")
        given: list[int] = []
        kept: list[int] = []
        try:
            given.append(_file(request))
            given.append(_file(program.stdin.encode("utf-8", "surrogatepass")))
            for _ in range(2):
                ours, theirs = os.pipe()
                kept.append(ours)
                given.append(theirs)
                os.set_blocking(ours, False)
            job = JOB.pack(
                limits.cpu_seconds, limits.wall_seconds, limits.memory_bytes, limits.processes, limits.file_bytes
            )
            try:
                socket.send_fds(self._socket, [job], given)
            except OSError as error:
                raise WorkerLostError from error
            for fd in given:
                os.close(fd)
            given = []
            return self._collect(program, kept)
        finally:
            for fd in (*given, *kept):
                os.close(fd)

    def _collect(self, program: Program, pipes: list[int]) -> Outcome:
        limits = program.limits
        reader = {fd: bytearray() for fd in pipes}
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        for fd in pipes:
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + limits.wall_seconds + GRACE_SECONDS
        flooded = False
        result: tuple[int, int, float] | None = None
        while True:
            ready = [fd for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
            if not ready:
                break
            for fd in reader.keys() & ready:
                if not _drain(fd, reader[fd], limits.output_bytes):
                    poll.unregister(fd)
                if len(reader[fd]) > limits.output_bytes and not flooded:
                    flooded = True
                    try:
                        self._socket.send(b"stop")
                    except OSError:
                        break
            if self._socket.fileno() in ready:
                try:
                    message = self._socket.recv(256)
                except OSError:
                    message = b""
                if len(message) == RESULT.size:
                    result = RESULT.unpack(message)
                break
        if result is None:
            self.close(kill=True)
        for fd, data in reader.items():
            while len(data) <= limits.output_bytes and _drain(fd, data, limits.output_bytes):
                pass
            flooded = flooded or len(data) > limits.output_bytes
        printed, report = (bytes(reader[fd]) for fd in pipes)
        return _outcome(program, result, printed, report, flooded)

    def give(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Hands descriptors to the helper of a session.

        Raises:
            SandboxError: If it is gone.
        """
        try:
            socket.send_fds(self._socket, [message], list(descriptors))
        except OSError as error:
            raise SandboxError("the helper process died before it began") from error

    def fileno(self) -> int:
        """The socket's descriptor, which becomes readable when a session has ended."""
        return self._socket.fileno()

    def end(self, size: int) -> bytes:
        """Tells the helper to end its session and returns its last message of so many bytes; empty if it is gone."""
        self._socket.settimeout(GRACE_SECONDS)
        with contextlib.suppress(OSError):  # it may have ended, and its message be there still
            self._socket.send(b"stop")
        try:
            message = self._socket.recv(256)
        except OSError:
            return b""
        return message if len(message) == size else b""

    @property
    def alive(self) -> bool:
        """Whether the helper can still be asked."""
        return self._socket.fileno() >= 0

    def close(self, kill: bool = False) -> None:
        """Ends the helper, and with it whatever it is running."""
        self._socket.close()
        if kill:
            self._process.kill()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Lets go of a helper that belongs to the process this one was forked from."""
        self._socket.close()
        self._process.returncode = 0  # not ours to wait for


def _file(data: bytes) -> int:
    fd = os.memfd_create("data", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _drain(fd: int, data: bytearray, limit: int) -> bool:
    """Reads what is there, at most one byte over the limit; returns whether more may come."""
    room = limit + 1 - len(data)
    if room <= 0:
        return False
    try:
        chunk = os.read(fd, min(room, 1 << 16))
    except BlockingIOError:
        return False
    data += chunk
    return bool(chunk)


def _outcome(
    program: Program, result: tuple[int, int, float] | None, printed: bytes, report: bytes, flooded: bool
) -> Outcome:
    """Turns what the helper says, which counts, and what the program wrote, which is data, into an outcome."""
    limits = program.limits
    returned, end = _read(report, len(program.arguments) if program.function else 0)
    stdout = printed[: limits.output_bytes].decode("utf-8", "replace")

    def make(status: Status, error: str = "") -> Outcome:
        return Outcome(status, returned, stdout, error, result[2] if result else 0.0)

    if result is None:
        return make("killed", "the sandbox process died")
    reason, code, cpu = result
    if flooded:
        return make("output", f"wrote more than {limits.output_bytes} bytes")
    if reason == CPU or (reason == EXITED and cpu > limits.cpu_seconds):
        return make("time", f"took more than {limits.cpu_seconds:g} s of CPU time")
    if reason == WALL:
        return make("time", f"ran for more than {limits.wall_seconds:g} s")
    if reason == MEMORY:
        return make("memory", f"used more than {limits.memory_bytes} bytes")
    if reason == CROWD:
        return make("killed", f"started more than {limits.processes} processes")
    if os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        if number == signal.SIGXCPU:
            return make("time", "took too much CPU time")
        return make("killed", f"died of {signal.Signals(number).name if number in set(signal.Signals) else number}")
    status, error = end
    if status == "done" and len(returned) == (len(program.arguments) if program.function else 0):
        return make("done")
    if status in {"error", "memory", "killed"}:
        return make(status, error)  # type: ignore[arg-type]
    leaving = os.WEXITSTATUS(code)
    if not program.function and leaving == 0:
        return make("done")  # a script may leave by os._exit
    return make("error", f"left with status {leaving} before the end")


def _read(report: bytes, most: int) -> tuple[tuple[Returned, ...], tuple[str, str]]:
    """Reads a report up to the first thing in it that makes no sense."""
    returned: list[Returned] = []
    at = 0
    while len(report) - at >= FRAME.size:
        (length,) = FRAME.unpack_from(report, at)
        at += FRAME.size
        if length > len(report) - at:
            break
        try:
            frame: Any = decode(report[at : at + length])
        except PlainError:
            break
        at += length
        match frame:
            case ("call", True, value) if len(returned) < most:
                returned.append(Returned(True, value))
            case ("call", False, str(error)) if len(returned) < most:
                returned.append(Returned(False, error=error[:1000]))
            case ("end", str(status), str(error)):
                return tuple(returned), (status, error[:1000])
            case _:
                break
    return tuple(returned), ("", "")


class Pool(ABC):
    """Base of the providers: as many helpers as there are processors, started when they are first needed.

    Attributes:
        name: The provider's registered name.
        keeps: Whether a helper serves many programs.
        detail: Which layers of isolation are active, in words.
    """

    name: ClassVar[str] = ""
    keeps: ClassVar[bool] = False

    def __init__(self) -> None:
        """Starts one helper, to find out whether that is possible.

        Raises:
            SandboxError: If it is not.
        """
        self._size = max(1, min(8, len(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else 1
        self._reset()
        _pools.add(self)
        worker = self._start()
        self.detail = worker.detail
        self._idle.append(worker)
        self._all.add(worker)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._size)
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()

    @abstractmethod
    def _start(self) -> Worker:
        """Starts a helper."""

    def _finish(self, worker: Worker) -> None:
        """Ends a worker that is not used again."""
        worker.close()

    def run(self, programs: Sequence[Program]) -> list[Outcome]:
        """See `dgym.sandbox.Sandbox.run`."""
        outcomes: list[Outcome | None] = [None] * len(programs)
        indices = iter(range(len(programs)))
        failures: list[BaseException] = []

        def work() -> None:
            try:
                while not failures:
                    with self._lock:
                        index = next(indices, None)
                    if index is None:
                        return
                    with self._slots:
                        outcomes[index] = self._one(programs[index])
            except BaseException as error:  # handed to the caller's thread below
                failures.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self._size, len(programs)) - 1)]
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return [outcome for outcome in outcomes if outcome is not None]

    def _one(self, program: Program) -> Outcome:
        for _ in range(3):
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                worker = self._start()
                with self._lock:
                    self._all.add(worker)
            sound = False
            try:
                outcome = worker.run(program)
                sound = self.keeps and worker.alive
                return outcome
            except WorkerLostError:
                continue
            finally:
                with self._lock:
                    if sound:
                        self._idle.append(worker)
                    else:
                        self._all.discard(worker)
                if not sound:
                    self._finish(worker)
        return Outcome("killed", error="the sandbox process died")

    def close(self) -> None:
        """Ends the helpers that are not running a program; a later `run` starts new ones."""
        with self._lock:
            workers, self._idle = self._idle, []
            self._all.difference_update(workers)
        for worker in workers:
            self._finish(worker)

    def abandon(self) -> None:
        """Forgets helpers that another process started; called in a fork of it."""
        workers = self._all
        self._reset()
        for worker in workers:
            worker.forget()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process starts helpers of its own."""
        from dgym.sandbox import find_sandbox

        return find_sandbox, (self.name,)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _abandon(pools: Iterable[Pool]) -> None:
    for pool in list(pools):
        pool.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _abandon(_pools))
