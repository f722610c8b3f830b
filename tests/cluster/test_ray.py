"""The Ray backend, on a real local Ray: the same rows as in process, and what becomes of failures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dgym import results
from dgym.bench import LocalBackend, bench
from dgym.cluster import RayBackend
from dgym.cluster.trial import InOrder, Watcher
from dgym.core import Budget, Rules
from dgym.models.recipe import Recipe
from dgym.specs import EpisodeSpec, Seeds
from dgym.students.sizing import COMPUTING
from tests.rows import assert_same_rows
from tests.waiting import until

FAKE = Rules(iterations=2, budget=Budget(30))
REAL = Rules(iterations=1, budget=Budget(16), share=0.04)


def specs() -> list[EpisodeSpec]:
    """Two real episodes and some fake ones."""
    fake = [
        EpisodeSpec(
            teacher=teacher, environment=environment, domain="fake", student="fake", rules=FAKE, seeds=Seeds.all(seed)
        )
        for seed in (1, 2)
        for teacher in ("weakness", "uniform")
        for environment in ("open-ended", "skill-list")
    ]
    real = [
        EpisodeSpec(teacher="weakness", environment=environment, rules=REAL, seeds=Seeds.all(2))
        for environment in ("open-ended", "skill-list")
    ]
    return [*real, *fake]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_in_process_and_on_ray_with_one_or_four_workers_give_the_same_rows(tmp_path: Path, workers: int) -> None:
    expected = bench(specs(), tmp_path / "local", backend=LocalBackend())
    assert len(expected.ok) == len(specs())
    summary = bench(specs(), tmp_path / "ray", backend=RayBackend(hosts=2, workers=workers))
    assert len(summary.ok) == len(specs()), summary.failed
    assert summary.usage.busy is not None
    assert_same_rows(tmp_path / "local", tmp_path / "ray")


BAD = """
import os
from pathlib import Path
from dgym import Example, Plan, PlanItem

class _Base:
    def plan(self, brief, state):
        return Plan((PlanItem(5),))
    def generate(self, brief, item):
        return [Example(f"add {i} {item.seed % 1000}", str(i + item.seed % 1000)) for i in range(item.count)]

class Raises(_Base):
    def plan(self, brief, state):
        raise RuntimeError("no idea")

class Silent(_Base):
    def generate(self, brief, item):
        return []

class Rubbish(_Base):
    def generate(self, brief, item):
        return [object()] * 10_000

class Dies(_Base):
    def plan(self, brief, state):
        os._exit(1)

class DiesWriting(_Base):
    def generate(self, brief, item):
        os._exit(1)

class DiesOnce(_Base):
    def generate(self, brief, item):
        try:
            (Path(__file__).parent / "died").touch(exist_ok=False)
        except FileExistsError:
            return super().generate(brief, item)
        os._exit(1)

class Good(_Base):
    pass
