"""Base, training and answering ask alike: one prompt path, shown in a snapshot for each data set.

    DGYM_UPDATE_SNAPSHOTS=1 pytest tests/domains/published/test_prompt_parity.py

writes the snapshots anew; read the difference before committing it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dgym import registry
from dgym.core import Budget, Example, Plan, Problem, Rules
from dgym.domains import data_sets, make_domain
from dgym.environments import make_environment
from dgym.episode import ClosedLoop
from dgym.models.recipe import Recipe
from dgym.students.base import Base
from dgym.students.tiny import TinyFamily

SNAPSHOTS = Path(__file__).parent / "prompts"
NAMES = [name for name in registry.names("domain") if name in data_sets()]
RECIPE = Recipe(epochs=1, max_new_tokens=4, cutoff=100_000)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def bases() -> dict[bool, Base]:
    """A student that reads text, with Gemma's chat template, and one that sees images."""
    torch.set_num_threads(1)
    families = {False: "gemma2", True: "qwen2-vl"}
    return {sees: TinyFamily().load(family, "cpu", "float32", 1) for sees, family in families.items()}


class Listening:
    """A student that notes the tokens of every prompt as its model reads them."""

    def __init__(self, base: Base) -> None:
        self.base, self.tenant = base, base.open(RECIPE, "a")
        self.asked: list[tuple[int, ...]] = []
        self.trained: list[tuple[int, ...]] = []

    def answer(self, problems):
        self.asked += [self.base.prompts.encode(p.prompt, p.images).ids for p in problems]
        return self.tenant.answer(problems)

    def train(self, examples, *, seed, fresh):
        encoded, _ = self.tenant._encoded(examples)
        self.trained += [e.prompt for e in encoded]
        return self.tenant.train(examples, seed=seed, fresh=fresh)

    def close(self) -> None:
        self.tenant.close()


class Few:
    """A domain with one problem a split, and the gate open for copies of it."""

    def __init__(self, domain, problem: Problem) -> None:
        self._domain, self._problem = domain, problem

    def __getattr__(self, name: str):
        return getattr(self._domain, name)

    def problems(self, split):
        return [self._problem]


@pytest.mark.parametrize("name", NAMES)
def test_base_training_and_answering_prompts_are_alike(name: str, bases: dict[bool, Base]) -> None:
    domain = make_domain(f"{name}:fixture")
    problem = domain.problems("feedback")[0]
    base = bases[bool(problem.images)]
    student = Listening(base)
    rules = Rules(iterations=1, budget=Budget(2), verify=False, gate=False)
    loop = ClosedLoop(Few(domain, problem), make_environment("open-ended"), student, rules)
    loop.begin()
    loop.accept(Plan(), loop.observe())
    # A teacher may write the bare problem, or copy the words around it from what it was shown.
    answer = problem.reference or "def f():\n    pass"
    loop.submit(
        [
            Example(domain.bare(problem.prompt), answer, images=problem.images),
            Example(f" {problem.prompt}\n", answer, images=problem.images),
        ]
    )
    loop.learn()
    prompts = {*student.asked, *student.trained}
    assert len(student.asked) >= 4, "before and after the training"
    assert len(student.trained) == 2
    assert len(prompts) == 1, "one prompt path"
    text = base.tokenizer.decode(list(prompts.pop()))
    assert domain.bare(problem.prompt)[:60] in text
    shown = f"{text}\n{'-' * 40}\nlearnt: {answer}\n"
    file = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("DGYM_UPDATE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(exist_ok=True)
        file.write_text(shown, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == shown


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_is_put_around_a_problem_once(name: str) -> None:
    domain = make_domain(f"{name}:fixture")
    for split in ("train", "feedback", "selection", "test"):
        for problem in domain.problems(split)[:50]:
            bare = domain.bare(problem.prompt)
            assert domain.frame(bare) == domain.frame(problem.prompt) == problem.prompt
            assert domain.bare(bare) == bare
