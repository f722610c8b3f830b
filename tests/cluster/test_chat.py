"""Language-model teachers on a real local Ray: the same rows, and one limiter and one purse for all processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
import ray

from dgym import results
from dgym.bench import LocalBackend, bench
from dgym.chat.session import Rates, Settings
from dgym.cluster import RayBackend
from dgym.cluster.chat import _RemoteLimits, _RemotePurse, start_desk
from dgym.core import Budget, Rules
from dgym.specs import EpisodeSpec, Seeds
from tests.rows import assert_same_rows
from tests.waiting import until

SPECS = [
    EpisodeSpec(
        teacher="agent@openai:stand-in",
        environment=environment,
        domain="fake",
        student="fake",
        rules=Rules(iterations=2, budget=Budget(24)),
        seeds=Seeds.all(seed),
    )
    for environment in ("open-ended", "skill-list", "skill-tree")
    for seed in (1, 2)
]


def test_on_ray_and_in_process_the_rows_are_the_same_and_the_limiter_is_one(serve_openai, tmp_path: Path) -> None:
    server = serve_openai(capacity=3, latency=0.05)
    backend = RayBackend(hosts=1, workers=2, per_host=6)
    summary = bench(SPECS, tmp_path / "ray", backend=backend, chat=Settings(record=str(tmp_path / "one")))
    assert not summary.failed
    assert server.seen.most == 3
    refused = server.seen.faults["full"]
    # Six processes that each knew only their own refusals would have been refused far more often.
    assert 0 < refused < 0.5 * server.seen.requests
    summary = bench(SPECS, tmp_path / "local", backend=LocalBackend(), chat=Settings(record=str(tmp_path / "two")))
    assert not summary.failed
    assert_same_rows(tmp_path / "ray", tmp_path / "local")


@pytest.mark.slow
def test_the_purse_is_one_for_all_processes(serve_openai, tmp_path: Path) -> None:
    server = serve_openai()
    limit = 15_000
    backend = RayBackend(hosts=1, workers=2, per_host=3)
    chat = Settings(record=str(tmp_path / "record"), max_tokens=limit)
    summary = bench(SPECS, tmp_path / "run", backend=backend, chat=chat)
    assert not summary.failed
    episodes = results.open(tmp_path / "run").episodes
    assert episodes.stopped.notna().any()
    spent = server.seen.answered and episodes.teacher_tokens.sum()
    # What was in flight when the limit was reached is still paid for.
    assert limit <= spent < 2 * limit


@pytest.mark.slow
def test_students_behind_an_endpoint_are_asked_within_the_run_s_session(serve_openai, tmp_path: Path) -> None:
    server = serve_openai()
    rules = Rules(iterations=0, counts={"feedback": 6, "selection": 6, "test": 6})
    spec = EpisodeSpec(teacher="no-data", domain="fake", student="openai:stand-in", rules=rules)
    backend = RayBackend(hosts=1, workers=1)
    record = str(tmp_path / "record")
    refused = bench([spec], tmp_path / "strict", backend=backend, chat=Settings(replay="strict", record=record))
    assert len(refused.failed) == 1
    assert server.seen.requests == 0
    assert not bench([spec], tmp_path / "on", backend=backend, chat=Settings(record=record)).failed
    asked = server.seen.requests
    assert asked >= 18
    again = bench([spec], tmp_path / "again", backend=backend, chat=Settings(replay="strict", record=record))
    assert not again.failed
    assert server.seen.requests == asked


@pytest.fixture
def desk():
    """A desk that takes permits back half a second after they were last renewed, and lets one request through."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield start_desk(Settings(max_tokens=100), "desk-of-a-test", lease=0.5)
    ray.shutdown()


ONE = Rates(start=1.0)


def test_a_permit_is_kept_while_its_process_lives_and_taken_back_when_it_dies(desk) -> None:
    class Holder:
        """A process that has a permit."""

        def __init__(self, desk) -> None:
            self._limits = _RemoteLimits(desk, "endpoint", ONE, renewing=0.05)

        async def take(self) -> int:
            return await self._limits.acquire(await self._limits.ticket(), 1)

        async def give(self, permit: int) -> None:
            await self._limits.release(permit, "other", None)  # which changes no limit

    first, second = (ray.remote(Holder).options(num_cpus=0).remote(desk) for _ in range(2))
    permit = ray.get(first.take.remote())
    taken = second.take.remote()
    assert ray.wait([taken], timeout=2.0)[0] == [], "four times the lease"
    ray.get(first.give.remote(permit))
    ray.get(taken)
    ray.kill(second)
    ray.get(first.take.remote())


def test_a_desk_that_was_started_again_knows_what_was_spent_and_takes_no_permit_for_its_own(desk) -> None:
    def kill() -> None:
        pid = ray.get(desk.process.remote())
        os.kill(pid, signal.SIGKILL)
        until(lambda: ray.get(desk.process.remote()) != pid)

    async def spend() -> list[str]:
        one, other = _RemotePurse(desk), _RemotePurse(desk)
        said = [await one.check()]
        await one.spend(60, 0.0)
        said.append(await other.check())
        await asyncio.to_thread(kill)
        await other.spend(50, 0.0)
        said += [await other.check(), await one.check(), await other.check()]
        return said

    nothing, some, after, both, known = asyncio.run(spend())
    assert (nothing, some, after) == ("", "", ""), "what is not told yet is not known"
    assert "110" in both
    assert known == both

    async def permits() -> list[int]:
        limits = _RemoteLimits(desk, "endpoint", ONE)
        before = await limits.acquire(await limits.ticket(), 1)
        await asyncio.to_thread(kill)
        mine = await limits.acquire(await limits.ticket(), 1)
        await limits.release(before, "refused", 60.0)  # of a limiter that is gone: it holds nobody back
        await limits.release(mine, "ok", None)
        await limits.release(await limits.acquire(await limits.ticket(), 1), "ok", None)
        return [before, mine]

    before, mine = asyncio.run(permits())
    assert mine > before
