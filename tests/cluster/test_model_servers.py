"""A model server that the processes of a run on Ray share: one for all, gone with the run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import ray

from dgym import results
from dgym.bench import Job, LocalBackend, bench
from dgym.chat.errors import ChatSetupError
from dgym.chat.session import Settings
from dgym.cluster import RayBackend
from dgym.cluster.chat import ChatDesk, remote_session, serves, start_desk, stop_servers
from dgym.core import Budget, Rules
from dgym.errors import InfrastructureError
from dgym.specs import EpisodeSpec, Seeds, identify
from tests.chat.test_servers import SCRIPT, alive

ARGS = "DGYM_VLLM_ARGS"


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the test server what `vllm` starts; returns the file of the process ids, a line per start."""
    file = tmp_path / "pids"
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DGYM_VLLM", shlex.join([sys.executable, str(SCRIPT)]))
    monkeypatch.setenv(ARGS, shlex.join(["--pids", str(file), "--child"]))
    monkeypatch.delenv("DGYM_VLLM_URL", raising=False)
    return file


def specs(teacher: str = "agent@vllm:stand-in") -> list[EpisodeSpec]:
    rules = Rules(iterations=1, budget=Budget(12))
    return [
        EpisodeSpec(
            teacher=teacher,
            environment="skill-list",
            domain="fake",
            student="fake",
            rules=rules,
            seeds=Seeds.all(seed),
        )
        for seed in (1, 2)
    ]


def started(pids: Path) -> list[list[int]]:
    return [[int(pid) for pid in line.split()] for line in pids.read_text().splitlines()]


def test_episodes_share_one_server_that_ends_with_the_run(tmp_path: Path, pids: Path) -> None:
    chat = Settings(record=str(tmp_path / "record"))
    summary = bench(specs(), tmp_path / "run", backend=RayBackend(hosts=1, workers=2), chat=chat)
    assert not summary.failed
    ((server, child),) = started(pids)
    assert not alive(server)
    assert not alive(child)
    found = results.open(tmp_path / "run")
    assert len(found.episodes) == 2
    assert found.calls.groupby("digest").outcome.agg(set).tolist() == [{"ok"}, {"ok"}]
    assert set(found.calls.model) == {"vllm:stand-in"}
    strict = Settings(record=str(tmp_path / "record"), replay="strict")
    again = bench(specs(), tmp_path / "again", backend=LocalBackend(), chat=strict)
    assert len(again.ok) == 2
    assert len(started(pids)) == 1, "a replay starts nothing"


@pytest.mark.slow
def test_a_run_that_fails_ends_its_server_too(tmp_path: Path, pids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune = RayBackend._tune

    def breaks(*args: object) -> None:
        tune(*args)
        assert all(alive(pid) for line in started(pids) for pid in line)
        raise InfrastructureError("Ray Tune stopped")

    monkeypatch.setattr(RayBackend, "_tune", breaks)
    with pytest.raises(InfrastructureError, match="Ray Tune stopped"):
        bench(
            specs()[:1],
            tmp_path / "run",
            backend=RayBackend(hosts=1, workers=1),
            chat=Settings(record=str(tmp_path / "record")),
        )
    assert not [pid for line in started(pids) for pid in line if alive(pid)]


def test_a_server_takes_a_gpu_where_there_is_one_and_says_so_where_none_is_left(
    tmp_path: Path, pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        desk = start_desk(Settings(), "desk")
        servers = remote_session(Settings(), desk).servers
        assert servers.address("m") == servers.address("m")
        assert ray.available_resources().get("GPU", 0) == 0
        environment = Path(f"/proc/{started(pids)[0][0]}/environ").read_bytes().split(b"\0")
        assert not [entry for entry in environment if entry.startswith(b"OMP_NUM_THREADS")], "Ray sets it to 1"
        with pytest.raises(ChatSetupError, match=r"No GPU is left .* set \$DGYM_VLLM_URL") as caught:
            remote_session(Settings(), start_desk(Settings(), "another")).servers.address("m")
        assert "\n" not in str(caught.value)
        stop_servers(desk)
        assert not [pid for line in started(pids) for pid in line if alive(pid)]
    finally:
        ray.shutdown()


def test_which_runs_will_serve_models(tmp_path: Path, pids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(teacher: str, **settings: object) -> bool:
        return serves(Job([identify(spec) for spec in specs(teacher)], tmp_path, chat=Settings(**settings)))

    assert asked("agent@vllm:stand-in")
    assert not asked("agent@vllm:stand-in", replay="strict")
    assert not asked("agent@stand-in")
    assert not asked("weakness")
    monkeypatch.setenv("DGYM_VLLM_URL", "http://127.0.0.1:9")
    assert not asked("agent@vllm:stand-in")


def test_a_desk_without_servers_stops_none() -> None:
    import asyncio

    asyncio.run(ChatDesk(Settings()).stop())
