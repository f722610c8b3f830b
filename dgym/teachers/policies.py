"""Policies: from Brief and State to a plan, without any knowledge of a particular domain.

Here stand those for the open-ended and the skill-list environment; those that act on trees are in
`dgym.teachers.tree`. A policy with `state=False` is the *no-state twin* of the same policy: it acts in the same
form, and looks at nothing that the student did.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from dgym.core import Brief, Observation, Plan, PlanItem, SkillReport, State, derive_seed
from dgym.skills.curriculum import ITEM_SIZE, allocate, chunks

SHOWN_ERRORS: Final = 5
"""How many of a skill's errors a plan item shows the engine."""


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


# Open-ended ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MoreLikeErrors:
    """Open-ended: asks for more like the problems that the student failed, drawn at random.

    The twin draws from all problems, and shows the engine their solutions in place of the student's answers.

    Attributes:
        per_error: Examples asked for each drawn problem.
        replay: Share of the allowance spent on all kinds of problem, against forgetting; in [0, 1].
        state: Whether to look at the student's answers.
    """

    per_error: int = 4
    replay: float = 0.25
    state: bool = True

    def plan(self, brief: Brief, state: State) -> Plan:
        """Draws problems without replacement as long as there are some, then again."""
        if self.state:
            drawn = [o for o in state.observations if not o.correct]
            instruction = "Write variations of this problem, which the student failed."
        else:
            drawn = [replace(o, response=o.reference, correct=True) for o in state.observations]
            instruction = "Write variations of this problem."
        replayed = round(state.examples_left * self.replay) if drawn else state.examples_left
        counts = chunks(state.examples_left - replayed, self.per_error)
        items = [
            PlanItem(count, instruction, like=(like,))
            for count, like in zip(counts, _shuffled_rounds(drawn, len(counts), state.seed), strict=True)
        ]
        return Plan((*items, *Blind().items(replayed)))


def _shuffled_rounds(drawn: Sequence[Observation], count: int, seed: int) -> list[Observation]:
    """Draws `count` of them: each once in random order, then each again."""
    rng = random.Random(seed)
    out: list[Observation] = []
    while len(out) < count:
        out += rng.sample(drawn, len(drawn))
    return out[:count]


# Environments with skills --------------------------------------------------------------------------------------


class Shares(Protocol):
    """Splits an allowance among skills; what a policy for skills decides first."""

    def split(self, state: State, reports: Sequence[SkillReport]) -> tuple[list[int], Any]:
        """Returns how many examples each of `reports` gets, and what to remember (JSON).

        The counts add up to `state.examples_left`, or to less where the curriculum's caps or weights of 0 do
        not let more be spent.
        """
        ...


def spend(
    reports: Sequence[SkillReport], needs: Sequence[float], total: int, *, replay: float, rng: random.Random | None
) -> list[int]:
    """Splits an allowance by need times the user's weight, within the user's caps.

    Args:
        reports: The skills; their weights and caps are the curriculum's.
        needs: How much each skill needs, at least 0; where all are 0, the weights alone decide.
        total: How many examples may be written.
        replay: Share of the allowance that goes by the weights alone, in [0, 1].
        rng: Decides who gets the odd example; `None` for the first.
    """
    wanted = [report.weight for report in reports]
    mass = sum(wanted)
    if mass <= 0:
        return [0] * len(reports)
    weighted = [need * weight for need, weight in zip(needs, wanted, strict=True)]
    need = sum(weighted)
    even = [w / mass if need <= 0 else replay * w / mass for w in wanted]
    parts = [(1 - replay) * n / need + e if need > 0 else e for n, e in zip(weighted, even, strict=True)]
    order = list(range(len(reports)))
    if rng is not None:
        rng.shuffle(order)
    caps = [reports[i].cap for i in order]
    counts = allocate([parts[i] for i in order], total, caps)
    # Where those in need are at their caps, what they leave goes to the others that are wanted.
    room = [None if cap is None else cap - count for cap, count in zip(caps, counts, strict=True)]
    more = allocate([wanted[i] for i in order], total - sum(counts), room)
    out = [0] * len(reports)
    for i, count, extra in zip(order, counts, more, strict=True):
        out[i] = count + extra
    return out


@dataclass(frozen=True)
class ByErrorRate:
    """Spends the allowance on skills in proportion to their error rates, times the user's weights.

    The twin spends it by the weights alone, and shows the engine no errors.

    Attributes:
        replay: Share of the allowance that goes by the weights alone, against forgetting; in [0, 1].
        state: Whether to look at the student's accuracies and errors.
        size: Skill-list: examples per plan item; `None` for one item per skill.
    """

    replay: float = 0.25
    state: bool = True
    size: int | None = None

    def plan(self, brief: Brief, state: State) -> Plan:
        """Skill-list: asks for each skill by name."""
        counts, _ = self.split(state, state.skills)
        return Plan(_items(state.skills, counts, self.size, shown=self.state))

    def split(self, state: State, reports: Sequence[SkillReport]) -> tuple[list[int], Any]:
        """Splits by error rate; see `Shares`."""
        if self.state:
            return spend(reports, _errors(reports), state.examples_left, replay=self.replay, rng=None), None
        # Over the rounds, the odd example comes to all.
        rng = random.Random(derive_seed(state.seed, "shares"))
        return spend(reports, [0.0] * len(reports), state.examples_left, replay=0.0, rng=rng), None


