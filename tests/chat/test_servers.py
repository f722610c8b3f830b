"""Model servers as real processes: started once, shared, watched, ended with whoever started them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dgym.chat import find_chat, session
from dgym.chat.client import OpenAIChat
from dgym.chat.errors import ChatSetupError
from dgym.chat.ledger import recording
from dgym.chat.local import VllmChat
from dgym.chat.servers import LocalServers, ModelServer, last_words
from dgym.errors import InfrastructureError, UsageError
from tests.chat.conftest import ANSWER, ASKED, KIND
from tests.waiting import SOON, alive, until

SCRIPT = Path(__file__).with_name("stand_in_vllm.py")


@dataclass
class Vllm:
    """What `$DGYM_VLLM` stands for in a test."""

    folder: Path
    args: list[str] = field(default_factory=list)

    @property
    def starts(self) -> list[list[int]]:
        """The process ids of every start."""
        file = self.folder / "pids"
        return [[int(pid) for pid in line.split()] for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def alive(self) -> list[int]:
        return [pid for pids in self.starts for pid in pids if alive(pid)]


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the script the command that starts servers; whatever a test leaves behind is an error."""
    made = Vllm(tmp_path)
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DGYM_VLLM", shlex.join([sys.executable, str(SCRIPT)]))
    monkeypatch.delenv("DGYM_VLLM_URL", raising=False)

    def take(*args: object) -> Vllm:
        monkeypatch.setenv("DGYM_VLLM_ARGS", shlex.join(["--pids", str(tmp_path / "pids"), *map(str, args)]))
        return made

    take()
    yield take
    session.current().servers.stop()
    assert not made.alive


# Starting and sharing ----------------------------------------------------------------------------------------------


def test_a_model_is_served_at_the_first_call_and_shared_by_the_next(vllm) -> None:
    seen = vllm()
    chat = find_chat("vllm:org/small")
    chat.check()
    assert not seen.starts
    with recording() as calls:
        for seed in (1, 2, 1):
            assert chat.complete(ASKED, KIND, seed) == ANSWER
    assert find_chat("vllm:org/small").complete(ASKED, KIND, 3) == ANSWER
    assert len(seen.starts) == len(seen.alive) == 1
    assert [(call.model, call.cache_hit, call.cost) for call in calls] == [
        ("vllm:org/small", False, 0.0),
        ("vllm:org/small", False, 0.0),
        ("vllm:org/small", True, 0.0),
    ]


def test_threads_that_ask_at_the_same_time_share_one_process(vllm, tmp_path: Path) -> None:
    seen = vllm("--wait-for", tmp_path / "go")
    servers = LocalServers()
    try:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(servers.address, "m") for _ in range(8)]
            until(lambda: seen.starts)
            assert not any(one.done() for one in asked), "nobody is told an address where nothing listens"
            (tmp_path / "go").touch()
            assert len({one.result(SOON) for one in asked}) == 1
        assert len(seen.starts) == 1
    finally:
        servers.stop()


def test_each_model_has_a_server(vllm) -> None:
    seen = vllm()
    servers = session.current().servers
    assert servers.address("a") != servers.address("b")
    assert len(seen.alive) == 2
    servers.stop()
    assert not seen.alive
    servers.address("a")
    assert len(seen.starts) == 3


def test_nothing_on_this_machine_is_asked_through_a_proxy(vllm, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert find_chat("vllm:m").complete(ASKED, KIND, 1) == ANSWER


# Ending ------------------------------------------------------------------------------------------------------------


def test_the_end_of_a_session_ends_its_servers_and_no_others(vllm, tmp_path: Path) -> None:
    seen = vllm()
    outer = session.current().servers.address("outer")
    with session.use(session.Session(session.Settings(record=str(tmp_path / "other")))) as inner:
        find_chat("vllm:inner").complete(ASKED, KIND, 1)
        with session.use(inner):
            pass
        assert len(seen.alive) == 2
    assert len(seen.alive) == 1
    assert session.current().servers.address("outer") == outer


def test_stopping_ends_what_does_not_want_to_end_and_what_it_started(vllm) -> None:
    seen = vllm("--stubborn", "--child")
    server = ModelServer("m", grace=0.3)
    server.address()
    assert len(seen.alive) == 2
    server.stop()
    assert not seen.alive
    server.stop()
    with pytest.raises(InfrastructureError, match="was stopped"):
        server.address()


def test_a_server_that_starts_can_be_stopped(vllm, tmp_path: Path) -> None:
    seen = vllm("--wait-for", tmp_path / "never")
    server = ModelServer("m")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.address)
        until(lambda: seen.starts)
        server.stop()
        assert not seen.alive
        with pytest.raises(InfrastructureError, match="was stopped"):
            asked.result(SOON)


