"""What Ray's memory monitor does to a run when some process takes all memory; the monitor is the real one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import psutil
import pytest
import ray

from dgym.bench import LocalBackend, bench
from dgym.cluster import RayBackend
from dgym.core import Budget, Rules
from dgym.specs import EpisodeSpec, Seeds
from tests.rows import rows

SPARE = 2 * 2**30
"""Bytes that a run may take, all processes together, until the monitor kills; Ray counts 0.07 GB for each of seven."""

MOST = 2 * SPARE
"""Bytes at which a greedy process stops: without a monitor, the machine must survive."""

GREEDY = f"""
import time
from dgym import Example, Plan, PlanItem
from dgym.fakes import FakeFamily, FakeStudent

def take():
    held = []
    while len(held) * 2**24 < {MOST}:
        held.append(b"x" * 2**24)
        time.sleep(0.005)

class Good:
    def plan(self, brief, state):
        return Plan((PlanItem(5),))
    def generate(self, brief, item):
        return [Example(f"add {{i}} {{item.seed % 1000}}", str(i + item.seed % 1000)) for i in range(item.count)]

class Plans(Good):
    def plan(self, brief, state):
        take()
        return super().plan(brief, state)

class Writes(Good):
    def generate(self, brief, item):
        take()
        return super().generate(brief, item)

class Student(FakeStudent):
    def train(self, examples, *, seed, fresh):
        take()
        return super().train(examples, seed=seed, fresh=fresh)

class Family(FakeFamily):
    turns = None
    def open(self, recipe, variant):
        return Student(self._levels(variant))
"""


@pytest.mark.skipif(psutil.virtual_memory().available < MOST, reason="needs memory to fill")
@pytest.mark.parametrize(
    ("teacher", "student", "reason"),
    [
        ("Plans", "fake", "The process of this episode died 4 times; out of memory; run with fewer"),
        pytest.param(
            "Writes",
            "fake",
            "Teacher workers died 4 times under this episode: out of memory; run with fewer",
            marks=pytest.mark.slow,
        ),
        pytest.param("Good", "Family", "The student host died", marks=pytest.mark.slow),
    ],
)
def test_an_episode_that_takes_all_memory_fails_and_says_so_and_others_are_unharmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str, student: str, reason: str
) -> None:
    ray.shutdown()
    file = tmp_path / "greedy.py"
    file.write_text(GREEDY)
    memory = psutil.virtual_memory()
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(memory.total - memory.available + SPARE) / memory.total:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")

    def spec(teacher: str, student: str, seed: int) -> EpisodeSpec:
        return EpisodeSpec(
            teacher=f"{file}:{teacher}",
            domain="fake",
            student=student if student == "fake" else f"{file}:{student}",
            rules=Rules(iterations=1, budget=Budget(10)),
            seeds=Seeds.all(seed),
        )

    good = [spec("Good", "fake", seed) for seed in (1, 2, 3)]
    run = tmp_path / "run"
    summary = bench([spec(teacher, student, 1), *good], run, backend=RayBackend(hosts=1, per_host=2))
    (failed,) = summary.failed
    assert failed.boundary == "infrastructure"
    assert reason in failed.message
    assert "out of memory" in failed.message
    assert len(summary.ok) == len(good)
    bench(good, tmp_path / "calm", backend=LocalBackend())
    ours, theirs = rows(tmp_path / "calm"), rows(run)
    for table in ("steps", "attempts", "examples"):
        found = theirs[table][theirs[table]["digest"].isin(ours[table]["digest"])]
        assert len(found) > 0
        pd.testing.assert_frame_equal(found.reset_index(drop=True), ours[table], check_dtype=False)
