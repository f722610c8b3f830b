"""How a run stands, from its folder alone: while another process runs it, when it was killed, and long after."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import urllib.request
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from dgym import heartbeat, status
from dgym.bench import Progress, Usage, bench
from dgym.cli import app
from dgym.core import Budget, Rules
from dgym.errors import UsageError
from dgym.heartbeat import Beat, Heartbeat, Hosts, at_work, work_done
from dgym.results.schema import PLANNED
from dgym.specs import EpisodeSpec, Seeds, identify
from dgym.students.host import HostNow
from tests.waiting import until

RULES = Rules(iterations=2, budget=Budget(20))

TEACHER = '''
import time
from pathlib import Path
from dgym import Example, Plan, PlanItem

class Slow:
    """Waits in its second iteration until a file is there."""
    def plan(self, brief, state):
        return Plan((PlanItem(5),), memory={"asked": (state.memory or {}).get("asked", 0) + 1})
    def generate(self, brief, item):
        return [Example(f"add {i} {item.seed % 1000}", str(i + item.seed % 1000)) for i in range(item.count)]

class Waits(Slow):
    def plan(self, brief, state):
        plan = super().plan(brief, state)
        while plan.memory["asked"] == 2 and not Path(__file__).with_name("go").exists():
            time.sleep(0.01)
        return plan

class Raises(Slow):
    def plan(self, brief, state):
        raise RuntimeError("no idea")
'''

DRIVER = """
import sys
from pathlib import Path
from dgym import heartbeat
heartbeat.EVERY = 0.05
from tests.test_status import drive
drive(Path(sys.argv[1]), sys.argv[2], *sys.argv[3:])
"""


def spec(teacher="uniform", seed=1, **fields):
    return EpisodeSpec(teacher=teacher, domain="fake", student="fake", rules=RULES, seeds=Seeds.all(seed)).model_copy(
        update=fields
    )


def drive(folder, backend, *teachers):
    """What the other process does."""
    from dgym.bench import LocalBackend

    where = LocalBackend()
    if backend == "ray":
        from dgym.cluster import RayBackend

        where = RayBackend(hosts=2, workers=1)
    bench([spec(teacher) for teacher in teachers], folder, suite="mine", backend=where)


@pytest.fixture
def started(tmp_path):
    """Starts runs in other processes."""
    (tmp_path / "slow.py").write_text(TEACHER)
    processes = []

    def start(backend, *teachers):
        names = [f"{tmp_path / 'slow.py'}:{name}" if name.istitle() else name for name in teachers]
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path / "run"), backend, *names],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def shown(*args):
    done = CliRunner().invoke(app, ["status", *map(str, args)])
    assert done.exit_code == 0, (done.output, done.exception)
    return " ".join(done.stdout.split())


def goes_on(run):
    """Reads a run of another process; `None` before it has begun."""
    return status.read(run) if run.is_dir() else None


def idle(run):
    """Why hosts are idle; `None` while that is not known."""
    hosts = status.read(run).hosts
    return dict(hosts.idle) if hosts is not None else None


def test_a_run_is_watched_from_another_process_until_it_ends(started, tmp_path):
    run = tmp_path / "run"
    process = started("local", "uniform", "Waits", "Raises")

    def waits():
        found = goes_on(run)
        at = [r.iteration for r in found.running if "Waits" in r.label] if found is not None else []
        return at == [1] and len(found.running) == 1

    until(waits)
    found = status.read(run)
    assert found.state == "running"
    assert (found.planned, found.finished + found.failed, found.to_come) == (3, 3 - found.to_come, found.to_come)
    assert found.beat.pid == process.pid
    assert found.beat.host == platform.node()
    assert found.beat.backend == "local"
    (running,) = found.running
    assert "Waits" in running.label
    assert (running.iterations, 0 <= running.score <= 1) == (2, True)
    # The student waits while its teacher does.
    until(lambda: idle(run) == {"waiting for teachers": 1})
    assert 0 < found.beat.share < 1
    text = shown(run)
    assert f"goes on: process {process.pid}" in text
    assert "1 student host: 0 busy, 1 idle: waiting for teachers" in text
    assert json.loads(CliRunner().invoke(app, ["status", str(run), "--json"]).stdout)["state"] == "running"

    (tmp_path / "go").touch()
    assert process.wait() == 0
    found = status.read(run)
    assert (found.state, found.finished, found.failed, found.to_come) == ("ended", 2, 1, 0)
    assert found.running == ()
    assert found.per_hour > 0
    assert (found.failures[0].boundary, "no idea" in found.failures[0].reason) == ("teacher", True)
    text = shown(run, "--watch")  # which ends by itself
    assert "2 of 3 episodes finished, 1 failed" in text
    assert "(teacher)" in text


def test_a_killed_run_is_told_from_one_that_goes_on_and_is_continued(started, tmp_path):
    run = tmp_path / "run"
    process = started("local", "Raises", "Waits")
    until(lambda: (found := goes_on(run)) is not None and found.running and found.failed)
    process.kill()
    process.wait()
    found = status.read(run, datetime.now(UTC) + timedelta(seconds=1))  # some beats later
    assert (found.state, found.over, found.running, found.to_come) == ("silent", True, (), 1)
    # Elsewhere nobody can see the process: that is told by the silence alone.
    beat = replace(found.beat, host="elsewhere")
    (run / heartbeat.FILE).write_text(json.dumps(asdict(beat)))
    soon = datetime.fromisoformat(beat.updated_at)
    assert status.read(run, soon + timedelta(seconds=status.SILENCE - 1)).state == "running"
    assert status.read(run, soon + timedelta(seconds=status.SILENCE + 1)).state == "silent"

    process = started("local", "Raises", "Waits")
    until(lambda: status.read(run).beat.pid == process.pid)
    (tmp_path / "go").touch()
    assert process.wait() == 0
    found = status.read(run)
    assert (found.state, found.finished, found.failed) == ("ended", 1, 1)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run of two episodes."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    bench([spec(), spec("ceiling")], folder, suite="mine")
    return folder


@pytest.fixture
def copied(done, tmp_path):
    import shutil

    return shutil.copytree(done, tmp_path / "copied")


def beat_of(run, **changes):
    known = heartbeat.read(run)
    (run / heartbeat.FILE).write_text(json.dumps(asdict(replace(known, **changes))))


def test_a_finished_run_and_one_from_before_there_were_signs_of_life(copied):
    found = status.read(copied)
    assert (found.state, found.planned, found.finished, found.seconds_left) == ("ended", 2, 2, None)
    assert "2 of 2 episodes finished" in shown(copied)
    (copied / heartbeat.FILE).unlink()
    found = status.read(copied)
    assert (found.state, found.finished, found.beat) == ("ended", 2, None)
    assert found.measured == "2 episodes from the first start to the last end"
    (copied / PLANNED).write_text(
        json.dumps({"episodes": [*json.loads((copied / PLANNED).read_text())["episodes"], "x"]})
    )
    found = status.read(copied)
    assert (found.state, found.planned, found.to_come) == ("unknown", 3, 1)
    assert "its signs of life are not in its folder" in shown(copied)
    (copied / PLANNED).unlink()
    assert (status.read(copied).state, status.read(copied).planned) == ("ended", 2)


def test_where_nothing_is_one_line_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    assert status.read(tmp_path / "empty").state == "empty"
    assert shown(tmp_path / "empty") == f"{tmp_path / 'empty'} has not begun"
    with pytest.raises(UsageError, match="no run in"):
        status.read(tmp_path / "nowhere")
    (tmp_path / "empty" / heartbeat.FILE).write_text('{"state": "of another version"}')
    assert status.read(tmp_path / "empty").state == "empty"


def test_time_left_follows_from_the_work_that_is_done_and_throughput_from_this_session(copied):
    start = datetime.now(UTC) + timedelta(seconds=100)  # all rows are from before
    at = start + timedelta(seconds=60)
    beat_of(
        copied, state="running", started_at=start.isoformat(), updated_at=at.isoformat(), share=0.25, host="elsewhere"
    )
    planned = json.loads((copied / PLANNED).read_text())["episodes"]
    (copied / PLANNED).write_text(json.dumps({"episodes": [*planned, "x", "y"]}))
    found = status.read(copied, at + timedelta(seconds=6))
    assert found.seconds_left == pytest.approx(180 - 6)
    assert "25% of the expected work done in 1 min" in found.based_on
    assert (found.per_hour, found.to_come) == (None, 2)
    beat_of(copied, share=0.001)
    found = status.read(copied, at)
    assert (found.seconds_left, found.based_on) == (None, "too little is done to tell")
    beat_of(copied, started_at=(start - timedelta(hours=2)).isoformat())
    assert status.read(copied, start).per_hour == pytest.approx(1, rel=0.01)


def test_what_failed_before_is_to_come_when_it_is_tried_again(tmp_path):
    (tmp_path / "slow.py").write_text(TEACHER)
    run = tmp_path / "run"
    bench([spec(), spec(f"{tmp_path / 'slow.py'}:Raises")], run)
    assert (status.read(run).failed, status.read(run).again) == (1, 0)
    later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    beat_of(run, state="running", started_at=later, updated_at=later)
    found = status.read(run)
    assert (found.finished, found.failed, found.to_come, found.again, found.failures) == (1, 0, 1, 1, ())


class Stopped:
    """A backend that ends before its time."""

    def __init__(self, error):
        self.error = error

    def hosts_now(self):
        raise OSError("gone")

    def run(self, job, report):
        report(Progress(job.episodes[0].digest, "running", 1, 0.5))
        report(Progress("another", "ok"))
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (UsageError("No room."), "No room."),
        (ValueError("sk-secret"), "ValueError"),
    ],
)
def test_a_run_that_stops_says_so(tmp_path, error, reason):
    with pytest.raises(type(error)):
        bench([spec()], tmp_path / "run", backend=Stopped(error))
    found = status.read(tmp_path / "run")
    assert (found.state, found.beat.reason, found.to_come, found.beat.ok) == ("stopped", reason, 1, 0)
    assert "The same command as before continues it." in shown(tmp_path / "run")


def test_a_folder_that_vanished_is_not_made_anew_and_no_run_ends_because_of_a_beat(tmp_path):
    todo = [identify(spec())]
    with Heartbeat(tmp_path / "gone", todo, {todo[0].digest: 1.0}, 1, Stopped(None), every=0.01) as beat:
        beat.ended(todo[0].digest, ok=True)
    assert not (tmp_path / "gone").exists()


def test_a_run_with_nothing_to_do_leaves_the_last_sign_of_life(copied):
    before = (copied / heartbeat.FILE).read_bytes()
    bench([spec()], copied)
    assert (copied / heartbeat.FILE).read_bytes() == before
    assert status.read(copied).others == 1


def test_beats_survive_the_file(tmp_path):
    beat = Beat("running", "a", "b", 5.0, "h", 1, "ray", 3, 1, 1, 0, 0.5, (), Hosts(2, 1, {"starting": 1}), "")
    (tmp_path / heartbeat.FILE).write_text(json.dumps(asdict(beat)))
    assert heartbeat.read(tmp_path) == beat
    assert heartbeat.read(tmp_path / "nowhere") is None


def test_why_hosts_are_idle():
    hosts = [None, HostNow(tenants=2, working=1), HostNow(tenants=2), HostNow(tenants=1, opening=1), HostNow()]
    assert at_work(hosts, 0) == Hosts(5, 1, {"starting": 2, "waiting for teachers": 1, "no episode left to start": 1})
    assert at_work(hosts[-1:], 3) == Hosts(1, 0, {"starting": 1})
    assert at_work([None, None], 3, 1) == Hosts(2, 0, {"waiting for a machine with room": 1, "starting": 1})


def test_the_share_of_work_counts_iterations_by_what_they_train_on():
    work = {"a": 3.0, "b": 1.0}
    assert work_done(work, ["b"], {"a": (0, 2)}) == 0.25
    assert work_done(work, ["b"], {"a": (2, 2)}) == pytest.approx((1 + 3 * 6 / 12) / 4)
    assert work_done(work, ["a", "b"], {}) == work_done({}, [], {}) == 1.0


def test_a_backend_that_tells_nothing_of_its_hosts_is_watched_too(tmp_path):
    class Plain:
        def run(self, job, report):
            return Usage()

    bench([spec()], tmp_path / "run", backend=Plain())
    assert (status.read(tmp_path / "run").state, status.read(tmp_path / "run").hosts) == ("ended", None)


@pytest.mark.slow
def test_a_run_on_ray_is_watched_from_another_process(started, tmp_path):
    run = tmp_path / "run"
    process = started("ray", "uniform", "Waits")

    def waits():
        found = goes_on(run)
        return found is not None and found.finished == 1 and found.running

    until(waits)
    until(lambda: idle(run) == {"waiting for teachers": 1, "no episode left to start": 1})
    found = status.read(run)
    assert found.beat.backend == "ray"
    (tmp_path / "go").touch()
    assert process.wait() == 0
    assert (status.read(run).state, status.read(run).finished) == ("ended", 2)


@pytest.mark.slow
def test_prometheus_finds_the_metrics_of_a_run_at_rays_exporter(tmp_path, monkeypatch):
    pytest.importorskip("prometheus_client", reason="Ray exports metrics where ray[default] is installed")
    import ray

    (tmp_path / "slow.py").write_text(TEACHER)
    from dgym.cluster import RayBackend

    names = {
        "ray_dgym_episodes_total",
        "ray_dgym_iterations_total",
        "ray_dgym_episodes_running",
        "ray_dgym_host_busy_seconds_total",
        "ray_dgym_hosts",
    }
    found = {}

    def scrape():
        node = ray.nodes()[0]
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith("ray_dgym")]
        found.update({line.partition("{")[0]: line for line in lines if not line.endswith(" 0.0")})
        return names <= {*found}

    def look():
        with contextlib.suppress(AssertionError):
            until(scrape)
        (tmp_path / "go").touch()  # for the slow one, which waits until its metrics were looked at

    def begin(progress):
        if progress.digest == slow.digest and progress.iteration == 1:
            looks.start()

    looks = threading.Thread(target=look)
    monkeypatch.setattr(heartbeat, "EVERY", 0.5)
    slow = identify(spec(f"{tmp_path / 'slow.py'}:Waits"))
    rules = Rules(iterations=1, budget=Budget(16), share=0.04)
    trained = EpisodeSpec(teacher="uniform", rules=rules, seeds=Seeds.all(1))
    backend = RayBackend(hosts=2, workers=1)
    assert len(bench([trained, slow.spec], tmp_path / "run", suite="mine", backend=backend, report=begin).ok) == 2
    looks.join()
    assert names == {*found}
    assert 'suite="mine"' in found["ray_dgym_episodes_total"]
    assert 'status="ok"' in found["ray_dgym_episodes_total"]
    assert 'state="' in found["ray_dgym_hosts"]


def test_a_run_in_an_object_store_is_watched_in_the_same_way():
    url = "memory://watched/run"
    seen = []
    bench([spec()], url, report=lambda progress: seen.append(status.read(url).state))
    assert set(seen) == {"running"}
    found = status.read(url)
    assert (found.run, found.state, found.finished, found.planned) == (url, "ended", 1, 1)