PARENT = """
import sys, threading, time
from dgym.chat.servers import LocalServers

servers = LocalServers()
# In a thread that ends, as those do that wait for servers.
thread = threading.Thread(target=servers.address, args=("m",))
thread.start()
thread.join()
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["killed", "exits"])
def test_no_server_outlives_the_process_that_started_it(vllm, how: str) -> None:
    seen = vllm("--child")
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    time.sleep(0.5)  # several looks of the guard: the end of the thread is not the end of the process
    assert len(seen.alive) == 2
    if how == "killed":
        parent.kill()
    else:
        parent.stdin.write("\n")
        parent.stdin.flush()
    parent.communicate(timeout=SOON)
    until(lambda: not seen.alive)


# Dying -------------------------------------------------------------------------------------------------------------


def test_a_server_that_died_is_started_once_more(vllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgym.chat.client._BACKOFF", (0.1, 2.0))
    seen = vllm("--child")
    chat = find_chat("vllm:m")
    chat.complete(ASKED, KIND, 1)
    os.kill(seen.starts[0][0], signal.SIGKILL)
    assert chat.complete(ASKED, KIND, 2) == ANSWER
    assert len(seen.starts) == 2
    assert seen.alive == seen.starts[1], "nothing of the first start is left"
    os.kill(seen.starts[1][0], signal.SIGKILL)
    with pytest.raises(InfrastructureError, match="died twice") as caught:
        chat.complete(ASKED, KIND, 3)
    assert "\n" not in str(caught.value)
    assert len(seen.starts) == 2


def test_a_guard_that_is_killed_leaves_nothing_behind(vllm) -> None:
    seen = vllm("--child")
    server = ModelServer("m")
    server.address()
    os.kill(server._guard.pid, signal.SIGKILL)
    until(lambda: not seen.alive)
    server.stop()


def test_stopping_ends_at_once_what_a_killed_guard_has_left(vllm) -> None:
    seen = vllm("--child", "--stubborn")
    server = ModelServer("m", grace=1000)
    server.address()
    os.kill(server._guard.pid, signal.SIGKILL)
    server._guard.wait()
    server.stop()
    until(lambda: not seen.alive)


FAILURE = """Traceback (most recent call last):
  File "core.py", line 7, in run
    load()
