"""The host's side of a teacher's process: requests, replies, limits, and what went wrong in words.

Everything that comes from the process is data. It is read up to a limit, decoded strictly, and never executed.

What this module does not know: what a teacher's process sees (`dgym.isolation.places`), and episodes.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from dgym.errors import TeacherError, UsageError, unknown_name
from dgym.isolation.protocol import VERSION, ProtocolError, from_line, to_line
from dgym.sandbox.session import Command, Session, SessionLimits

LOG: Final = 1 << 16
"""How much of what a process says on standard error is kept: the last bytes."""

CHUNK: Final = 1 << 16

END_SECONDS: Final = 2.0
"""How long a process that has closed its output may take to end by itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a teacher's process may use for one plan, or for one batch of items.

    Attributes:
        seconds: Elapsed time of one request; generous, because a busy machine must not change a score.
        cpu_seconds: CPU time of the process, from its start to its end.
        memory_mb: Memory that it holds, in MiB.
        output_mb: Largest reply, in MiB.
        file_mb: Largest file in its empty folder, in MiB; all together may hold four times that.
        processes: Processes and threads that may exist at once.
    """

    seconds: float = 1800.0
    cpu_seconds: float = 900.0
    memory_mb: int = 2048
    output_mb: int = 64
    file_mb: int = 64
    processes: int = 64

    def __post_init__(self) -> None:
        for f in fields(self):
            if not getattr(self, f.name) > 0:
                raise UsageError(f"The limit {f.name} must be above 0.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Limits:
        """Reads limits from a table.

        Raises:
            UsageError: If there is no such limit, or it is no number above 0.
        """
        for name, value in given.items():
            if name not in {f.name for f in fields(cls)}:
                raise unknown_name("limit of a teacher's process", name, [f.name for f in fields(cls)])
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise UsageError(f"The limit {name} must be a number, and is {value!r}.")
        return cls(**given)

    @property
    def of_session(self) -> SessionLimits:
        """The limits that the sandbox holds."""
        return SessionLimits(self.cpu_seconds, int(self.memory_mb) << 20, int(self.processes), int(self.file_mb) << 20)


Answerer = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Answers a question to a language model: the question as it came, to `{"value": ...}` or `{"error": "..."}`."""


class TeacherProcess:
    """A teacher that runs in the sandbox; used by one thread at a time.

    Args:
        command: What to run.
        limits: What it may use.
        answer: Answers its questions to language models.
    """

    def __init__(self, command: Command, limits: Limits, answer: Answerer) -> None:
        """Starts the process.

        Raises:
            SandboxError: If nothing can be isolated on this machine.
        """
        self._limits, self._answer = limits, answer
        self._session = Session(command, limits.of_session)
        self._said, self._log = bytearray(), bytearray()
        self._number = 0
        self._failed = ""

    def hello(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Begins the conversation and returns what the teacher says of itself.

        Raises:
            TeacherError: If it says nothing, or speaks another version of the protocol.
        """
        reply = self.ask("hello", protocol=VERSION, params=dict(params))
        if reply.get("protocol") != VERSION:
            raise self._failure(f"it speaks version {reply.get('protocol')!r} of the protocol, not {VERSION}")
        return reply

    def ask(self, kind: str, **content: Any) -> dict[str, Any]:
        """Sends a request and returns its reply; questions to language models are answered meanwhile.

        Raises:
            TeacherError: If it fails, in the teacher's own words; or if the process went over a limit, ended, or wrote
                what the protocol does not know. It is then of no more use.
        """
        if self._failed:
            raise TeacherError(self._failed)
        deadline = time.monotonic() + self._limits.seconds
        number, self._number = self._number, self._number + 1
        self._write(to_line({"id": number, "type": kind, **content}), deadline, kind)
        while True:
            try:
                reply = from_line(self._line(deadline, kind))
            except ProtocolError as error:
                raise self._failure(f"{error} (in answer to {kind!r})") from error
            if reply.get("id") != number:
                raise self._failure(f"it answered request {reply.get('id')!r} when {number} was asked")
            if reply.get("type") == "chat":
                answer = {"type": "chat", "call": reply.get("call"), **self._answer(reply)}
                self._write(to_line(answer), deadline, kind)
                continue
            if reply.get("type") == "error":
                said = " ".join(str(reply.get("message", "")).split())[:500]
                raise TeacherError(f"The teacher failed in {kind!r}: {said or 'it does not say why'}")
            return reply

    def close(self) -> None:
        """Ends the process; closing twice is harmless."""
        if not self._failed:
            self._failed = "The teacher's process has been closed."
            self._session.ended()

    def forget(self) -> None:
        """Lets go of a process that belongs to the one this was forked from."""
        self._failed = "The teacher's process belongs to another process."
        self._session.forget()

    def _write(self, line: bytes, deadline: float, kind: str) -> None:
        view = memoryview(line)
        os.set_blocking(self._session.stdin, False)
        poll = select.poll()
        poll.register(self._session.stdin, select.POLLOUT)
        while view:
            # It may be writing, too: a log that nobody reads would hold both up.
            self._drain_log()
            if time.monotonic() > deadline:
                raise self._failure(f"it did not read its request for {self._limits.seconds:g} s in {kind!r}")
            poll.poll(100)
            try:
                view = view[os.write(self._session.stdin, view[:CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._failure(f"it ended before it had read its request ({kind!r})") from error

    def _line(self, deadline: float, kind: str) -> bytes:
        most = int(self._limits.output_mb * (1 << 20))
        poll = select.poll()
        for fd in (self._session.stdout, self._session.stderr, self._session.control):
            poll.register(fd, select.POLLIN)
        while (end := self._said.find(b"\n")) < 0:
            if len(self._said) > most:
                raise self._failure(f"it wrote more than {self._limits.output_mb} MiB in answer to {kind!r}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._failure(f"it took more than {self._limits.seconds:g} s for {kind!r}")
            ready = [fd for fd, _ in poll.poll(min(left, 3600) * 1000)]
            if self._session.stderr in ready and not self._drain_log():
                poll.unregister(self._session.stderr)
            if self._session.stdout in ready:
                chunk = _read(self._session.stdout)
                self._said += chunk or b""
                if chunk == b"" and b"\n" not in self._said:
                    # How it ended is told a moment after its last word.
                    select.select([self._session.control], [], [], END_SECONDS)
                    raise self._failure(f"it ended in {kind!r}")
            elif self._session.control in ready:
                raise self._failure(f"it ended in {kind!r}")
        line = bytes(self._said[:end])
        del self._said[: end + 1]
        return line

    def _drain_log(self) -> bool:
        """Reads standard error; returns whether more may come."""
        while chunk := _read(self._session.stderr):
            self._log += chunk
            del self._log[:-LOG]
        return chunk is None

    def _failure(self, what: str) -> TeacherError:
        """Ends the process and says why, with the end of its log."""
        with contextlib.suppress(OSError):
            self._drain_log()
        why = self._session.ended().why
        log = [line for line in self._log.decode(errors="replace").splitlines() if line.strip()]
        said = f" It said last: {log[-1].strip()[:300]}" if log else ""
        self._failed = f"The teacher's process is of no more use: {what}{f': {why}' if why else ''}.{said}"
        return TeacherError(self._failed)


def _read(fd: int) -> bytes | None:
    """Returns what is there, `None` if there is nothing yet, and no bytes at the end."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
