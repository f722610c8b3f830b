"""Policies: from Brief and State to a plan, without any knowledge of a particular domain."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from dgym.core import Brief, Observation, Plan, PlanItem, State

ITEM_SIZE = 20
"""Examples per plan item where the policy does not care: the unit of concurrent work."""


def allocate(weights: Sequence[float], total: int) -> list[int]:
    """Splits `total` in proportion to non-negative weights, by largest remainder; equal parts if all are 0."""
    if not weights:
        return []
    mass = sum(weights)
    shares = [w / mass * total if mass > 0 else total / len(weights) for w in weights]
    counts = [int(share) for share in shares]
    order = sorted(range(len(weights)), key=lambda i: (counts[i] - shares[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def chunks(total: int, size: int = ITEM_SIZE) -> list[int]:
    """Splits `total` into parts of at most `size`."""
    return [min(size, total - first) for first in range(0, total, size)]


@dataclass(frozen=True)
class Blind:
    """Asks for the same every time, whatever the student does.

    Attributes:
        instruction: What to ask the engine for.
        size: Examples per plan item.
    """

    instruction: str = "Write problems of all kinds of the domain in equal parts."
    size: int = ITEM_SIZE

    def plan(self, brief: Brief, state: State) -> Plan:
        """Spends the whole allowance on the one instruction."""
        return Plan(self.items(state.examples_left))

    def items(self, total: int) -> tuple[PlanItem, ...]:
        """Returns items for `total` examples."""
        return tuple(PlanItem(count, self.instruction) for count in chunks(total, self.size))


class Nothing:
    """Never asks for data."""

    def plan(self, brief: Brief, state: State) -> Plan:
        """Returns an empty plan."""
        return Plan()


@dataclass(frozen=True)
class MoreLikeErrors:
    """Open-ended: asks for more like the problems that the student failed, drawn at random.

    Attributes:
        per_error: Examples asked for each drawn problem.
        replay: Share of the allowance spent on all kinds of problem, against forgetting; in [0, 1].
    """

    per_error: int = 4
    replay: float = 0.25

    def plan(self, brief: Brief, state: State) -> Plan:
        """Draws failed problems without replacement as long as there are some, then again."""
        errors = [o for o in state.observations if not o.correct]
        replayed = round(state.examples_left * self.replay) if errors else state.examples_left
        counts = chunks(state.examples_left - replayed, self.per_error)
        items = [
            PlanItem(count, "Write variations of this problem, which the student failed.", like=(error,))
            for count, error in zip(counts, _shuffled_rounds(errors, len(counts), state.seed), strict=True)
        ]
        return Plan((*items, *Blind().items(replayed)))


@dataclass(frozen=True)
class ByErrorRate:
    """Skill-list: spends the allowance on skills in proportion to their error rates.

    Attributes:
        replay: Share of the allowance spent on all skills in equal parts, against forgetting; in [0, 1].
    """

    replay: float = 0.25

    def plan(self, brief: Brief, state: State) -> Plan:
        """One item per skill."""
        errors = [1 - s.accuracy for s in state.skills]
        mass, even = sum(errors) or 1.0, self.replay / max(1, len(errors))
        counts = allocate([(1 - self.replay) * e / mass + even for e in errors], state.examples_left)
        return Plan(
            tuple(
                PlanItem(count, f"Write problems that practise {report.skill}.", report.skill, report.errors[:5])
                for count, report in zip(counts, state.skills, strict=True)
                if count
            )
        )


def _shuffled_rounds(errors: Sequence[Observation], count: int, seed: int) -> list[Observation]:
    """Draws `count` of them: each once in random order, then each again."""
    rng = random.Random(seed)
    out: list[Observation] = []
    while len(out) < count:
        out += rng.sample(errors, len(errors))
    return out[:count]
