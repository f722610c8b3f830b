"""Hosts: leases, resident bases, statistics."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgym import registry
from dgym.errors import StudentError
from dgym.fakes import FakeDomain, FakeFamily
from dgym.models.recipe import Recipe
from dgym.students.host import StudentConfig, StudentHost, find_student, local_student

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
    assert stats.busy[1][0] == stats.first_training
