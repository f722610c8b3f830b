"""Student hosts on a real Ray: many tenants at a time, hosts that die, and students that are brought back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from dgym.bench import LocalBackend, Progress, bench
from dgym.cluster import RayBackend, hosts
from dgym.cluster.hosts import REPLACEMENTS, HostManager, Leased, end_hosts, host_stats, open_student
from dgym.core import Budget, Rules
from dgym.errors import InfrastructureError, StudentError
from dgym.fakes import FakeDomain
from dgym.models.recipe import Recipe
from dgym.specs import EpisodeSpec, Seeds
from dgym.students.host import HostedStudent, HostStats, StudentConfig
from tests.rows import assert_same_rows
from tests.waiting import until

PROBLEMS = FakeDomain().problems("feedback")
FAKE = StudentConfig("fake", "a", Recipe())
PATIENCE = 60  # seconds after which a test has failed; none waits that long when it passes


def examples(count: int, seed: int = 0) -> list[Any]:
    return FakeDomain().fresh("add", count, seed)


# The manager, without Ray ---------------------------------------------------------------------------------------------


class Handle:
    """What the manager knows of a host."""

    def __init__(self, name: int) -> None:
        self.name, self.closed = name, []
        self.close = self
        self.remote = self.closed.append


def managed(
    count: int, tenants: int = 1, ready: Callable[[Handle], bool] = lambda _: True
) -> tuple[HostManager, list[Handle], list[Handle]]:
    started: list[Handle] = []
    ended: list[Handle] = []

    def start() -> Handle:
        started.append(Handle(len(started)))
        return started[-1]

    return HostManager(count, start, ended.append, tenants, ready, lambda h: HostStats(process=h.name)), started, ended


def test_the_host_with_the_fewest_leases_is_leased() -> None:
    manager, started, _ = managed(2)
    assert [manager.acquire(lease)[0].name for lease in ("a", "b", "c", "a")] == [0, 1, 0, 0]
    manager.release("a")
    manager.release("a")
    manager.release("unknown")
    assert started[0].closed == ["a"]
    assert manager.acquire("d")[0].name == 0
    assert manager.leases() == ["b", "c", "d"]


def test_a_host_that_died_is_replaced_once_however_many_say_so() -> None:
    manager, started, ended = managed(2)
    leases = ("a", "b", "c")
    seen = {lease: manager.acquire(lease) for lease in leases}
    assert [host.name for host, _ in seen.values()] == [0, 1, 0]
    first, number = manager.replace("a", seen["a"][1])
    assert first.name == 2
    assert manager.replace("c", seen["c"][1]) == (first, number), "it shared the dead host"
    assert manager.acquire("b")[0].name == 1
    assert (ended, manager.replaced()) == ([started[0]], 1)
    assert manager.replace("c", number)[0].name == 3, "and so on"
    assert [host.name for host in manager.hosts()] == [3, 1]
    manager.release("a")
    assert started[3].closed == ["a"]
    assert manager.replace("a", 7)[0].name == 3, "a lease that was reclaimed meanwhile is leased anew"


def test_a_host_that_has_the_base_is_leased_before_another_with_as_few_leases() -> None:
    manager, started, _ = managed(3, tenants=2)
    assert [manager.acquire(lease, base)[0].name for lease, base in (("a", "x"), ("b", "y"), ("c", "z"))] == [0, 1, 2]
    assert manager.acquire("d", "z")[0].name == 2
    assert manager.acquire("e", "z")[0].name == 0, "that one is full"
    assert [host.name for host in started] == [0, 1, 2]


def test_hosts_follow_the_queue_in_steps() -> None:
    there: set[int] = set()
    manager, started, ended = managed(1, tenants=2, ready=lambda host: host.name in there)
    assert manager.fit(left=100, most=6) == 1, "it may start any moment"
    assert len(started) == 1, "nothing is added while one waits"
    there |= {0}
    manager.fit(left=100, most=6)
    manager.fit(left=100, most=6)
    assert len(started) == 2
    there |= {1}
    manager.fit(left=100, most=6)
    assert len(started) == 4
    there |= {2, 3}
    manager.fit(left=100, most=6)
    assert len(started) == 6, "no more than there may be"
    assert [manager.acquire(lease)[0].name for lease in ("a", "b", "c")] == [0, 1, 2]
    assert manager.fit(left=7, most=6) == 4
    assert [host.name for host in ended] == [5, 4], "those that have not started go first"
    there |= {4}
    assert manager.fit(left=3, most=6) == 3
    assert [host.name for host in ended] == [5, 4, 3]
    assert manager.fit(left=1, most=6) == 3, "a host with a lease stays"
    manager.release("c")
    manager.release("b")
    assert manager.fit(left=1, most=6) == 1
    assert [host.name for host in manager.hosts()] == [0]
    assert [stats.process for stats in manager.ended()] == [3, 2, 1]
    assert all(stats.ended is not None for stats in manager.ended())
    assert manager.fit(left=0, most=6) == 1, "an episode may begin anew"


def test_a_lease_moves_from_a_host_that_waits_for_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[int] = set()
    manager, _, _ = managed(2, tenants=1, ready=lambda host: host.name in there)
    assert manager.acquire("a")[0].name == 0
    assert manager.move("a")[0].name == 0, "it has not waited for long, and neither has the other"
    monkeypatch.setattr(hosts, "SOON", -1.0)
    there.add(1)
    assert [host.name for host in manager.late()] == [0]
    assert manager.move("a")[0].name == 1
    assert manager.acquire("b")[0].name == 0, "the other is full"
    assert manager.move("b")[0].name == 0
    assert manager.fit(left=2, most=2) == 1


# On Ray ---------------------------------------------------------------------------------------------------------------

STUDENTS = '''
import os, signal, time
from pathlib import Path
from dgym.fakes import FakeFamily, FakeStudent

ROOT = Path(os.environ["DGYM_TEST_STUDENTS"])

class Family(FakeFamily):
    turns = None
    def open(self, recipe, variant):
        return self.student(self._levels(variant))

class _Waits(FakeStudent):
    """Its training ends when the test says so."""
    def train(self, examples, *, seed, fresh):
        (ROOT / "training").touch()
        while not (ROOT / "go-on").exists():
            time.sleep(0.01)
        return super().train(examples, seed=seed, fresh=fresh)

class _Dies(FakeStudent):
    """Its host dies in the middle of each training for which there is a file, once."""
    def train(self, examples, *, seed, fresh):
        half = super().train(examples[: len(examples) // 2], seed=seed, fresh=fresh)
        order = ROOT / f"die-{seed}"
        with open(ROOT / "trained", "a") as log:
            log.write(f"{seed}\\n")
        if order.exists():
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(examples[len(examples) // 2 :], seed=seed, fresh=False)

class _Unsaved(_Dies):
    def save(self, path):
        raise OSError("disk full")

class _Deadly(FakeStudent):
    def answer(self, problems):
        os.kill(os.getpid(), signal.SIGKILL)

class _Raises(FakeStudent):
    def answer(self, problems):
        raise ValueError("no answer")

class Served(Family):
    student = FakeStudent
    def use_vllm(self):
        pass

class Waits(Family):
    student = _Waits

class Dies(Family):
    student = _Dies

class Unsaved(Family):
    student = _Unsaved

class Deadly(Family):
    student = _Deadly

class Raises(Family):
    student = _Raises
'''


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Starts Ray; returns the folder in which the students look for orders."""
    folder = tmp_path_factory.mktemp("students")
    (folder / "students.py").write_text(STUDENTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_TEST_STUDENTS", str(folder))
        ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
        yield folder
        ray.shutdown()


@pytest.fixture
def manager(root: Path) -> Iterator[Any]:
    """One host for up to four students."""
    for file in (*root.glob("die-*"), root / "trained", root / "training", root / "go-on"):
        file.unlink(missing_ok=True)
    made = hosts.start_manager(1, 4)
    yield made
    end_hosts(made)


@pytest.fixture
def opened(manager: Any, root: Path) -> Callable[[str, str], HostedStudent]:
    """Opens a student of the file by its family's name, or the fake one, under a lease."""

    def make(family: str, lease: str) -> HostedStudent:
        name = f"{root / 'students.py'}:{family}" if family != "fake" else family
        return open_student(manager, lease, StudentConfig(name, "a", Recipe()))

    return make


def kill(manager: Any) -> None:
    """Kills the only host's process and waits until Ray knows of it."""
    (host,) = ray.get(manager.hosts.remote())
    os.kill(ray.get(host.stats.remote()).process, signal.SIGKILL)
    until(lambda: died(host))


def died(host: Any) -> bool:
    try:
        ray.get(host.stats.remote())
    except ray.exceptions.RayActorError:
        return True
    return False


def test_one_tenants_long_call_does_not_keep_others_out(opened, manager, root) -> None:
    waits, other = opened("Waits", "one"), opened("fake", "two")
    trained: list[Any] = []
    thread = threading.Thread(target=lambda: trained.append(waits.train(examples(4), seed=1, fresh=True)), daemon=True)
    thread.start()
    until((root / "training").exists)
    assert len(other.answer(PROBLEMS)) == len(PROBLEMS)
    third = opened("fake", "three")
    other.close()
    until(lambda: host_stats(manager)[0][0].tenants == 2)
    third.close()
    assert not trained
    (root / "go-on").touch()
    thread.join(PATIENCE)
    assert trained[0]["steps"] == 4


def test_tenants_of_a_host_that_dies_go_on_from_their_last_training(opened, manager) -> None:
    students = [opened("fake", f"lease-{n}") for n in range(3)]
    for n, student in enumerate(students[:2]):
        student.train(examples(40 + 20 * n), seed=1, fresh=True)
    before = [student.answer(PROBLEMS) for student in students]
    assert len({tuple(answers) for answers in before}) == 3
    kill(manager)
    assert [student.answer(PROBLEMS) for student in students] == before
    (stats,), replaced = host_stats(manager)
    assert replaced == 1, "one death, however many noticed"
    assert stats.tenants == 3


@pytest.mark.parametrize(
    ("change", "seconds"), [({"engine": "vllm"}, hosts.GRACE), ({"device": "cuda"}, hosts.FREEING)]
)
def test_a_dead_hosts_memory_is_waited_for(
    manager, root, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], seconds: float
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(hosts, "time", SimpleNamespace(sleep=slept.append))
    student = open_student(manager, "lease", replace(FAKE, family=f"{root / 'students.py'}:Served", **change))
    before = student.answer(PROBLEMS)
    assert slept == []
    kill(manager)
    assert student.answer(PROBLEMS) == before
    assert slept == [seconds]


def test_a_training_in_which_the_host_dies_is_done_again(opened, manager, root) -> None:
    calm, disturbed = opened("Dies", "calm"), opened("Dies", "disturbed")
    outcomes = []
    for student in (calm, disturbed):
        if student is disturbed:
            (root / "die-2").touch()
        reports = [student.train(examples(30, n), seed=n, fresh=n == 1) for n in (1, 2, 3)]
        outcomes.append((reports, student.answer(PROBLEMS)))
    assert outcomes[0] == outcomes[1]
    assert host_stats(manager)[1] == 1
    assert (root / "trained").read_text().split() == ["1", "2", "3", "1", "2", "2", "3"], "and no other one"


def test_a_student_of_which_there_is_no_snapshot_is_trained_again(opened, manager, root) -> None:
    calm, disturbed = opened("Unsaved", "calm"), opened("Unsaved", "disturbed")
    for student in (calm, disturbed):
        student.train(examples(30, 0), seed=0, fresh=True)
        student.train(examples(30, 1), seed=1, fresh=True)
        student.train(examples(30, 2), seed=2, fresh=False)
    expected = calm.answer(PROBLEMS)
    kill(manager)
    (root / "trained").unlink()
    assert disturbed.answer(PROBLEMS) == expected
    assert (root / "trained").read_text().split() == ["1", "2"], "since it was new"


def test_a_snapshot_that_was_lost_with_its_machine_is_not_needed(opened, manager, root) -> None:
    student = opened("Dies", "lease")
    student.train(examples(30), seed=1, fresh=True)
    expected = student.answer(PROBLEMS)
    kill(manager)
    (root / "trained").unlink()

    @ray.remote
    class Owner:
        def lost(self) -> list[Any]:
            return [ray.put(bytes(10**6))]

    owner = Owner.remote()
    student._call._snapshot = ray.get(owner.lost.remote())[0]
    ray.kill(owner)
    assert student.answer(PROBLEMS) == expected
    assert (root / "trained").read_text().split() == ["1"]


def test_what_was_loaded_is_loaded_again(opened, manager, tmp_path: Path) -> None:
    teacher, student = opened("fake", "one"), opened("fake", "two")
    teacher.train(examples(60), seed=1, fresh=True)
    teacher.save(str(tmp_path / "saved"))
    student.train(examples(5), seed=1, fresh=True)
    student.load(str(tmp_path / "saved"))
    kill(manager)
    assert student.answer(PROBLEMS) == teacher.answer(PROBLEMS)


def test_a_host_that_dies_again_and_again_fails_the_episode_and_no_other(opened, manager) -> None:
    deadly, other = opened("Deadly", "deadly"), opened("fake", "other")
    with pytest.raises(
        InfrastructureError, match=rf"died {REPLACEMENTS + 1} times .* to answer: probably out of memory"
    ):
        deadly.answer(PROBLEMS)
    deadly.close()
    assert len(other.answer(PROBLEMS)) == len(PROBLEMS)
    (stats,), replaced = host_stats(manager)
    assert replaced == REPLACEMENTS + 1
    assert stats.tenants == 1


def test_what_a_host_raises_is_no_death(opened, manager) -> None:
    with pytest.raises(ValueError, match="no answer"):
        opened("Raises", "lease").answer(PROBLEMS)
    with pytest.raises(StudentError, match="not open"):
        Leased(manager, "never", FAKE)._ask("answer", "never", PROBLEMS)
    assert host_stats(manager)[1] == 0


def test_where_there_is_no_room_for_another_host_the_episode_ends(root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "PLACING", 2.0)
    manager = hosts.start_manager(1, 2, gpus_per_host=1.0)
    student = open_student(manager, "lease", FAKE)

    @ray.remote(num_cpus=0, num_gpus=1)
    class Other:
        def there(self) -> bool:
            return True

    other = Other.remote()  # waits for the one GPU, and has it as soon as the host is dead
    kill(manager)
    assert ray.get(other.there.remote(), timeout=PATIENCE)
    with pytest.raises(InfrastructureError, match="for 2 s there was no room for another: probably out of memory"):
        student.answer(PROBLEMS)
    ray.kill(other)
    end_hosts(manager)
    end_hosts(manager)  # twice is harmless
    until(lambda: host_stats(manager) == ([], 0))


# Whole episodes -------------------------------------------------------------------------------------------------------

REAL = {"iterations": 2, "budget": Budget(16), "share": 0.04}


@pytest.mark.slow
def test_episodes_whose_host_is_killed_have_the_rows_of_undisturbed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.shutdown()
    specs = [
        EpisodeSpec(teacher="weakness", rules=Rules(training=training, **REAL), seeds=Seeds.all(2))
        for training in ("retrain", "continue")
    ]
    assert len(bench(specs, tmp_path / "calm", backend=LocalBackend()).ok) == 2
    managers: list[Any] = []
    tune = RayBackend._tune

    def noted(self: Any, job: Any, report: Any, shared: Any, *others: Any) -> None:
        managers.append(shared.manager)
        tune(self, job, report, shared, *others)

    killed: list[str] = []

    def after_the_first_iteration(progress: Progress) -> None:
        if progress.status == "running" and progress.iteration == 1 and progress.digest not in killed:
            killed.append(progress.digest)
            kill(managers[-1])

    monkeypatch.setattr(RayBackend, "_tune", noted)
    summary = bench(
        specs, tmp_path / "killed", backend=RayBackend(hosts=1, workers=1), report=after_the_first_iteration
    )
    assert len(killed) == 2
    assert len(summary.ok) == 2, summary.failed
    assert summary.usage.replaced == 2
    assert summary.usage.busy is not None
    assert 0 < summary.usage.busy <= 1
    assert_same_rows(tmp_path / "calm", tmp_path / "killed")


DYING_MICRO = '''
import os, signal
from pathlib import Path
from dgym.students.micro import micro_math

class Around:
    """Stands around something and is it in all but what a subclass says."""
    def __init__(self, inner):
        self.inner = inner
    def __getattr__(self, name):
        return getattr(self.inner, name)

class Family(Around):
    def load(self, *args):
        return Base(self.inner.load(*args))

class Base(Around):
    def open(self, *args):
        return Student(self.inner.open(*args))

class Student(Around):
    trainings = 0
    def train(self, examples, *, seed, fresh):
        self.trainings += 1
        marker = Path(os.environ["DGYM_TEST_DIED"])
        if self.trainings == 2 and not marker.exists():
            marker.touch()
            self.inner.train(examples[:8], seed=seed, fresh=fresh)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.train(examples, seed=seed, fresh=fresh)

def Dying():
    return Family(micro_math())
'''


def test_an_episode_whose_host_dies_during_a_training_has_the_rows_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.shutdown()
    file, marker = tmp_path / "dying.py", tmp_path / "died"
    file.write_text(DYING_MICRO)
    monkeypatch.setenv("DGYM_TEST_DIED", str(marker))
    spec = EpisodeSpec(teacher="weakness", student=f"{file}:Dying", rules=Rules(training="continue", **REAL))
    summary = bench([spec], tmp_path / "killed", backend=RayBackend(hosts=1, workers=1))
    assert (len(summary.ok), summary.usage.replaced) == (1, 1), summary.failed
    assert marker.exists()
    assert len(bench([spec], tmp_path / "calm", backend=LocalBackend()).ok) == 1
    assert_same_rows(tmp_path / "calm", tmp_path / "killed")
