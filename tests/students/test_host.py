"""Hosts: leases, resident bases, statistics."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dgym import registry
from dgym.errors import StudentError
from dgym.fakes import FakeDomain, FakeFamily, FakeStudent
from dgym.models.recipe import Recipe
from dgym.students.host import StudentConfig, StudentHost, local_student, union
from dgym.students.names import find_student
from dgym.students.turns import Turns, turns_of

PROBLEMS = FakeDomain().problems("feedback")


def config(variant: str = "a") -> StudentConfig:
    return StudentConfig("fake", variant, Recipe())


def test_a_base_is_loaded_once_for_many_tenants() -> None:
    host = StudentHost()
    for lease in ("one", "two", "three"):
        student = local_student(host, config(), lease)
        student.train(FakeDomain().fresh("add", 3, 0), seed=1, fresh=True)
    assert (host.stats().loads, host.stats().tenants) == (1, 3)
    host.open("four", config("b"))
    assert host.stats().loads == 2


@pytest.mark.parametrize(("variant", "drawn"), [("", "b"), (":c", "c")])
def test_a_student_may_come_from_a_file(tmp_path: Path, variant: str, drawn: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from dgym.fakes import FakeFamily as Mine")
    name, family, found = find_student(f"{file}:Mine{variant}", seed=2)
    assert (name, found) == (f"{file}:Mine", drawn)
    assert isinstance(family, FakeFamily)


def test_leases_end_twice_without_harm_and_are_then_unknown() -> None:
    host = StudentHost()
    student = local_student(host, config(), "lease")
    student.close()
    student.close()
    with pytest.raises(StudentError, match="not open"):
        student.answer(PROBLEMS)


def test_opening_a_lease_again_starts_anew() -> None:
    host = StudentHost()
    student = local_student(host, config(), "lease")
    before = student.answer(PROBLEMS)
    student.train(FakeDomain().fresh("add", 60, 0), seed=1, fresh=True)
    assert student.answer(PROBLEMS) != before
    host.open("lease", config())
    assert student.answer(PROBLEMS) == before


def test_unused_bases_go_when_memory_is_short_and_used_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Heavy(FakeFamily):
        bytes = 10

    monkeypatch.setattr(registry, "load", lambda kind, name: Heavy)
    host = StudentHost(keep_bytes=15)
    host.open("one", config("a"))
    host.open("two", config("b"))  # both are in use, so both stay
    host.open("one", config("a"))
    assert host.stats().loads == 2
    host.close("two")
    host.open("three", config("c"))  # b goes: it is the one that nobody uses
    host.open("two", config("b"))
    assert host.stats().loads == 4


def test_statistics_tell_when_the_host_worked() -> None:
    host = StudentHost()
    student = local_student(host, config(), "lease")
    student.answer(PROBLEMS)
    assert host.stats().first_training is None
    student.train([], seed=1, fresh=True)
    stats = host.stats()
    assert len(stats.busy) == 2
    assert stats.first_training is not None
    assert stats.last_training is not None
    assert stats.started <= stats.busy[0][0] <= stats.busy[0][1] <= stats.first_training <= stats.busy[1][0]
    assert stats.busy[1][1] <= stats.last_training
    assert stats.process == os.getpid()
    assert StudentHost().stats().busy == [], "what other hosts of the process did is not its own"


def test_intervals_that_overlap_are_joined() -> None:
    assert union([(5, 6), (0, 2), (1, 3), (3, 4), (0.5, 1)]) == [(0, 4), (5, 6)]


# What a host holds ----------------------------------------------------------------------------------------------------


class Watched(FakeFamily):
    """A fake family that is its own base and tells what is done with it; what it does not set aside, it inherits."""

    def __init__(self, **attributes: Any) -> None:
        self.loads, self.opened, self.ended, self.inside, self.most = 0, [], 0, 0, 0
        self.loading = self.opening = self.training = lambda: None
        vars(self).update(attributes)

    def load(self, variant: str, device: str, precision: str, threads: int) -> Watched:
        self.loads += 1
        self.loading()
        return self

    def open(self, recipe: Any, variant: str) -> Any:
        self.opened.append(variant)
        self.opening()
        return WatchedStudent(self, variant or "a")


class WatchedStudent(FakeStudent):
    def __init__(self, family: Watched, variant: str) -> None:
        super().__init__(family._levels(variant))
        self.family = family

    def train(self, examples: Any, *, seed: int, fresh: bool) -> Any:
        self.family.inside += 1
        self.family.most = max(self.family.most, self.family.inside)
        try:
            self.family.training()
            return super().train(examples, seed=seed, fresh=fresh)
        finally:
            self.family.inside -= 1


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Watched]:
    def make(**attributes: Any) -> Watched:
        family = Watched(**attributes)
        monkeypatch.setattr(registry, "load", lambda kind, name: lambda: family)
        return family

    return make


def test_the_name_that_seeds_the_training_need_not_be_the_variants(watched) -> None:
    family, host = watched(), StudentHost()
    host.open("one", config())
    host.open("two", replace(config(), seeded_as=""))
    assert family.opened == ["a", ""]
    assert family.loads == 1


def test_bases_that_are_given_up_are_ended_and_make_room_before_another_is_loaded(watched) -> None:
    there = []
    family = watched(loading=lambda: there.append(list(host._bases)))
    family.close = lambda: setattr(family, "ended", family.ended + 1)
    family.bytes = 10
    host = StudentHost(keep_bytes=15)
    host.open("one", config("a"))
    host.close("one")
    host.open("two", config("b"))
    assert [len(bases) for bases in there] == [0, 1], "its own size is not known before it is there"
    assert family.ended == 1
    assert len(host._bases) == 1


def test_room_is_made_beforehand_for_a_base_whose_size_is_known(watched, monkeypatch: pytest.MonkeyPatch) -> None:
    there = []
    watched(loading=lambda: there.append(len(host._bases)))
    monkeypatch.setattr("dgym.students.host.base_bytes", lambda *_: 16)
    host = StudentHost(keep_bytes=15)
    host.open("one", config("a"))
    host.close("one")
    host.open("two", config("b"))
    assert there == [0, 0]


def test_vllm_is_asked_of_the_base_and_such_a_base_is_another(watched) -> None:
    family, host = watched(), StudentHost()
    served = replace(config(), engine="vllm")
    with pytest.raises(StudentError, match="vLLM cannot answer for 'fake'"):
        host.open("one", served)
    assert host.stats().tenants == 0
    asked = []
    family.use_vllm = lambda: asked.append(1)
    host.open("one", served)
    host.open("two", config())
    host.open("three", served)
    assert asked == [1]
    assert host.stats().loads == 2


def test_a_call_has_the_threads_of_its_student(watched, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = SimpleNamespace(count=8)
    torch.get_num_threads = lambda: torch.count
    torch.set_num_threads = lambda count: setattr(torch, "count", count)
    seen = []
    watched(training=lambda: seen.append(torch.count))
    host = StudentHost()
    monkeypatch.setitem(sys.modules, "torch", torch)
    one, two = (local_student(host, replace(config(), threads=n), f"lease-{n}") for n in (1, 4))
    for student in (one, two, one):
        student.train([], seed=1, fresh=True)
    assert seen == [1, 4, 1]


# Snapshots ------------------------------------------------------------------------------------------------------------


def test_a_snapshot_brings_a_student_back_on_another_host() -> None:
    here, there = StudentHost(), StudentHost()
    here.open("lease", config())
    report, snapshot = here.train_and_keep("lease", FakeDomain().fresh("add", 60, 0), 1, True)
    assert report["steps"] == 60
    assert snapshot == here.snapshot("lease")
    there.open("lease", config())
    assert there.answer("lease", PROBLEMS) != here.answer("lease", PROBLEMS)
    there.restore("lease", snapshot)
    assert there.answer("lease", PROBLEMS) == here.answer("lease", PROBLEMS)
    with pytest.raises(StudentError, match="No student can be restored from these 3 bytes"):
        there.restore("lease", b"abc")


def test_a_student_may_take_its_snapshots_itself(watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched()
    restored = []
    monkeypatch.setattr(WatchedStudent, "snapshot", lambda self: b"mine", raising=False)
    monkeypatch.setattr(WatchedStudent, "restore", lambda self, data: restored.append(data), raising=False)
    host = StudentHost()
    host.open("lease", config())
    assert host.train_and_keep("lease", [], 1, True)[1] == b"mine"
    host.restore("lease", b"mine")
    assert restored == [b"mine"]


@pytest.mark.parametrize("why", ["fails", "too large"])
def test_a_training_counts_although_no_snapshot_can_be_had(watched, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    watched()
    monkeypatch.setattr("dgym.students.host.SNAPSHOT_LIMIT", 10)

    def save(self: Any, path: str) -> None:
        if why == "fails":
            raise StudentError("evaluate-only")
        (Path(path) / "large").write_bytes(bytes(100))

    monkeypatch.setattr(WatchedStudent, "save", save)
    host = StudentHost()
    host.open("lease", config())
    report, snapshot = host.train_and_keep("lease", FakeDomain().fresh("add", 3, 0), 1, True)
    assert (report["steps"], snapshot) == (3, b"")


# Threads --------------------------------------------------------------------------------------------------------------

PATIENCE = 30  # seconds after which a test has failed; none waits that long when it passes


class Gate:
    """Stops who comes through until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Semaphore(0), threading.Event()

    def __call__(self) -> None:
        self.reached.release()
        assert self.open.wait(PATIENCE)

    def wait_for_one(self) -> None:
        assert self.reached.acquire(timeout=PATIENCE), "nobody came"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_a_base_is_loaded_once_when_two_leases_ask_at_the_same_time(watched, threads) -> None:
    gate = Gate()
    family, host = watched(loading=gate), StudentHost()
    opening = [threads.submit(host.open, lease, config()) for lease in ("one", "two")]
    gate.wait_for_one()
    assert not gate.reached.acquire(timeout=0.2), "the other one waits"
    assert host.stats().busy == [], "loading is no work"
    gate.open.set()
    for opened in opening:
        opened.result(PATIENCE)
    assert (family.loads, host.stats().loads, host.stats().tenants) == (1, 1, 2)


