"""What all domains with procedural problems share: splits, fixed problems, fresh examples, fingerprints.

A domain of this sort says how its problems are drawn (`stream`), read back from their text and images (`parse`)
and graded (`right`); all else follows here. A problem's *identity* is what remains without its template; a hash
of it decides its split. Where a domain names *combinations* (say colour and shape), a tenth of them is held out:
no split but test ever shows them, where they make up a quarter and are reported as a slice of their own.

What this module does not know: any particular domain, who asks, what a teacher sees.
"""

from __future__ import annotations

import hashlib
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Final

from dgym.core import NEW_COMBINATION, Example, Problem, Split, derive_seed
from dgym.errors import DomainError, unknown_name

SPLIT_SHARES: Final[tuple[tuple[Split, int], ...]] = (
    ("train", 70),
    ("feedback", 10),
    ("selection", 10),
    ("test", 10),
)
"""Percentage of all problems that belongs to each split, by a hash of their identity."""

_HELD_OUT_PERCENT: Final = 10
_NEW_SHARE: Final = 4  # one test problem in four
_DATA_SET_SEED: Final = 20_241_006


@dataclass(frozen=True)
class Task:
    """A problem without its sentence.

    Attributes:
        skill: One of the domain's skills, or of its kinds off the domain.
        identity: What makes it this problem within its skill, in canonical order.
        answer: A correct response.
        refinement: Which part of the skill it belongs to, without the skill's name.
        combination: What must come together for it; empty where the domain holds nothing out.
        data: What the domain needs for grading.
    """

    skill: str
    identity: str
    answer: str
    refinement: str = ""
    combination: str = ""
    data: Any = None

    @property
    def key(self) -> str:
        """The task's fingerprint."""
        return f"{self.skill}|{self.identity}"


def percentile(text: str) -> int:
    """Hashes a text to 0..99, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % 100


def split_of(fingerprint: str) -> Split:
    """Returns the split that a fingerprint belongs to, by hash, in the proportions of `SPLIT_SHARES`."""
    place = percentile(fingerprint)
    for split, share in SPLIT_SHARES:
        place -= share
        if place < 0:
            return split
    raise AssertionError("the shares add up to 100")


def held_out(combination: str) -> bool:
    """Whether only the test split may show a combination."""
    return bool(combination) and percentile(f"combination|{combination}") < _HELD_OUT_PERCENT


def words_of(text: str) -> str:
    """Returns the words, numbers and operators of a text, in lower case."""
    return " ".join(re.findall(r"[a-z0-9.+*/=-]+", text.lower()))


class ProceduralDomain(ABC):
    """A domain whose problems are drawn at random and read back; also a `dgym.core.Generator`."""

    name: ClassVar[str]
    version: ClassVar[str]
    description: ClassVar[str]
    answer_format: ClassVar[str]
    problems_per_skill: ClassVar[Mapping[Split, int]] = {"feedback": 50, "selection": 50, "test": 100}

    # What a domain says ----------------------------------------------------------------------------------------

    @abstractmethod
    def refinements(self) -> Mapping[str, Sequence[str]]:
        """Returns every skill with the names of its parts; every task of a skill belongs to one of them."""

    @abstractmethod
    def off_domain(self) -> Sequence[str]:
        """Returns kinds of problem that `fresh` can write and the domain never tests."""

    @abstractmethod
    def stream(self, skill: str, seed: int) -> Iterator[tuple[Task, Example]]:
        """Draws correct examples of a skill, or of a kind off the domain, without end and from any split."""

    @abstractmethod
    def parse(self, prompt: str, images: tuple[bytes, ...] = ()) -> Task | None:
        """Recognises a problem from its text and images alone; `None` for any other."""

    @abstractmethod
    def right(self, task: Task, response: str) -> bool:
        """Whether a response solves a task; never raises on what a student wrote."""

    def test_only(self) -> Sequence[str]:
        """Returns further skills that only the test split shows, as new combinations."""
        return ()

    # What follows ----------------------------------------------------------------------------------------------

    def recognise(self, prompt: str, images: tuple[bytes, ...] = ()) -> Task | None:
        """Like `parse`, and remembers the last answers."""
        return _recognise(type(self), prompt, images)

    def place(self, task: Task) -> tuple[Split, str]:
        """Returns the split that a task belongs to, and its slice there."""
        if task.skill in self.test_only() or held_out(task.combination):
            return "test", NEW_COMBINATION
        return split_of(task.key), ""

    def problems(self, split: Split) -> Sequence[Problem]:
        """Returns the fixed problems of an evaluation split; `train` has none of its own."""
        return _problems(type(self), split)

    def grade(self, problem: Problem, response: str) -> float:
        """Returns 1.0 for a right response, else 0.0."""
        task = self.recognise(problem.prompt, problem.images)
        if task is None:
            raise DomainError(f"The {self.name} problem {problem.id!r} is of no known kind: {problem.prompt[:80]!r}.")
        return float(self.right(task, response))

    def check(self, example: Example) -> bool | None:
        """Grades an example's response where its problem is of a known kind, else returns `None`."""
        task = self.recognise(example.prompt, example.images)
        return None if task is None else self.right(task, example.response)

    def fingerprints(self, prompt: str, images: tuple[bytes, ...] = ()) -> tuple[str, ...]:
        """Returns the identity of a problem of a known kind; for any other text its words."""
        task = self.recognise(prompt, images)
        return (f"text|{words_of(prompt)}",) if task is None else (task.key,)

    def overlap_keys(self, problem: Problem) -> tuple[str, ...]:
        """Returns every fingerprint under which a copy of a hidden problem would show."""
        return self.fingerprints(problem.prompt, problem.images)

    def skills(self) -> Sequence[str]:
        """Returns the names of the domain's skills."""
        return tuple(self.refinements())

    def subskills(self, skill: str) -> Sequence[str]:
        """Returns the refinements of a skill, as `skill/refinement`; none for a name that is no skill."""
        return tuple(f"{skill}/{part}" for part in self.refinements().get(skill, ()))

    def infer_skill(self, prompt: str, images: tuple[bytes, ...] = ()) -> str | None:
        """Recognises a problem's skill from its text and images."""
        task = self.recognise(prompt, images)
        return None if task is None or task.skill not in self.refinements() else task.skill

    def fresh(self, skill: str, count: int, seed: int) -> list[Example]:
        """Writes distinct, correct examples of the train split.

        Args:
            skill: A skill, one of its refinements, or a kind off the domain.
            count: How many.
            seed: All randomness derives from it.

        Raises:
            UsageError: If there is no such skill.
            DomainError: If the skill has fewer than `count` distinct problems.
        """
        kind, _, part = skill.partition("/")
        known = self.refinements()
        off = kind in self.off_domain()
        if not off and kind not in known:
            raise unknown_name(f"{self.name} skill", skill, (*known, *self.off_domain()))
        if part and part not in known.get(kind, ()):
            raise unknown_name(f"refinement of {kind}", skill, self.subskills(kind))
        out: list[Example] = []
        seen: set[str] = set()
        for tries, (task, example) in enumerate(self.stream(kind, derive_seed(self.name, skill, seed))):
            if len(out) == count:
                break
            if tries > 400 * (count + 10):
                raise DomainError(f"The skill {skill!r} has no {count} distinct problems.")
            if task.key in seen or (part and task.refinement != part):
                continue
            if off or self.place(task)[0] == "train":
                seen.add(task.key)
                out.append(Example(example.prompt, example.response, skill, images=example.images))
        return out

    def wrong_answer(self, example: Example, seed: int) -> Example:
        """Returns the example with the answer of another problem of its kind."""
        task = self.recognise(example.prompt, example.images)
        rng = random.Random(derive_seed("wrong", seed, example.prompt))
        skill = task.skill if task is not None else rng.choice(self.skills())
        for _, other in zip(range(50), self.stream(skill, rng.getrandbits(31)), strict=False):
            response = other[1].response
            if response != example.response and (task is None or not self.right(task, response)):
                return Example(example.prompt, response, example.skill, example.item, example.images)
        raise DomainError(f"No wrong answer found for {example.prompt[:80]!r}.")


