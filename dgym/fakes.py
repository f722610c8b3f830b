"""Fakes that ship: a domain, a student and a teacher that take microseconds and still behave.

They are for tests, documentation and the suite `smoke`. They validate what they are given, so that a wrong call
fails here as it would with the real thing. The fake student learns a skill from correct examples of it and
unlearns it from wrong ones, by a rule anybody can work out by hand (`FakeStudent`).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from dgym.core import Example, Problem, Split, derive_seed
from dgym.errors import DomainError, StudentError, unknown_name

_OPERATIONS: Final[dict[str, Callable[[int, int], int]]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "larger": max,
    "smaller": min,
}
_OFF_DOMAIN: Final = ("shout",)
_PER_SKILL: Final[dict[Split, int]] = {"feedback": 20, "selection": 20, "test": 40}
_EVALUATION: Final[tuple[Split, ...]] = ("feedback", "selection", "test")
_SIZE = 1_000
_PARTS: Final = {"small": (0, _SIZE // 2), "large": (_SIZE // 2, _SIZE)}


class FakeDomain:
    """Problems of the form `add 12 7`; the first word is the skill."""

    name = "fake"
    version = "1"
    description = "Two whole numbers and what to do with them: add, subtract, larger, smaller."
    answer_format = "A whole number."

    def problems(self, split: Split) -> Sequence[Problem]:
        """Returns the fixed problems of an evaluation split."""
        return _problems(split)

    def grade(self, problem: Problem, response: str) -> float:
        """Compares with the reference, stripped."""
        return float(response.strip() == problem.reference)

    def check(self, example: Example) -> bool | None:
        """Computes the answer where the prompt is of the known form."""
        answer = _solve(example.prompt)
        return None if answer is None else example.response.strip() == answer

    def fingerprints(self, prompt: str, images: tuple[bytes, ...] = ()) -> tuple[str, ...]:
        """Returns the prompt itself, or its words where it is of another form."""
        known = _solve(prompt) is not None
        return (prompt.strip() if known else "text|" + " ".join(prompt.lower().split()),)

    def overlap_keys(self, problem: Problem) -> tuple[str, ...]:
        """Returns the fingerprints of the problem's prompt."""
        return self.fingerprints(problem.prompt)

    def skills(self) -> Sequence[str]:
        """Returns the four operations."""
        return tuple(_OPERATIONS)

    def subskills(self, skill: str) -> Sequence[str]:
        """Returns two refinements of each operation, by the first number."""
        return tuple(f"{skill}/{part}" for part in _PARTS) if skill in _OPERATIONS else ()

    def off_domain(self) -> Sequence[str]:
        """Returns a kind of problem that is never tested."""
        return _OFF_DOMAIN

    def infer_skill(self, prompt: str, images: tuple[bytes, ...] = ()) -> str | None:
        """Returns the first word where the prompt is of the known form."""
        return prompt.split(maxsplit=1)[0] if _solve(prompt) is not None else None

    def fresh(self, skill: str, count: int, seed: int) -> list[Example]:
        """Writes distinct, correct examples of the train split."""
        word, _, part = skill.partition("/")
        if word not in (*_OPERATIONS, *_OFF_DOMAIN) or part not in ("", *_PARTS):
            raise unknown_name("fake skill", skill, _OPERATIONS)
        rng = random.Random(derive_seed("fake", skill, seed))
        out: dict[str, Example] = {}
        while len(out) < count:
            a, b = rng.randrange(*_PARTS.get(part, (0, _SIZE))), rng.randrange(_SIZE)
            prompt = f"{word} {a} {b}"
            if _split_of(prompt) == "train":
                out[prompt] = Example(prompt, _solve(prompt) or f"{a} {b}!", skill)
        return list(out.values())

    def wrong_answer(self, example: Example, seed: int) -> Example:
        """Returns the example with its answer off by one or more."""
        answer = _solve(example.prompt)
        if answer is None:
            raise DomainError(f"There is no answer to {example.prompt!r} that could be wrong.")
        off = 1 + derive_seed("wrong", seed) % 9
        return Example(example.prompt, str(int(answer) + off), example.skill, example.item)