def test_a_long_call_does_not_keep_others_out(watched, threads) -> None:
    gate = Gate()
    watched(training=gate, turns=None)
    host = StudentHost()
    host.open("one", config())
    host.open("two", config())
    training = threads.submit(host.train, "one", FakeDomain().fresh("add", 3, 0), 1, True)
    gate.wait_for_one()
    assert len(host.answer("two", PROBLEMS)) == len(PROBLEMS)
    host.open("three", config())
    host.close("two")
    assert host.stats().tenants == 2
    assert not training.done()
    gate.open.set()
    assert training.result(PATIENCE)["steps"] == 3


def test_students_of_a_base_that_knows_no_turns_never_meet(watched, threads) -> None:
    family, host = watched(training=lambda: time.sleep(0.001)), StudentHost()
    leases = [f"lease-{n}" for n in range(4)]
    for lease in leases:
        host.open(lease, config())
    work = [threads.submit(host.train, lease, [], 1, True) for lease in leases for _ in range(5)]
    for one in work:
        one.result(PATIENCE)
    assert family.most == 1
    busy = host.stats().busy
    assert all(end <= start for (_, end), (start, _) in pairwise(busy))
    for lease in leases:
        host.close(lease)
    assert not set(leases) & set(turns_of("cpu").served), "those that are gone are forgotten"


