"""Policies for the skill-tree environment: per skill, explore or exploit.

Each splits the allowance among the skills first (`dgym.teachers.policies.Shares`), then decides for each tree that
has a share whether to grow subskills or to move data between those that there are. Where nothing is left to
grow, it exploits; where nothing has grown, it explores: a share is never lost.

The decisions are those of the authors' code: `Alternating`, `FillBalanced`, `Threshold` and `RandomTree`; and
`GrowThenShift`, which is what `weakness` and `bandit` do with their shares. Their subskills come from
`brief.subskills`, in order; a skill without any gets nameless parts.

With `state=False` a policy is its no-state twin: equal shares, and exploits that spread the data evenly.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dgym.core import Action, Brief, Plan, SkillReport, SkillTree, State, derive_seed
from dgym.skills.curriculum import allocate
from dgym.skills.tree import deficits, ungrown
from dgym.teachers.policies import ByErrorRate, Shares


@dataclass(frozen=True)
class TreePolicy(ABC):
    """What the policies for trees share.

    Attributes:
        state: Whether to look at the student's accuracies and rewards.
        grow: How many subskills one explore adds at most.
        parts: How many nameless parts a skill has that nobody has refined.
        shed: Exploit: share of its data that a subskill may lose in favour of those that the student knows
            worse, in [0, 1].
        replay: Share of the allowance that goes to all skills by the user's weights alone.
        shares: Splits the allowance among skills; `None` for error rates, or equal parts in the twin.
    """

    state: bool = True
    grow: int = 2
    parts: int = 4
    shed: float = 0.2
    replay: float = 0.25
    shares: Shares | None = None

    def __post_init__(self) -> None:
        if self.grow < 1 or self.parts < 1 or not 0 <= self.shed <= 1 or not 0 <= self.replay <= 1:
            raise ValueError("grow and parts must be at least 1, shed and replay from 0 to 1")

    def plan(self, brief: Brief, state: State) -> Plan:
        """Acts on every tree that has a share."""
        trees = {tree.skill: tree for tree in state.trees if not tree.frozen}
        reports = [report for report in state.skills if report.skill in trees]
        counts, memory = self.split(brief, state, reports)
        actions = []
        for report, count in zip(reports, counts, strict=True):
            if count:
                tree = trees[report.skill]
                left = ungrown(tree, brief.subskills.get(tree.skill, ()), self.parts)
                actions.append(self._action(state, tree, left, count))
        return Plan(memory=memory, actions=tuple(actions))

    def split(self, brief: Brief, state: State, reports: Sequence[SkillReport]) -> tuple[list[int], Any]:
        """Splits the allowance among skills; see `Shares`."""
        return (self.shares or ByErrorRate(self.replay, self.state)).split(state, reports)

    @abstractmethod
    def explores(self, state: State, tree: SkillTree, left: Sequence[str]) -> tuple[bool, str]:
        """Decides on one tree.

        Args:
            state: The state.
            tree: The tree.
            left: What may still be grown.

        Returns:
            Whether to explore, and why, in words.
        """

    def _action(self, state: State, tree: SkillTree, left: Sequence[str], count: int) -> Action:
        explores, why = self.explores(state, tree, left)
        if explores and not left:
            explores, why = False, f"{why}; but nothing is left to grow"
        elif not explores and not tree.subskills:
            explores, why = True, f"{why}; but nothing has grown yet"
        if explores:
            return self._explore(tree, left, count, why)
        targets = zip(tree.subskills, self.targets(tree, count), strict=True)
        shift = {leaf.name: target - leaf.allocation for leaf, target in targets if target != leaf.allocation}
        return Action(tree.skill, "exploit", shift=shift, why=why, show_errors=self.state)

    def _explore(self, tree: SkillTree, left: Sequence[str], count: int, why: str) -> Action:
        names = tuple(left[: max(1, min(self.grow, count))])
        # Rounded up, so that no example of the share is lost; the environment fits the sum to what is left.
        data = max(1, -(-(count - sum(deficits(tree).values())) // len(names)))
        return Action(tree.skill, "explore", grow=names, data=data, why=why, show_errors=self.state)

    def targets(self, tree: SkillTree, count: int) -> list[int]:
        """Exploit: returns the new allocation of each subskill, which asks for `count` new examples in sum.

        New examples go to the subskills that the student knows no better than their mean, in proportion to
        what it does not know; the others lose up to `shed` of their data. The twin spreads them evenly.
        """
        data = [leaf.data for leaf in tree.subskills]
        if not self.state:
            return [d + new for d, new in zip(data, allocate([1.0] * len(data), count), strict=True)]
        # What was never asked counts as unknown.
        needs = [1.0 if leaf.accuracy is None else max(0.0, 1 - leaf.accuracy) for leaf in tree.subskills]
        mean = sum(needs) / len(needs)
        weak = [need if need >= mean - _EQUAL else 0.0 for need in needs]
        more = allocate(weak, count)
        lost = [
            int(self.shed * d * (mean - need) / mean) if need < mean - _EQUAL else 0
            for d, need in zip(data, needs, strict=True)
        ]
        return [d + new - old for d, new, old in zip(data, more, lost, strict=True)]


_EQUAL = 1e-9
# Accuracies that differ by less are the same but for rounding.


@dataclass(frozen=True)
class Alternating(TreePolicy):
    """Explores and exploits by turns, beginning with explore."""

    def explores(self, state: State, tree: SkillTree, left: Sequence[str]) -> tuple[bool, str]:
        """Goes by the number of turns so far."""
        turn = len(state.history) + 1
        return turn % 2 == 1, f"turn {turn}: odd turns explore, even ones exploit"


@dataclass(frozen=True)
class Threshold(TreePolicy):
    """Exploits a skill as long as that pays: if its last reward is above a threshold; else explores.

    The twin, which sees no rewards, is `RandomTree`.

    Attributes:
        threshold: Of the change in feedback accuracy.
    """

    threshold: float = 0.01

    def explores(self, state: State, tree: SkillTree, left: Sequence[str]) -> tuple[bool, str]:
        """Goes by the last reward of the skill."""
        if not self.state:
            return RandomTree().explores(state, tree, left)
        rewards = [turn.reward[tree.skill] for turn in state.history if tree.skill in turn.reward]
        if not rewards:
            return True, "no reward yet"
        above = rewards[-1] > self.threshold
        return not above, f"the last reward, {rewards[-1]:+.3f}, is {'' if above else 'not '}above {self.threshold:g}"


@dataclass(frozen=True)
class RandomTree(TreePolicy):
    """Explores or exploits at random, whatever the student does.

    Attributes:
        probability: Of explore, in [0, 1].
    """

    state: bool = False
    probability: float = 0.5

    def explores(self, state: State, tree: SkillTree, left: Sequence[str]) -> tuple[bool, str]:
        """Draws from the state's seed."""
        rng = random.Random(derive_seed(state.seed, "explore", tree.skill))
        return rng.random() < self.probability, "drawn at random"


