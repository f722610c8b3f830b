"""What all domains over published data sets share: reading, splits, frames, fingerprints, human examples.

A domain of this sort says which rows are its validation pool, which are its test and which, if any, may be written by
a teacher (`validation`, `test`, `train`), and how a response is graded. The validation pool is divided once and for all
into feedback and selection, skill by skill and by hash; the protocol `"paper"` joins them again (see
`dgym.episode.used`). Ids, order and split of a problem follow from its contents, never from its place in a file, so a
mirror with the same rows in another order gives the same problems.

What this module does not know: any particular data set, who asks, what a teacher sees.
"""

from __future__ import annotations

import hashlib
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from dgym.core import SPLITS, Example, Problem, Split, derive_seed
from dgym.data import DataSet, Row, Stored, fixture, stored
from dgym.errors import DomainError, unknown_name

T = TypeVar("T")


def content_id(*parts: object) -> str:
    """Names a thing by its contents; opaque, and the same on every machine."""
    text = "\x1f".join(part.hex() if isinstance(part, bytes) else str(part) for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def by_hash(items: Iterable[T], key: Callable[[T], object], salt: str) -> list[T]:
    """Orders things by a hash of their key: at random, and the same for everybody."""
    return sorted(items, key=lambda item: content_id(salt, key(item)))


def first_of_each(items: Iterable[T], group: Callable[[T], str], count: int) -> list[T]:
    """Returns the first `count` things of each group, in their order."""
    seen: dict[str, int] = {}
    out = []
    for item in items:
        name = group(item)
        seen[name] = seen.get(name, 0) + 1
        if seen[name] <= count:
            out.append(item)
    return out


class DataSetDomain(ABC):
    """A domain over a published data set.

    Args:
        fixture: Whether to use the small data set of dgym's own writing that has the same columns.
    """

    base: ClassVar[str]
    version: ClassVar[str]
    description: ClassVar[str]
    answer_format: ClassVar[str]
    data: ClassVar[DataSet]
    instruction: ClassVar[tuple[str, str]] = ("", "")
    """What stands before and after every problem, so that evaluation, teacher and training ask alike."""
    sizes: ClassVar[Mapping[Split, int]] = {}
    """Problems of each evaluation split upstream, for estimates where the data set is not here."""

    def __init__(self, *, fixture: bool = False) -> None:
        self._fixture = fixture
        self.name = self.base
        if fixture:
            self.name = self.named("fixture")

    def named(self, *options: str) -> str:
        """Returns the domain's name with some options more."""
        base, _, given = self.name.partition(":")
        return f"{base}:{','.join(filter(None, (given, *options)))}"

    # What a domain says ----------------------------------------------------------------------------------------

    @abstractmethod
    def validation(self) -> Sequence[Problem]:
        """Returns the problems from which a teacher learns and an iteration is chosen."""

    @abstractmethod
    def test(self) -> Sequence[Problem]:
        """Returns the problems that score."""

    def train(self) -> Sequence[Problem]:
        """Returns problems that a teacher may use as they are; none by default."""
        return ()

    @abstractmethod
    def grade(self, problem: Problem, response: str) -> float:
        """Grades a response in [0, 1]; never raises on what a student wrote."""

    def check(self, example: Example) -> bool | None:
        """Says whether an example's response answers its prompt, as far as that can be said.

        Known problems are graded; of others nothing is known.
        """
        problem = self._known.get((self.bare(example.prompt), example.images))
        return None if problem is None else self.grade(problem, example.response) >= 1.0

    # What follows ----------------------------------------------------------------------------------------------

    def needs(self) -> Sequence[DataSet]:
        """Returns the data sets that must be on this machine."""
        return () if self._fixture else (self.data,)

    @cached_property
    def source(self) -> Stored:
        """The stored rows.

        Raises:
            UsageError: If they are not on this machine; the message names the command that fetches them.
        """
        return fixture(self.data) if self._fixture else stored(self.data)

    @property
    def contents(self) -> str:
        """The digest of the rows, which pins them in the digest of an episode."""
        return self.source.digest

    def rows(self, part: str) -> Sequence[Row]:
        """Returns the rows of a part of the data set."""
        return self.source.rows(part)

    @cached_property
    def _splits(self) -> dict[Split, Sequence[Problem]]:
        return {}

    def problems(self, split: Split) -> Sequence[Problem]:
        """Returns the problems of a split, those of `train` with the answers that people wrote."""
        # One by one: a train split with images can take a gigabyte that most episodes have no use for.
        if split not in self._splits:
            if split in ("feedback", "selection"):
                feedback, selection = halves(self.validation())
                self._splits.update({"feedback": feedback, "selection": selection})
            else:
                self._splits[split] = tuple(self.train() if split == "train" else self.test())
        return self._splits[split]

    @cached_property
    def _known(self) -> Mapping[tuple[str, tuple[bytes, ...]], Problem]:
        return {(self.bare(p.prompt), p.images): p for split in SPLITS for p in self.problems(split)}

    def frame(self, prompt: str) -> str:
        """Writes a problem as the student is asked it; leaves one that is written so already."""
        before, after = self.instruction
        return f"{before}{self.bare(prompt)}{after}"

    def bare(self, prompt: str) -> str:
        """Returns a problem without what stands before and after every one."""
        return unframed(prompt, *self.instruction)

    def fingerprints(self, prompt: str, images: tuple[bytes, ...] = ()) -> tuple[str, ...]:
        """Returns the problem's words, and with images those of the pair."""
        words = " ".join(re.findall(r"[a-z0-9.+*/=<>^-]+", self.bare(prompt).lower()))
        if images:
            # A question may well be asked again of another picture.
            return (f"text|{content_id(*images)}|{words}",)
        return (f"text|{words}",)

    def overlap_keys(self, problem: Problem) -> tuple[str, ...]:
        """Returns every fingerprint under which a copy of a hidden problem would show."""
        return self.fingerprints(problem.prompt, problem.images)


class HumanExamples(DataSetDomain):
    """A domain whose data set has problems to spare, with answers that people wrote.

    They are what *privileged* teachers draw from (`dgym.core.Generator`): the human baseline.
    """

    spare: ClassVar[Sequence[str]] = ("spell_backward", "letter_counting", "word_sequence_reversal", "caesar_cipher")
    """Kinds of problem off the domain, as the built-in mathematics writes them."""

    @cached_property
    def _by_skill(self) -> Mapping[str, Sequence[Problem]]:
        groups: dict[str, list[Problem]] = {}
        for problem in self.problems("train"):
            groups.setdefault(problem.skill, []).append(problem)
        return groups

    def skills(self) -> Sequence[str]:
        """Returns the gold skills of the train and feedback splits."""
        return tuple(sorted({*self._by_skill, *(p.skill for p in self.problems("feedback"))}))

    def subskills(self, skill: str) -> Sequence[str]:
        """Returns none: gold skills are not divided further."""
        return ()

    def infer_skill(self, prompt: str, images: tuple[bytes, ...] = ()) -> str | None:
        """Looks a problem up among the known ones."""
        problem = self._known.get((self.bare(prompt), images))
        return None if problem is None else problem.skill

    def fresh(self, skill: str, count: int, seed: int) -> list[Example]:
        """Draws distinct examples of the train split: `count`, or as many as people wrote.

        Raises:
            UsageError: If there is no such skill.
        """
        if skill in self.spare:
            from dgym.domains.math import MathDomain

            return MathDomain().fresh(skill, count, seed)
        pool = self._by_skill.get(skill, ())
        if not pool and skill not in self.skills():
            raise unknown_name(f"{self.name} skill", skill, (*self.skills(), *self.spare))
        drawn = random.Random(derive_seed(self.base, skill, seed)).sample(pool, min(count, len(pool)))
        return [Example(p.prompt, p.reference, skill, images=p.images) for p in drawn]

    def off_domain(self) -> Sequence[str]:
        """Returns kinds of word puzzles that no published data set tests."""
        return self.spare

    def wrong_answer(self, example: Example, seed: int) -> Example:
        """Returns the example with the answer of another problem of its skill."""
        skill = self.infer_skill(example.prompt, example.images) or example.skill or ""
        pool = self._by_skill.get(skill) or self.problems("train")
        known = self._known.get((self.bare(example.prompt), example.images))
        rng = random.Random(derive_seed("wrong", seed, example.prompt))
        for other in rng.sample(pool, min(len(pool), 50)):
            if other.reference != example.response and (known is None or self.grade(known, other.reference) < 1):
                return Example(example.prompt, other.reference, example.skill, example.item, example.images)
        raise DomainError(f"No wrong answer found for {example.prompt[:80]!r}.")


def halves(problems: Sequence[Problem]) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Divides problems into two halves by hash, skill by skill; problems of one group stay together."""
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(problem.group or problem.id, []).append(problem)
    by_skill: dict[str, list[str]] = {}
    for name, members in groups.items():
        by_skill.setdefault(members[0].skill, []).append(name)
    first: set[str] = set()
    turn = 0
    for skill in sorted(by_skill):
        # Skills with an odd number take turns in which half gets one more.
        for name in by_hash(by_skill[skill], lambda name: name, "halves"):
            if turn % 2 == 0:
                first.add(name)
            turn += 1
    halved: tuple[list[Problem], list[Problem]] = ([], [])
    for name, members in groups.items():
        halved[name not in first].extend(members)
    return tuple(halved[0]), tuple(halved[1])


def unframed(prompt: str, before: str, after: str) -> str:
    """Returns a problem without what stands before and after it, and without space around."""
    before, after, text = before.strip(), after.strip(), prompt.strip()
    if before and text.startswith(before):
        text = text.removeprefix(before).strip()
    if after and text.endswith(after):
        text = text.removesuffix(after).strip()
    return text


def text_of(value: Any) -> str:
    """Returns a value's text, without surrounding space."""
    return str(value).strip()