@lru_cache(maxsize=50_000)
def _recognise(domain: type[ProceduralDomain], prompt: str, images: tuple[bytes, ...]) -> Task | None:
    return domain().parse(prompt, images)


def _problems(kind: type[ProceduralDomain], split: Split) -> tuple[Problem, ...]:
    return _every_problem(kind).get(split, ())


@lru_cache(maxsize=8)
def _every_problem(kind: type[ProceduralDomain]) -> dict[Split, tuple[Problem, ...]]:
    domain = kind()
    out: dict[Split, list[Problem]] = {}
    for skill in (*domain.skills(), *domain.test_only()):
        for split, problems in _draw(domain, skill).items():
            out.setdefault(split, []).extend(problems)
    # In the order of their opaque names: neither place nor neighbours tell a problem's skill.
    return {split: tuple(sorted(problems, key=lambda problem: problem.id)) for split, problems in out.items()}


def _draw(domain: ProceduralDomain, skill: str) -> dict[Split, list[Problem]]:
    """Draws a skill's problems of all splits; a quarter of test are new combinations, if there are any."""
    left = _wanted(domain, skill)
    found: dict[Split, dict[str, Problem]] = {split: {} for split, _ in left}
    for tries, (task, example) in enumerate(domain.stream(skill, derive_seed(_DATA_SET_SEED, domain.name, skill))):
        if tries == 0 and not task.combination and ("test", NEW_COMBINATION) in left and skill in domain.skills():
            left["test", ""] += left.pop(("test", NEW_COMBINATION))
        if not any(left.values()):
            return {split: list(problems.values()) for split, problems in found.items()}
        if tries > 10_000 * sum(domain.problems_per_skill.values()):
            break
        place = domain.place(task)
        if left.get(place, 0) > 0 and task.key not in found[place[0]]:
            left[place] -= 1
            # The hash names neither skill nor split, and is no index into a generator.
            name = hashlib.blake2b(f"{domain.version}\x1f{task.key}".encode(), digest_size=8).hexdigest()
            found[place[0]][task.key] = Problem(name, example.prompt, task.answer, skill, example.images, place[1])
    missing = ", ".join(f"{count} of {split} {slice_}".strip() for (split, slice_), count in left.items() if count)
    raise DomainError(f"The skill {skill!r} has not enough distinct problems: {missing} are missing.")


def _wanted(domain: ProceduralDomain, skill: str) -> dict[tuple[Split, str], int]:
    """Returns how many problems of a skill are wanted, by split and slice."""
    wanted = domain.problems_per_skill
    if skill in domain.test_only():
        return {("test", NEW_COMBINATION): wanted.get("test", 0)}
    new = wanted.get("test", 0) // _NEW_SHARE
    out: dict[tuple[Split, str], int] = {(split, ""): count for split, count in wanted.items()}
    return out | {("test", ""): wanted.get("test", 0) - new, ("test", NEW_COMBINATION): new}