def test_students_that_take_turns_themselves_are_let_in_together(watched, threads) -> None:
    gate = Gate()
    family, host = watched(training=gate, turns=Turns()), StudentHost()
    for lease in ("one", "two"):
        host.open(lease, config())
    work = [threads.submit(host.train, lease, [], 1, True) for lease in ("one", "two")]
    gate.wait_for_one()
    gate.wait_for_one()
    gate.open.set()
    for one in work:
        one.result(PATIENCE)
    assert family.most == 2


def test_a_lease_that_is_ended_while_it_is_opened_is_not_opened(watched, threads) -> None:
    gate = Gate()
    watched(loading=gate)
    host = StudentHost()
    opening = threads.submit(host.open, "lease", config())
    gate.wait_for_one()
    host.close("lease")
    gate.open.set()
    with pytest.raises(StudentError, match="ended while it was opened"):
        opening.result(PATIENCE)
    assert host.stats().tenants == 0
    host.open("lease", config())
    assert len(host.answer("lease", PROBLEMS)) == len(PROBLEMS)


def test_a_base_stays_while_a_student_is_opened_on_it(watched, threads) -> None:
    gate = Gate()
    family = watched(turns=None, bytes=10, opening=gate)
    host = StudentHost(keep_bytes=5)
    opening = threads.submit(host.open, "one", config("a"))
    gate.wait_for_one()
    family.opening = lambda: None
    host.open("two", config("b"))  # and gives up what nobody uses
    gate.open.set()
    opening.result(PATIENCE)
    host.open("three", config("a"))
    assert family.loads == 2


def test_a_failed_loading_is_no_lease_and_may_be_tried_again(watched) -> None:
    def fails() -> None:
        raise StudentError("no memory")

    family, host = watched(loading=fails), StudentHost()
    with pytest.raises(StudentError, match="no memory"):
        host.open("lease", config())
    assert host.stats().tenants == 0
    family.loading = lambda: None
    host.open("lease", config())
    assert host.stats().tenants == 1


def test_a_thread_that_imports_torch_just_now_is_waited_for(tmp_path: Path) -> None:
    """A host of Ray answers one student while it loads the base of another."""
    (tmp_path / "torch.py").write_text(
        "import time\ntime.sleep(0.5)\ncount = 9\n"
        "def get_num_threads(): return count\n"
        "def set_num_threads(n):\n    global count\n    count = n\n"
    )
    code = (
        "import sys, threading, time\n"
        "from dgym.students.host import _set_threads\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "assert 'torch' not in sys.modules\n"
        "thread = threading.Thread(target=__import__, args=('torch',))\n"
        "thread.start()\n"
        "while 'torch' not in sys.modules: time.sleep(0.001)\n"
        "_set_threads(3)\n"
        "assert sys.modules['torch'].count == 3\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