@dataclass(frozen=True)
class Bandit:
    """Spends the allowance on skills by the gain that was *measured* when they were practised before.

    Each skill is an arm, and one *play* of it is an equal part of a round's allowance, so that a round plays all
    arms, each by some fraction. What `x` plays gain in feedback accuracy is modelled as `slope * x` plus noise
    and estimated per arm by discounted ridge regression with an upper confidence bound: D-LinUCB of Russac,
    Vernade & Cappé (2019, "Weighted linear bandits for non-stationary environments", arXiv 1909.09146) with one
    feature per arm; undiscounted it is LinUCB (Li et al. 2010, arXiv 1003.0146). The optimistic gain, cut to what
    is left to gain, is turned into shares by a softmax.

    A skill that is practised and gains nothing loses its share although its errors stay; one that was mastered
    has nothing left to gain. A skill that drops although it had less than an equal part was forgotten: that tells
    nothing of what practice gains, so it is left out of the regression, and the skill is practised again. The
    first round goes by what is left to gain, at most the bonus of an unplayed arm.

    All that it remembers is in the plan's memory: per skill the accuracy before, plays since, and the two sums of
    the regression. The twin draws shares at random in every round, uniformly from all that there could be.

    Attributes:
        explore: Share of the allowance that goes by the user's weights alone, so that every arm is measured.
        optimism: Factor of the confidence bound, in accuracy.
        temperature: Of the softmax, in accuracy; smaller is greedier.
        discount: How much each round's evidence counts in the next, in (0, 1].
        ridge: Plays that an arm seems to have had without any gain; above 0.
        state: Whether to look at the student's accuracies and errors.
        size: Skill-list: examples per plan item.
    """

    explore: float = 0.2
    optimism: float = 0.2
    temperature: float = 0.1
    discount: float = 0.9
    ridge: float = 0.25
    state: bool = True
    size: int = ITEM_SIZE

    def __post_init__(self) -> None:
        if not 0 <= self.explore <= 1 or not 0 < self.discount <= 1 or self.temperature <= 0 or self.ridge <= 0:
            raise ValueError("explore must be from 0 to 1, discount in (0, 1], temperature and ridge above 0")

    def plan(self, brief: Brief, state: State) -> Plan:
        """Skill-list: asks for each skill by name."""
        counts, memory = self.split(state, state.skills)
        return Plan(_items(state.skills, counts, self.size, shown=self.state), memory)

    def split(self, state: State, reports: Sequence[SkillReport]) -> tuple[list[int], Any]:
        """Splits by optimistic gain; see `Shares`."""
        total = state.examples_left
        if not self.state:
            rng = random.Random(derive_seed(state.seed, "shares"))
            return spend(reports, [rng.expovariate(1) for _ in reports], total, replay=self.explore, rng=rng), None
        arms = self._measured(state, reports)
        gains = [self._optimistic(arms[report.skill], report) for report in reports]
        top = max(gains, default=0.0)
        needs = [math.exp((gain - top) / self.temperature) for gain in gains]
        counts = spend(reports, needs, total, replay=self.explore, rng=None)
        for report, count in zip(reports, counts, strict=True):
            arms[report.skill][_PLAYS] += count * len(reports) / max(1, total)
        # Rounded: with thousands of skills, full precision would not fit into the memory allowed.
        skills = {skill: [round(value, 6) for value in arm] for skill, arm in arms.items()}
        return counts, {"iteration": state.iteration, "skills": skills}

    def _measured(self, state: State, reports: Sequence[SkillReport]) -> dict[str, list[float]]:
        """Returns the arms as they are after the latest training, if there was one since the memory was made."""
        memory = state.memory if isinstance(state.memory, Mapping) else {}
        before = memory.get("skills", {})
        trained = memory.get("iteration") != state.iteration
        arms = {}
        for report in reports:
            if report.skill not in before:
                arms[report.skill] = [report.accuracy, 0.0, 0.0, 0.0]
                continue
            accuracy, plays, weight, gain = before[report.skill]
            if trained:
                change = report.accuracy - accuracy
                told = change >= 0 or plays >= 1
                weight = self.discount * weight + (plays * plays if told else 0.0)
                gain = self.discount * gain + (plays * change if told else 0.0)
                accuracy, plays = report.accuracy, 0.0
            arms[report.skill] = [accuracy, plays, weight, gain]
        return arms

    def _optimistic(self, arm: Sequence[float], report: SkillReport) -> float:
        _, _, weight, gain = arm
        bound = gain / (weight + self.ridge) + self.optimism / math.sqrt(weight + self.ridge)
        return max(0.0, min(bound, 1 - report.accuracy))


_PLAYS: Final = 1
# Place of the plays since the last training among an arm's numbers: accuracy, plays, sum of squared plays, sum
# of plays times gain.


def _errors(reports: Sequence[SkillReport]) -> list[float]:
    return [max(0.0, 1 - report.accuracy) for report in reports]


def _items(
    reports: Sequence[SkillReport], counts: Sequence[int], size: int | None, *, shown: bool
) -> tuple[PlanItem, ...]:
    """Returns items that ask for each skill by name, with some of its errors if they are to be shown."""
    return tuple(
        PlanItem(
            part,
            f"Write problems that practise {report.skill}.",
            report.skill,
            report.errors[:SHOWN_ERRORS] if shown else (),
        )
        for report, count in zip(reports, counts, strict=True)
        for part in chunks(count, size or max(1, count))
    )
