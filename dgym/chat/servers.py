"""Model servers of one's own: started when first asked for, watched, shared, and ended with the run.

A server is any command that takes `MODEL --host HOST --port PORT --served-model-name MODEL`, answers
`GET /health` with 200 once it can be asked, and speaks OpenAI's protocol below `/v1`: vLLM's `vllm serve`, unless
`$DGYM_VLLM` names another. What this module does not know: requests, records, Ray.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Final, TypeVar

from dgym.cache import cache_folder
from dgym.chat.errors import ChatSetupError
from dgym.errors import DgymError, InfrastructureError

T = TypeVar("T")

COMMAND: Final = "vllm serve"
"""What starts a server where `$DGYM_VLLM` names nothing else."""

LOOPBACK: Final = "127.0.0.1"
"""Where a server listens that only this machine has to reach."""

PATIENCE: Final = 3600.0
"""Seconds until a server that lives must be healthy: weights may have to be downloaded first."""

GRACE: Final = 15.0
"""Seconds that a server has to end by itself."""

ELSEWHERE: Final = "set $DGYM_VLLM_URL to a running server"

_POLL: Final = 0.25
_SILENCE: Final = 30.0  # seconds in which a server whose process lives, and that does not answer, is waited for
_LOGS: Final = 20  # kept in the cache folder
_GUARD: Final = Path(__file__).with_name("guard.py")
# Not through a proxy, whatever the environment says.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_ERROR: Final = re.compile(r"(?:\b[\w.]*(?:Error|Exception)|\berror): \S.*")
_VAGUE: Final = re.compile(r"root cause|Engine core initialization failed|Engine process failed to start")


@dataclass(frozen=True)
class Serving:
    """How a server is started, beside what every one of them is given.

    Attributes:
        name: Under which the model is served; empty for the model's own name.
        arguments: Further words of the command; those of the environment's variable come after them.
        variable: The environment's variable with a person's own words.
        environment: Variables that the server sees beside those of this process.
        elsewhere: What a person may do who cannot have a server, as the end of a sentence.
    """

    name: str = ""
    arguments: Sequence[str] = ()
    variable: str = "DGYM_VLLM_ARGS"
    environment: Mapping[str, str] = field(default_factory=dict)
    elsewhere: str = ELSEWHERE


def command(elsewhere: str = ELSEWHERE) -> list[str]:
    """Returns the words of the command that starts a server, the first one as a path that exists.

    Args:
        elsewhere: What a person may do who has none, as the end of a sentence.

    Raises:
        ChatSetupError: If there is no such command; the message says what to do.
    """
    named = os.environ.get("DGYM_VLLM", "").strip()
    words = _words("DGYM_VLLM", named or COMMAND)
    # Beside the interpreter too: a virtual environment need not be activated.
    found = shutil.which(words[0]) or shutil.which(words[0], path=str(Path(sys.executable).parent))
    if found is None and named:
        raise ChatSetupError(f"$DGYM_VLLM names {words[0]!r}, which is no command; mend it, or {elsewhere}.")
    if found is None:
        raise ChatSetupError(
            f'vLLM is not installed: pip install "dgym[vllm]", set $DGYM_VLLM to the command that starts it, '
            f"or {elsewhere}."
        )
    return [found, *words[1:]]


def arguments(variable: str = "DGYM_VLLM_ARGS") -> list[str]:
    """Returns the further arguments of the command, from a variable of the environment.

    Raises:
        ChatSetupError: If they cannot be split into words.
    """
    return _words(variable, os.environ.get(variable, ""))


class ModelServer:
    """One server of one model, as a process group of its own; it is started when its address is asked for.

    The group ends with `stop`, with this process, however that ends, and when the server itself does. A server that
    died is started once more; one that could not be started is not tried again.

    Args:
        model: What is served, as the command takes it.
        host: The address that it listens at.
        patience: Seconds until it must be healthy.
        grace: Seconds that it has to end by itself.
        serving: How it is started, beside that.

    Attributes:
        model: What is served.
        log: The file that all it prints goes to.
        starts: How often it was started; what the server holds is gone whenever this grows.
    """

    def __init__(
        self,
        model: str,
        *,
        host: str = LOOPBACK,
        patience: float = PATIENCE,
        grace: float = GRACE,
        serving: Serving | None = None,
    ) -> None:
        self.model = model
        self.starts = 0
        safe = re.sub(r"[^\w.-]+", "-", model).strip("-.")[-80:]
        self.log = cache_folder() / "servers" / f"{safe}-{os.getpid()}-{id(self):x}.log"
        self._host, self._patience, self._grace = host, patience, grace
        self._serving = serving or Serving()
        self._lock, self._stopped = Lock(), Event()
        self._guard: subprocess.Popen[bytes] | None = None
        self._url = ""
        self._failure: DgymError | None = None

    def address(self) -> str:
        """Returns the base URL, such as `http://127.0.0.1:40123/v1`, once the server is healthy.

        Threads may ask at the same time; one of them starts it, and the others wait.

        Raises:
            ChatSetupError: If it cannot be started.
            InfrastructureError: If it died for the second time, did not become healthy, or was stopped.
        """
        with self._lock:
            if self._failure is not None:
                raise type(self._failure)(str(self._failure))
            if self._stopped.is_set():
                raise InfrastructureError(f"The server of {self.model!r} was stopped.")
            if self._guard is not None and self._guard.poll() is None:
                return self._url
            self._end()  # what a server that died has left
            how = self._serving
            # A mistake in these costs nothing, and may be mended.
            line = [*command(how.elsewhere), self.model, *how.arguments, *arguments(how.variable)]
            try:
                if self.starts == 2:
                    raise InfrastructureError(f"The server of {self.model!r} died twice: {self._said()}")
                self._start(line)
            except BaseException as error:
                self._end()
                if isinstance(error, DgymError) and not self._stopped.is_set():
                    self._failure = error
                raise
            return self._url

    def revive(self) -> str:
        """Returns the address once the server answers again, after a call to it was lost; see `address`.

        Its end is noticed a moment after the calls that it cut off. A server that goes on living without answering is
        not replaced.

        Raises:
            ChatSetupError: If it cannot be started.
            InfrastructureError: As `address`, and if it lives but does not answer.
        """
        deadline = time.monotonic() + _SILENCE
        while True:
            url = self.address()
            if _healthy(f"{url.removesuffix('/v1')}/health"):
                return url
            if time.monotonic() > deadline:
                raise InfrastructureError(f"The server of {self.model!r} does not answer: {self._said()}")
            if self._stopped.wait(_POLL):
                raise InfrastructureError(f"The server of {self.model!r} was stopped.")

    def stop(self) -> None:
        """Ends the server, also while it starts, and all that it started; asking again changes nothing."""
        self._stopped.set()  # whoever waits for it to become healthy sees that and lets go
        with self._lock:
            self._end()

    def _start(self, line: Sequence[str]) -> None:
        again = self.starts > 0
        self.starts += 1
        port = _free_port(self._host)
        place = ["--host", self._host, "--port", str(port), "--served-model-name", self._serving.name or self.model]
        guard = [sys.executable, "-I", str(_GUARD), str(os.getpid()), str(self._grace)]
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            _forget_old(self.log.parent)
            with self.log.open("ab" if again else "wb") as log:
                self._guard = subprocess.Popen(
                    [*guard, *line, *place],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._serving.environment},
                    start_new_session=True,  # a Ctrl-C is for us; the server is stopped when we are through
                )
        except OSError as error:
            raise InfrastructureError(
                f"The server of {self.model!r} cannot be started, {error.filename}: {error.strerror}."
            ) from error
        atexit.register(self.stop)
        self._url = f"http://{self._host}:{port}/v1"
        self._wait(f"http://{self._host}:{port}/health", again)

    def _wait(self, url: str, again: bool) -> None:
        deadline = time.monotonic() + self._patience
        assert self._guard is not None
        while True:
            healthy = _healthy(url)
            if self._guard.poll() is not None:
                text = f"The server of {self.model!r} ended while it started: {self._said()}"
                raise InfrastructureError(text) if again else ChatSetupError(text)
            if healthy:
                return
            if time.monotonic() > deadline:
                raise InfrastructureError(
                    f"The server of {self.model!r} was not healthy after {self._patience:g} s: {self._said()}"
                )
            if self._stopped.wait(_POLL):
                raise InfrastructureError(f"The server of {self.model!r} was stopped while it started.")

    def _end(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        atexit.unregister(self.stop)
        guard.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(self._grace + 5)
        with contextlib.suppress(ProcessLookupError):  # as a rule there is nobody left
            os.killpg(guard.pid, signal.SIGKILL)
        guard.wait()

    def _said(self) -> str:
        """Returns what the log says that is of use, and what to do."""
        said = last_words(self.log)
        said = said if said.endswith((".", "!")) else f"{said}."
        return f"{said} See {self.log}, mend $DGYM_VLLM or ${self._serving.variable}, or {self._serving.elsewhere}."


class LocalServers:
    """One server per model, of this process; threads may share it.

    Args:
        host: The address that the servers listen at.
    """

    def __init__(self, host: str = LOOPBACK) -> None:
        self._host, self._lock = host, Lock()
        self._servers: dict[str, ModelServer] = {}

    def address(self, model: str) -> str:
        """Returns the base URL of a model's server, which is started if there is none; see `ModelServer.address`."""
        with self._lock:
            if model not in self._servers:
                self._servers[model] = ModelServer(model, host=self._host)
            server = self._servers[model]
        return server.address()

    def stop(self) -> None:
        """Stops all servers; one that is asked for later is started anew."""
        with self._lock:
            servers, self._servers = list(self._servers.values()), {}
        for server in servers:
            server.stop()


def last_words(log: Path) -> str:
    """Returns the line of a log that says why a process ended: the last error that names one, else the last line."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 200_000))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [" ".join(re.sub(r"\x1b\[[0-9;]*m", "", line).split()) for line in text.splitlines()]
    lines = [line for line in lines if line]
    for line in reversed(lines):
        found = _ERROR.search(line)
        if found and not _VAGUE.search(line):
            return found[0][:300]
    return lines[-1][:300] if lines else "it printed nothing"


async def in_thread(work: Callable[[], T]) -> T:
    """Runs what blocks in a thread of its own, however many others do, and waits for it.

    The event loop's own threads are few, and the interpreter waits for them when it ends; a server takes minutes.
    """
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="dgym-waits", daemon=True).start()
    return await asyncio.wrap_future(future)


def _words(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ChatSetupError(f"${name} cannot be split into words: {error}.") from error


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


def _healthy(url: str) -> bool:
    try:
        with _OPENER.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, HTTPException):  # refused, reset, timed out, or not HTTP
        return False


def _forget_old(folder: Path) -> None:
    logs: Sequence[Path] = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
    for path in logs[:-_LOGS]:
        path.unlink(missing_ok=True)