@dataclass(frozen=True)
class GrowThenShift(TreePolicy):
    """Grows all subskills first, then shifts data to those that the student knows worst.

    Attributes:
        grow: How many subskills one explore adds at most.
    """

    grow: int = 8

    def explores(self, state: State, tree: SkillTree, left: Sequence[str]) -> tuple[bool, str]:
        """Explores as long as there is something to grow."""
        return bool(left), f"{len(left)} subskills left to grow" if left else "all subskills have grown"


@dataclass(frozen=True)
class FillBalanced(TreePolicy):
    """Grows each skill to so many subskills, then fills each subskill to so much data, the emptiest first.

    A skill that is full leaves its share to the others. When all are full, all are filled to twice as much, and
    so on, so that the allowance is always spent.

    Attributes:
        subskills: To how many each skill is grown, at least 1.
        data: To how many examples each subskill is filled, at least 1.
    """

    subskills: int = 4
    data: int = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subskills < 1 or self.data < 1:
            raise ValueError("subskills and data must be at least 1")

    def split(self, brief: Brief, state: State, reports: Sequence[SkillReport]) -> tuple[list[int], Any]:
        """Splits the allowance among the skills that are not full."""
        trees = {tree.skill: tree for tree in state.trees}
        leaves = {r.skill: self._leaves(brief, trees[r.skill]) for r in reports}
        level = self.data
        while True:
            rooms = [
                _least(report.cap, sum(max(0, level - data) for data in leaves[report.skill])) for report in reports
            ]
            at_caps = all(room == report.cap or report.weight <= 0 for room, report in zip(rooms, reports, strict=True))
            wanted = sum(room for room, report in zip(rooms, reports, strict=True) if report.weight > 0)
            if wanted >= state.examples_left or at_caps:
                break
            level += self.data
        fitted = [replace(report, cap=room) for report, room in zip(reports, rooms, strict=True)]
        return super().split(brief, state, fitted)

    def _leaves(self, brief: Brief, tree: SkillTree) -> list[int]:
        """Returns how much data each subskill has, those counted in that are still to be grown."""
        left = ungrown(tree, brief.subskills.get(tree.skill, ()), self.parts)
        data = [leaf.data for leaf in tree.subskills]
        return data + [0] * min(len(left), max(0, self.subskills - len(data))) or [0]

    def explores(self, state: State, tree: SkillTree, left: Sequence[str]) -> tuple[bool, str]:
        """Explores until the tree has all its subskills."""
        grown = len(tree.subskills)
        return grown < self.subskills and bool(left), f"{grown} of {self.subskills} subskills, of {self.data} examples"

    def _explore(self, tree: SkillTree, left: Sequence[str], count: int, why: str) -> Action:
        return super()._explore(tree, left[: max(1, self.subskills - len(tree.subskills))], count, why)

    def targets(self, tree: SkillTree, count: int) -> list[int]:
        """Raises the emptiest subskills until they are equal."""
        return water_fill([leaf.data for leaf in tree.subskills], count)


def water_fill(levels: Sequence[int], amount: int) -> list[int]:
    """Adds `amount` to some levels, at least one, so that the lowest become as equal as can be."""
    order = sorted(range(len(levels)), key=lambda i: (levels[i], i))
    out = list(levels)
    for size in range(1, len(order) + 1):
        filled = order[:size]
        surface, odd = divmod(amount + sum(levels[i] for i in filled), size)
        if size == len(order) or surface <= levels[order[size]] - (odd > 0):
            for place, i in enumerate(filled):
                out[i] = surface + (place < odd)
            break
    return out


def _least(cap: int | None, room: int) -> int:
    return room if cap is None else min(cap, room)
