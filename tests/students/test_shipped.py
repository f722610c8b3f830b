"""The students that ship are what their cards say, and what a benchmark of teachers needs."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from dgym.core import SPLITS, Feedback, Student
from dgym.domains.math import MathDomain
from dgym.episode import evaluate
from dgym.models.recipe import Recipe
from dgym.students.base import Base
from dgym.students.micro import micro_math

FAMILY = micro_math()
DOMAIN = MathDomain()
PROFILED = ("a", "b", "c")


def card(variant: str) -> dict[str, object]:
    return json.loads((FAMILY.folder(variant) / "card.json").read_text())


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {v: FAMILY.load(v, "cpu", "float32", 1) for v in FAMILY.variants}


def accuracy(student: Student) -> dict[str, float]:
    """Over all 200 evaluation problems of each skill."""
    attempts = [a for split in SPLITS[1:] for a in evaluate(student, DOMAIN, split, DOMAIN.problems(split)).attempts]
    grouped = Feedback("test", tuple(attempts)).by_skill()
    return {skill: mean(a.score for a in part) for skill, part in grouped.items()}


@pytest.mark.parametrize("variant", FAMILY.variants)
def test_size_and_format(variant: str) -> None:
    folder = FAMILY.folder(variant)
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 3_000_000
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "llama"
    assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 2e6
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    text = "Any text at all: naïve 42 – 数学"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (folder / "README.md").read_text().startswith(f"# micro-math-{variant}")


@pytest.mark.parametrize("variant", PROFILED)
def test_a_variant_has_the_profile_that_its_card_names(variant: str, bases: dict[str, Base]) -> None:
    measured, named = accuracy(bases[variant].open(Recipe(), variant)), card(variant)
    assert min(measured[s] for s in named["strong"]) > 0.8
    assert all(named["before"][s] > 0.8 for s in named["forgotten"]), "learnt before it was forgotten"
    assert all(0.1 <= measured[s] <= 0.5 for s in named["forgotten"]), measured
    assert max(measured[s] for s in named["hard"]) < 0.3


def test_profiles_differ() -> None:
    for kind in ("strong", "forgotten", "hard"):
        assert len({frozenset(card(v)[kind]) for v in PROFILED}) == 3


def test_in_u_all_skills_are_about_equally_half_learnt(bases: dict[str, Base]) -> None:
    measured = accuracy(bases["u"].open(Recipe(), "u"))
    middle = mean(measured.values())
    assert 0.4 <= middle <= 0.7
    assert all(abs(a - middle) <= 0.25 for a in measured.values()), measured


@pytest.mark.parametrize("variant", PROFILED)
def test_300_good_examples_bring_back_what_was_forgotten(variant: str, bases: dict[str, Base]) -> None:
    forgotten = card(variant)["forgotten"]
    student = bases[variant].open(Recipe(), variant)
    before = accuracy(student)
    student.train([e for s in forgotten for e in DOMAIN.fresh(s, 300 // len(forgotten), 1)], seed=1, fresh=True)
    after = accuracy(student)
    student.close()
    assert mean(after[s] - before[s] for s in forgotten) >= 0.15


def test_weights_are_what_the_digest_says(tmp_path: Path) -> None:
    assert len({FAMILY.digest(v) for v in FAMILY.variants}) == len(FAMILY.variants)
    assert [FAMILY.draw(seed) for seed in (1, 2, 3, 4)] == ["a", "b", "c", "a"]