def _solve(prompt: str) -> str | None:
    words = prompt.split()
    if len(words) != 3 or words[0] not in _OPERATIONS or not (words[1] + words[2]).isdecimal():
        return None
    return str(_OPERATIONS[words[0]](int(words[1]), int(words[2])))


def _split_of(prompt: str) -> Split:
    place = derive_seed("fake-split", prompt) % 10
    return "train" if place < 7 else _EVALUATION[place - 7]


@lru_cache(maxsize=4)
def _problems(split: Split) -> tuple[Problem, ...]:
    out = []
    for skill in _OPERATIONS:
        rng = random.Random(derive_seed("fake-problems", skill))
        prompts: set[str] = set()
        while len(prompts) < _PER_SKILL.get(split, 0):
            prompt = f"{skill} {rng.randrange(_SIZE)} {rng.randrange(_SIZE)}"
            if prompt not in prompts and _split_of(prompt) == split:
                prompts.add(prompt)
                name = hashlib.blake2b(prompt.encode(), digest_size=6).hexdigest()
                out.append(Problem(name, prompt, _solve(prompt) or "", skill))
    return tuple(sorted(out, key=lambda p: p.id))


class FakeStudent:
    """Knows a skill to a *level* in [0, 1] and answers that part of the skill's problems.

    A correct training example moves its skill's level by a fiftieth of the way to 1, a wrong one by a fiftieth of
    the way to 0; examples of no known form change nothing. Which problems are answered follows from their names alone.

    Args:
        levels: Level per skill before any training.
    """

    def __init__(self, levels: Mapping[str, float]) -> None:
        self._start = dict(levels)
        self._levels = dict(levels)
        self._closed = False

    def train(self, examples: Sequence[Example], *, seed: int, fresh: bool) -> Mapping[str, float]:
        """Moves the levels; see the class."""
        self._check_open()
        if not all(isinstance(e, Example) for e in examples):
            raise StudentError("A student is trained on examples.")
        if fresh:
            self._levels = dict(self._start)
        for example in examples:
            answer = _solve(example.prompt)
            if answer is not None:
                skill = example.prompt.split()[0]
                goal = float(example.response.strip() == answer)
                self._levels[skill] += (goal - self._levels[skill]) / 50
        return {"loss": 0.0, "steps": float(len(examples)), "tokens": float(seed % 2)}

    def answer(self, problems: Sequence[Problem]) -> list[str]:
        """Answers the part of each skill's problems that its level says."""
        self._check_open()
        return [
            _solve(p.prompt) or "?"
            if derive_seed("fake-level", p.prompt) % 1000 < 1000 * self._levels.get(p.prompt.split()[0], 0)
            else "?"
            for p in problems
        ]

    def save(self, path: str) -> None:
        """Writes the levels."""
        self._check_open()
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "levels.json").write_text(json.dumps(self._levels))

    def load(self, path: str) -> None:
        """Reads the levels."""
        self._check_open()
        self._levels = json.loads((Path(path) / "levels.json").read_text())

    def close(self) -> None:
        """Closes the student; it cannot be used any more."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StudentError("The student was closed.")


class FakeFamily:
    """The student `fake`; each variant is weak at one of the skills."""

    name = "fake"
    variants: tuple[str, ...] = ("a", "b", "c", "d")
    bytes = 0

    def draw(self, seed: int) -> str:
        """Variants take turns."""
        return self.variants[(seed - 1) % len(self.variants)]

    def digest(self, variant: str) -> str:
        """The levels are the weights."""
        return json.dumps(self._levels(variant))

    def load(self, variant: str, device: str, precision: str, threads: int) -> FakeFamily:
        """There is nothing to load."""
        return self

    def open(self, recipe: Any, variant: str) -> FakeStudent:
        """Opens an untrained student."""
        return FakeStudent(self._levels(variant))

    def _levels(self, variant: str) -> dict[str, float]:
        weak = tuple(_OPERATIONS)[self.variants.index(variant)]
        return {skill: 0.2 if skill == weak else 0.7 for skill in _OPERATIONS}


def fake_student() -> FakeFamily:
    """The registered student `fake`."""
    return FakeFamily()
