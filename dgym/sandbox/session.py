"""Sessions: one command that runs in the sandbox for as long as it is needed and is spoken to over pipes.

Programs (`dgym.sandbox.Sandbox.run`) are Python and end after their calls. A session is any executable, sees the files
that it is given beside what an interpreter needs, and answers as often as it is asked. The isolation is the same:
namespaces or bubblewrap, Landlock, seccomp, no network, an environment of its own, an empty `/tmp`.

What this module does not know: what is spoken over the pipes.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from dgym.sandbox import find_sandbox
from dgym.sandbox.bubblewrap import arguments
from dgym.sandbox.records import SandboxError
from dgym.sandbox.runner import CPU, CROWD, MEMORY, NOT_STARTED, RESULT, TOLD
from dgym.sandbox.worker import ENVIRONMENT, RUNNER, Worker, command, interpreter

USUAL: Final[Mapping[str, str]] = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
}
"""What a session's environment holds unless it is given another."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a session may use, from its start to its end.

    Attributes:
        cpu_seconds: CPU time of all its processes.
        memory_bytes: Memory that its processes hold; what they share counts once.
        processes: Processes and threads that may exist at once.
        file_bytes: Largest file; all files together may hold four times that.
    """

    cpu_seconds: float = 600.0
    memory_bytes: int = 2 << 30
    processes: int = 64
    file_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended, as its helper saw it.

    Attributes:
        why: In words; empty if it was told to end or left by itself with status 0.
        cpu_seconds: CPU time that it used.
    """

    why: str
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Command:
    """What a session runs.

    Attributes:
        words: The executable, by its whole path, and its arguments. `{/name}` in a word stands for one of `files`.
        files: By the name under which the command sees them: files and folders of this machine, read-only.
        environment: Its whole environment.
    """

    words: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(USUAL))


class Session:
    """A command that is running, and the pipes to it; used by one thread at a time.

    Attributes:
        stdin: File descriptor of the command's standard input, to write to.
        stdout: Of its standard output, to read from; does not block.
        stderr: Of its standard error; does not block.
    """

    def __init__(self, what: Command, limits: SessionLimits | None = None) -> None:
        """Starts the command in the sandbox that works on this machine.

        Raises:
            SandboxError: If nothing can be isolated here, or the helper cannot be started.
        """
        self._limits = limits or SessionLimits()
        self._ended: Ended | None = None
        self._folder = ""
        provider = find_sandbox().name
        if provider == "unsafe":
            self._folder = tempfile.mkdtemp(prefix="dgym-session-")
        session = {
            "command": list(what.words),
            "files": dict(what.files),
            "environment": dict(what.environment),
            "limits": asdict(self._limits),
            "folder": self._folder,
            "needed": {} if provider == "unsafe" else needed(),
        }
        given: list[int] = []
        self.stdin = self.stdout = self.stderr = -1
        try:
            self._worker = Worker(_words(provider, json.dumps(session), what.files))
            into, self.stdin = os.pipe()
            given.append(into)
            for name in ("stdout", "stderr"):
                ours, theirs = os.pipe()
                setattr(self, name, ours)
                given.append(theirs)
                os.set_blocking(ours, False)
            self._worker.give(b"begin", given)
        except BaseException:
            self._close_pipes()
            self._remove()
            raise
        finally:
            for fd in given:
                os.close(fd)

    @property
    def control(self) -> int:
        """File descriptor that becomes readable when the session has ended."""
        return self._worker.fileno()

    def ended(self) -> Ended:
        """Ends the session if it is still there, and says how it ended."""
        if self._ended is None:
            message = self._worker.end(RESULT.size)
            self._ended = _said(RESULT.unpack(message), self._limits) if message else Ended("its sandbox died")
            self._worker.close()
            self._close_pipes()
            self._remove()
        return self._ended

    def _close_pipes(self) -> None:
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdin = self.stdout = self.stderr = -1

    def _remove(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def forget(self) -> None:
        """Lets go of a session that belongs to the process this one was forked from."""
        self._worker.forget()
        self._close_pipes()
        self._ended = Ended("it belongs to another process")


@functools.cache
def needed() -> dict[str, list[str]]:
    """Returns what an interpreter needs, see `dgym.sandbox.runner.files`."""
    done = subprocess.run(command("files"), env=ENVIRONMENT, capture_output=True, check=True, timeout=60)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def python(*arguments: str) -> list[str]:
    """Returns the words of a Python without packages: the interpreter that every session sees."""
    return [interpreter(), "-P", "-s", "-S", "-X", "utf8", *arguments]


def libraries(executable: str) -> list[str]:
    """Lists the shared libraries of an executable, the loader among them, as the loader itself finds them.

    The executable is asked for its libraries by the loader and not run; anything that has none gives an empty list.
    """
    tool = shutil.which("ldd")
    if tool is None:
        return []
    try:
        done = subprocess.run([tool, executable], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    words = [word for line in done.stdout.splitlines() for word in line.split() if word.startswith("/")]
    return [word for word in dict.fromkeys(words) if Path(word).is_file()]


def _words(provider: str, session: str, files: Mapping[str, str]) -> list[str]:
    if provider == "namespaces":
        return [*command("namespaces"), session]
    if provider == "unsafe":
        return [*command("bare"), session]
    tool = shutil.which("bwrap")
    if tool is None:
        raise SandboxError(f"The sandbox {provider!r} cannot run sessions, only programs.")
    words = command("inside")
    words[words.index(str(RUNNER))] = f"/run/dgym/{RUNNER.name}"
    # The parent is the thread that starts it, which need not live as long; the helper ends when its socket closes.
    *before, end = [word for word in arguments(needed()) if word != "--die-with-parent"]
    shown = [word for name, path in files.items() for word in ("--ro-bind", os.path.realpath(path), name)]
    at = before.index("--dev")
    return [tool, *before[:at], *shown, *before[at:], end, *words, session]


def _said(result: tuple[int, int, float], limits: SessionLimits) -> Ended:
    reason, code, cpu = result
    why = {
        CPU: f"it took more than {limits.cpu_seconds:g} s of CPU time",
        MEMORY: f"it used more than {limits.memory_bytes >> 20} MiB of memory",
        CROWD: f"it started more than {limits.processes} processes",
        TOLD: "",
    }
    if reason in why:
        return Ended(why[reason], cpu)
    if os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        if number == signal.SIGXCPU:
            return Ended(why[CPU], cpu)
        return Ended(f"it died of {signal.Signals(number).name if number in set(signal.Signals) else number}", cpu)
    status = os.WEXITSTATUS(code)
    if status == NOT_STARTED:
        return Ended("its command cannot be started", cpu)
    return Ended(f"it left with status {status}" if status else "", cpu)
