"""Engines that write examples with a domain's own generators. They are *privileged*.

They test how a policy allocates data, not whether somebody can write it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dgym.core import Brief, Engine, Example, Generator, PlanItem, derive_seed
from dgym.domains import make_domain
from dgym.errors import TeacherError
from dgym.skills.curriculum import root


def generator_of(brief: Brief) -> Generator:
    """Returns the domain's generators.

    Raises:
        TeacherError: If the domain has none.
    """
    domain = make_domain(brief.domain)
    if not isinstance(domain, Generator):
        raise TeacherError(f"The domain {brief.domain!r} has no generators; privileged teachers cannot enter it.")
    return domain


@dataclass(frozen=True)
class Procedural:
    """Turns plan items into correct examples.

    An item that names one of the domain's skills, or one of their refinements (`skill/refinement`), gets problems
    of that; a refinement that the domain does not know counts as its skill. For other names, such as discovered
    skills, and without a name, the kind is inferred from the text and images of the problems that the item should
    be like. An item with neither gets what `otherwise` says. Examples claim the skill that the item names.

    Attributes:
        otherwise: `"mixture"` takes all skills in turn, `"one"` a single skill drawn at random, and
            `"off-domain"` takes kinds in turn that the domain never tests, whatever the item names.
    """

    otherwise: Literal["mixture", "one", "off-domain"] = "mixture"

    def generate(self, brief: Brief, item: PlanItem) -> Sequence[Example]:
        """Writes `item.count` examples of the train split, or as many as the domain has."""
        domain = generator_of(brief)
        rng = random.Random(item.seed)
        skills = self._skills(domain, item, rng)
        # A random start, so that skills get equal shares over many small items too.
        start = rng.randrange(len(skills))
        turns = [skills[(start + i) % len(skills)] for i in range(item.count)]
        fresh = {s: iter(domain.fresh(s, turns.count(s), derive_seed(item.seed, s))) for s in dict.fromkeys(turns)}
        # Where people wrote the examples, there may be fewer than were asked for.
        examples = [e for s in turns if (e := next(fresh[s], None)) is not None]
        if item.skill is None or self.otherwise == "off-domain":
            return examples
        # The plan's own name, by which an environment finds what was made of it.
        return [replace(example, skill=item.skill) for example in examples]

    def _skills(self, domain: Generator, item: PlanItem, rng: random.Random) -> Sequence[str]:
        if self.otherwise == "off-domain":
            return domain.off_domain()
        if item.skill is not None:
            skill = root(item.skill, domain.skills())
            if item.skill in domain.subskills(skill):
                return (item.skill,)
            if skill in domain.skills():
                return (skill,)
        inferred = dict.fromkeys(s for o in item.like if (s := domain.infer_skill(o.prompt, o.images)) is not None)
        if inferred:
            return tuple(inferred)
        return (rng.choice(domain.skills()),) if self.otherwise == "one" else domain.skills()


@dataclass(frozen=True)
class Noisy:
    """Gets some of another engine's answers wrong, as writers do; the gate then has something to catch.

    Attributes:
        inner: The engine that writes the examples.
        share: Which part of them, in [0, 1].
    """

    inner: Engine
    share: float

    def generate(self, brief: Brief, item: PlanItem) -> Sequence[Example]:
        """Writes `item.count` examples, some with wrong answers."""
        domain = generator_of(brief)
        rng = random.Random(derive_seed("noise", item.seed))
        return [
            domain.wrong_answer(e, derive_seed(item.seed, i)) if rng.random() < self.share else e
            for i, e in enumerate(self.inner.generate(brief, item))
        ]


@dataclass(frozen=True)
class WrongAnswers:
    """Replaces every answer of another engine by a plausible wrong one; a control.

    Attributes:
        inner: The engine that writes the problems.
    """

    inner: Engine

    def generate(self, brief: Brief, item: PlanItem) -> Sequence[Example]:
        """Writes `item.count` examples with wrong answers."""
        domain = generator_of(brief)
        return [
            domain.wrong_answer(e, derive_seed(item.seed, i)) for i, e in enumerate(self.inner.generate(brief, item))
        ]
