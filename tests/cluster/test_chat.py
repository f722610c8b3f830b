"""Language-model teachers on a real local Ray: the same rows, and one limiter and one purse for all processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgym import results
from dgym.bench import LocalBackend, bench
from dgym.chat.session import Settings
from dgym.cluster import RayBackend
from dgym.core import Budget, Rules
from dgym.specs import EpisodeSpec, Seeds
from tests.rows import assert_same_rows

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