(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:1] ValueError: no such weights
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"""


def test_a_server_that_cannot_start_says_why_and_what_to_do_and_is_not_tried_again(vllm) -> None:
    seen = vllm("--fail", FAILURE)
    chat = find_chat("vllm:m")
    said = set()
    for seed in range(3):
        with pytest.raises(ChatSetupError) as caught:
            chat.complete(ASKED, KIND, seed)
        said.add(str(caught.value))
    (text,) = said
    assert "ended while it started: ValueError: no such weights." in text
    assert "$DGYM_VLLM_URL" in text
    assert "\n" not in text
    (log,) = [word for word in text.replace(",", " ").split() if word.endswith(".log")]
    assert FAILURE in Path(log).read_text()
    assert len(seen.starts) == 1


def test_a_server_that_is_never_healthy_is_given_up(vllm, tmp_path: Path) -> None:
    seen = vllm("--wait-for", tmp_path / "never")
    server = ModelServer("m", patience=1.0)
    with pytest.raises(InfrastructureError, match="not healthy after 1 s"):
        server.address()
    assert not seen.alive


def test_no_command_to_start_servers_with(vllm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chat = find_chat("vllm:m")
    monkeypatch.setenv("DGYM_VLLM", "no-such-vllm serve")
    for call in (chat.check, lambda: chat.complete(ASKED, KIND, 1)):
        with pytest.raises(UsageError, match="names 'no-such-vllm', which is no command"):
            call()
    monkeypatch.delenv("DGYM_VLLM")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("dgym.chat.servers.sys.executable", str(tmp_path / "python"))
    for call in (chat.check, lambda: chat.complete(ASKED, KIND, 1)):
        with pytest.raises(UsageError, match=r'pip install "dgym\[vllm\]"'):
            call()
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    chat.check()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "it printed nothing"),
        ("\nstarting\n\n", "starting"),
        (FAILURE, "ValueError: no such weights"),
        ("a.b.HTTPError: 404\nINFO bye\n", "a.b.HTTPError: 404"),
        ("vllm serve: error: unrecognized arguments: --x\n", "error: unrecognized arguments: --x"),
        ("\x1b[31mOSError: disk\x1b[0m\r\n", "OSError: disk"),
    ],
)
def test_the_line_of_a_log_that_says_why(tmp_path: Path, log: str, words: str) -> None:
    (tmp_path / "log").write_text(log)
    assert last_words(tmp_path / "log") == words


def test_old_logs_are_forgotten(vllm, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "servers"
    folder.mkdir(parents=True)
    for n in range(40):
        (folder / f"{n}.log").touch()
        os.utime(folder / f"{n}.log", (n, n))
    session.current().servers.address("m")
    left = {path.name for path in folder.iterdir()}
    assert len(left) == 21
    assert "39.log" in left
    assert "19.log" not in left


# The record, and servers that run already --------------------------------------------------------------------------


def test_a_strict_replay_starts_nothing(vllm, tmp_path: Path) -> None:
    seen = vllm()
    chat = find_chat("vllm:m")
    chat.complete(ASKED, KIND, 1)
    strict = session.Settings(replay="strict", record=str(tmp_path / "record"))
    with session.use(session.Session(strict)):
        assert chat.complete(ASKED, KIND, 1) == ANSWER
        with pytest.raises(ChatSetupError, match="without --replay strict"):
            chat.complete(ASKED, KIND, 2)
    assert len(seen.starts) == 1


def test_where_a_model_is_served_moves_neither_its_record_nor_its_limiter(vllm, serve, monkeypatch) -> None:
    seen = vllm()
    chat = find_chat("vllm:stand-in")
    before = chat.digest
    chat.complete(ASKED, KIND, 1)
    session.current().servers.stop()
    find_chat("vllm:stand-in").complete(ASKED, KIND, 2)
    find_chat("vllm:another").complete(ASKED, KIND, 1)
    server, _ = serve()
    for url in (server.url, server.url.removesuffix("/v1"), f"{server.url}/"):
        monkeypatch.setenv("DGYM_VLLM_URL", url)
        assert find_chat("vllm:stand-in").digest == before == chat.digest
        asked = server.seen.requests
        chat.complete(ASKED, KIND, 1)
        assert server.seen.requests == asked, "it is in the record"
        chat.check()
        chat.complete(ASKED, KIND, hash(url) % 1000 + 10)
        assert server.seen.requests == asked + 1
    assert len(seen.starts) == 3
    assert sorted(session.current().limiters.made) == ["vllm: another", "vllm: stand-in"]


def test_what_can_move_an_answer_is_in_the_digest(vllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = find_chat("vllm:m").digest
    digests = {plain, find_chat("vllm:n").digest}
    monkeypatch.setenv("DGYM_VLLM_ARGS", "--quantization fp8 --max-num-seqs 4")
    digests.add(find_chat("vllm:m").digest)
    monkeypatch.setenv("DGYM_VLLM_ARGS", "--max-num-seqs 8 --quantization fp8 --gpu-memory-utilization=0.5")
    digests.add(find_chat("vllm:m").digest)
    assert len(digests) == 3, "what a server may take of the machine moves no answer"
    for content in ("a", "b", "a"):
        (tmp_path / "weights").mkdir(exist_ok=True)
        (tmp_path / "weights" / "model.safetensors").write_text(content)
        digests.add(find_chat(f"vllm:{tmp_path / 'weights'}").digest)
    assert len(digests) == 5, "a folder counts by what is in it"


def test_a_server_that_runs_already_is_checked(vllm, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = serve()
    monkeypatch.setenv("DGYM_VLLM_URL", server.url)
    find_chat("vllm:stand-in").check()
    with pytest.raises(UsageError, match=r"has no model 'stand-on'. Did you mean 'stand-in'"):
        find_chat("vllm:stand-on").check()
    monkeypatch.setenv("DGYM_VLLM_URL", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"Nobody answers at http://127.0.0.1:9/v1 .* set \$DGYM_VLLM_URL"):
        find_chat("vllm:stand-in").check()


def test_the_provider_needs_a_model() -> None:
    made = find_chat("vllm:org/small")
    assert isinstance(made, VllmChat)
    assert isinstance(made, OpenAIChat)
    assert made.model == "vllm:org/small"
    with pytest.raises(UsageError, match="Name a model: vllm:MODEL"):
        find_chat("vllm")


def test_other_calls_go_on_while_a_server_starts(vllm, serve, tmp_path: Path) -> None:
    seen = vllm("--wait-for", tmp_path / "go")
    _, other = serve()
    slow = [threading.Thread(target=find_chat("vllm:m").complete, args=(ASKED, KIND, n)) for n in range(20)]
    for thread in slow:
        thread.start()
    until(lambda: seen.starts)
    assert other.complete(ASKED, KIND, 1) == ANSWER
    assert all(thread.is_alive() for thread in slow)
    (tmp_path / "go").touch()
    for thread in slow:
        thread.join(SOON)
        assert not thread.is_alive()
    assert len(seen.starts) == 1