"""


def test_a_failing_teacher_is_a_row_with_its_reason_and_siblings_are_unharmed(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(BAD)
    reasons = {
        "Raises": "no idea",
        "Silent": "no examples",
        "Rubbish": "malformed",
        "Dies": "died 4 times",
        "DiesWriting": "Teacher workers died 4 times under this episode",
    }
    todo = [
        EpisodeSpec(teacher=f"{file}:{name}", domain="fake", student="fake", rules=FAKE)
        for name in (*reasons, "Good", "DiesOnce")
    ]
    explodes = Recipe(learning_rate=1e30)
    todo.append(EpisodeSpec(teacher="uniform", recipe=explodes, rules=REAL))
    summary = bench(todo, tmp_path / "run", backend=RayBackend(hosts=1, workers=1))
    assert len(summary.ok) == 2
    assert len(summary.failed) == len(reasons) + 1
    frame = results.open(tmp_path / "run").episodes.set_index("teacher")
    for name, reason in reasons.items():
        row = frame.loc[f"{file}:{name}"]
        assert row.status == "failed"
        assert reason in row.error
        assert row.error_boundary == ("infrastructure" if name.startswith("Dies") else "teacher")
    assert json.loads(frame.loc[f"{file}:Dies"].deaths) == {"episode": 4}
    assert json.loads(frame.loc[f"{file}:DiesWriting"].deaths) == {"worker": 4}
    assert frame.loc[f"{file}:Good"].status == "ok"
    again = frame.loc[f"{file}:DiesOnce"]
    assert (again.status, json.loads(again.deaths)["worker"]) == ("ok", 1)
    assert again.best_test == frame.loc[f"{file}:Good"].best_test
    assert frame.loc["uniform"].error_boundary == "student"
    assert frame.loc["uniform"].error.startswith("The training loss became")


SUITE = """
name = "kill"
seeds = [1, 2, 3, 4, 5]
rules = { iterations = 3, budget = { examples_per_iteration = 30 } }
cells = [{ domain = "fake", student = "fake" }]
entries = [{ teachers = ["uniform", "weakness", "random", "wrong-answers"] }]
"""


@pytest.mark.parametrize(("backend", "after"), [("local", 1), ("local", 9), ("ray", 5)])
def test_a_killed_driver_loses_nothing_that_was_finished(tmp_path: Path, backend: str, after: int) -> None:
    suite, run = tmp_path / "kill.toml", tmp_path / "run"
    suite.write_text(SUITE)
    command = [sys.executable, "-m", "dgym", "bench", "--suite", str(suite), "--backend"]

    victim = subprocess.Popen(
        [*command, backend, "--out", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    episodes = run / "episodes"
    while len(list(episodes.rglob("*.parquet"))) < after and victim.poll() is None:
        time.sleep(0.005)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    finished = {p: p.stat().st_mtime_ns for p in episodes.rglob("*.parquet")}
    assert len(finished) >= after

    for way, folder in ((backend, run), ("local", tmp_path / "undisturbed")):
        words = [*command, way, "--out", str(folder), "--json"]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        report = json.loads(done.stdout)
        assert report["skipped"] == (len(finished) if folder == run else 0)
        assert report["skipped"] + report["ok"] == report["episodes"] == 25
    assert all(p.stat().st_mtime_ns == written for p, written in finished.items())
    assert_same_rows(run, tmp_path / "undisturbed")


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    """Returns name and address of everything below a process that waits for connections."""
    found = set()
    for one in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found |= {(one.name(), c.laddr.ip) for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def test_a_local_ray_listens_to_this_machine_only_and_asks_for_its_token(tmp_path: Path) -> None:
    suite = tmp_path / "kill.toml"
    suite.write_text(SUITE)
    command = [sys.executable, "-m", "dgym", "bench", "--suite", str(suite), "--out", str(tmp_path / "run")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, start_new_session=True, **quiet) as running:
        try:
            process = psutil.Process(running.pid)
            until(lambda: {name for name, _ in listening(process)} >= {"gcs_server", "raylet"})
            assert {ip.removeprefix("::ffff:") for _, ip in listening(process)} <= {"127.0.0.1", "::1"}
            (raylet,) = [p for p in process.children(recursive=True) if p.name() == "raylet"]
            assert raylet.environ()["RAY_AUTH_MODE"] == "token"
        finally:
            os.killpg(running.pid, signal.SIGKILL)


TRACKED = """
import sys, tempfile
from dgym.bench import bench
from dgym.cluster import RayBackend
from dgym.core import Budget, Rules
from dgym.specs import EpisodeSpec

rules = Rules(iterations=1, budget=Budget(10))
spec = EpisodeSpec(teacher="uniform", domain="fake", student="fake", rules=rules)
assert len(bench([spec], tempfile.mkdtemp(), backend=RayBackend(hosts=1)).ok) == 1
print("trackers:", *{"mlflow", "wandb", "comet_ml", "aim", "tensorboardX"} & set(sys.modules))
"""


def test_trackers_that_nobody_asked_for_are_not_imported() -> None:
    """Ray would import all that are installed, to count who uses them."""
    done = subprocess.run([sys.executable, "-c", TRACKED], capture_output=True, text=True, check=True)
    assert done.stdout.rpartition("trackers:")[2].split() == []


def test_processes_of_short_episodes_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = []
    shown = Watcher.on_trial_result

    def seen(self: Watcher, iteration: int, trials: list, trial: object, result: dict, **info: object) -> None:
        pids.append(result["pid"])
        shown(self, iteration, trials, trial, result, **info)

    monkeypatch.setattr(Watcher, "on_trial_result", seen)
    fakes = [
        EpisodeSpec(teacher="uniform", domain="fake", student="fake", rules=FAKE, seeds=Seeds.all(seed))
        for seed in range(1, 31)
    ]
    assert len(bench(fakes, tmp_path, backend=RayBackend(hosts=1)).ok) == 30
    assert len(set(pids)) == COMPUTING


def test_trials_come_in_order_as_many_at_a_time_as_may_run() -> None:
    search = InOrder([{"index": index} for index in range(4)], 4, 2)
    assert [search.suggest("a"), search.suggest("b"), search.suggest("c")] == [{"index": 0}, {"index": 1}, None]
    search.on_trial_complete("a", error=True)
    assert [search.suggest("c"), search.suggest("d")] == [{"index": 2}, None]
    search.at_a_time = 3
    assert search.suggest("d") == {"index": 3}
    search.on_trial_complete("b")
    assert search.suggest("e") == InOrder.FINISHED


def test_of_the_trials_of_a_host_the_second_begins_when_one_has_reported() -> None:
    search = InOrder([{"index": index} for index in range(5)], 2, 3)
    assert [search.suggest(name) for name in "abc"] == [{"index": 0}, {"index": 1}, None]
    search.on_trial_result("b", {})
    search.on_trial_result("b", {})
    assert [search.suggest(name) for name in "cd"] == [{"index": 2}, None]
    search.on_trial_complete("a")
    assert [search.suggest(name) for name in "de"] == [{"index": 3}, None]


def test_an_unreachable_cluster_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dgym", "bench", "--suite", "smoke", "--address", "127.0.0.1:1"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("dgym: Ray cannot be reached at 127.0.0.1:1")
    assert "Traceback" not in done.stderr
