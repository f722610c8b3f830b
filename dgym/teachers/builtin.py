"""The teachers that ship: named pairs of policies and an engine.

State-blind, the same in every environment: `uniform` (the one to beat) and `random`. State-using: `weakness` in
every environment, `bandit` where there are skills, and `threshold`, `alternating` and `fill-balanced` on trees.
Each of these has a no-state twin that acts in the same form: `weakness-blind`, `bandit-blind`, `random-tree` (for
`threshold`), `alternating-blind`, `fill-balanced-blind`. Controls, shown beside the ranking: `no-data`,
`wrong-answers`, `off-domain`, and `ceiling`, which is `uniform` with ten times the budget.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgym import registry
from dgym.core import Engine, Policy, Teacher
from dgym.teachers.engines import Noisy, Procedural, WrongAnswers
from dgym.teachers.policies import Bandit, Blind, ByErrorRate, MoreLikeErrors, Nothing
from dgym.teachers.tree import Alternating, FillBalanced, GrowThenShift, RandomTree, Threshold, TreePolicy


def _blind(
    name: str, policy: Policy, engine: Engine, *, ranked: bool, unverified: bool = False, factor: int = 1
) -> Teacher:
    return Teacher(
        name=name,
        policies=dict.fromkeys(registry.names("environment"), policy),
        engine=engine,
        privileged=True,
        unverified=unverified,
        budget_factor=factor,
        state_blind=True,
        ranked=ranked,
    )


def _pair(name: str, policies: Mapping[str, Policy], twin: str = "", noise: float = 0.0) -> Teacher:
    engine = Noisy(Procedural(), noise) if noise else Procedural()
    return Teacher(name=name, policies=policies, engine=engine, privileged=True, twin=twin)


def _tree(name: str, policy: TreePolicy, twin: str = "") -> Teacher:
    return _pair(name, {"skill-tree": policy}, twin)


def uniform() -> Teacher:
    """All kinds of problem of the domain in equal parts."""
    return _blind("uniform", Blind(), Procedural(), ranked=True)


def random_skills() -> Teacher:
    """Each batch of twenty examples from one kind of problem, drawn at random."""
    policy = Blind("Write problems of one kind, whichever you like.")
    return _blind("random", policy, Procedural(otherwise="one"), ranked=True)


def weakness(replay: float = 0.25, per_error: int = 4, noise: float = 0.0) -> Teacher:
    """More of what the student gets wrong, and some of everything against forgetting.

    Args:
        replay: Share of the data spent on everything, in [0, 1].
        per_error: Open-ended: examples written for each failed problem that is drawn.
        noise: Share of the examples with a wrong answer, in [0, 1].
    """
    return _pair("weakness", _weakness(replay, per_error, state=True), noise=noise)


def weakness_blind(replay: float = 0.25, per_error: int = 4, noise: float = 0.0) -> Teacher:
    """The no-state twin of `weakness`: problems drawn at random, skills and subskills in equal parts.

    Args:
        replay: Open-ended: share of the data spent on everything, in [0, 1].
        per_error: Open-ended: examples written for each problem that is drawn.
        noise: Share of the examples with a wrong answer, in [0, 1].
    """
    return _pair("weakness-blind", _weakness(replay, per_error, state=False), twin="weakness", noise=noise)


def _weakness(replay: float, per_error: int, *, state: bool) -> Mapping[str, Policy]:
    return {
        "open-ended": MoreLikeErrors(per_error, replay, state),
        "skill-list": ByErrorRate(replay, state),
        "skill-tree": GrowThenShift(state, replay=replay),
    }


def bandit(explore: float = 0.2) -> Teacher:
    """Goes by the gain that was measured when a skill was practised before.

    Args:
        explore: Share of the data spent on all skills alike, so that each is measured; in [0, 1].
    """
    return _pair("bandit", _bandit(explore, state=True))


def bandit_blind(explore: float = 0.2) -> Teacher:
    """The no-state twin of `bandit`: shares of skills drawn at random in every round.

    Args:
        explore: Share of the data spent on all skills alike, in [0, 1].
    """
    return _pair("bandit-blind", _bandit(explore, state=False), twin="bandit")


def _bandit(explore: float, *, state: bool) -> Mapping[str, Policy]:
    shares = Bandit(explore, state=state)
    return {"skill-list": shares, "skill-tree": GrowThenShift(state, shares=shares)}


def threshold(threshold: float = 0.01) -> Teacher:
    """Trees: exploits a skill as long as its last reward is above a threshold, else explores.

    Args:
        threshold: Of the change in feedback accuracy.
    """
    return _tree("threshold", Threshold(threshold=threshold))


def random_tree() -> Teacher:
    """Trees: explores or exploits at random; the no-state twin of `threshold`."""
    return _tree("random-tree", RandomTree(), twin="threshold")


def alternating() -> Teacher:
    """Trees: explores and exploits by turns."""
    return _tree("alternating", Alternating())


def alternating_blind() -> Teacher:
    """The no-state twin of `alternating`."""
    return _tree("alternating-blind", Alternating(state=False), twin="alternating")


def fill_balanced(subskills: int = 4, data: int = 60) -> Teacher:
    """Trees: grows each skill to so many subskills, then fills each of them to so much data.

    Args:
        subskills: Most subskills of a skill.
        data: Examples of each subskill; when all are full, twice as many, and so on.
    """
    return _tree("fill-balanced", FillBalanced(subskills=subskills, data=data))


def fill_balanced_blind(subskills: int = 4, data: int = 60) -> Teacher:
    """The no-state twin of `fill-balanced`.

    Args:
        subskills: Most subskills of a skill.
        data: Examples of each subskill; when all are full, twice as many, and so on.
    """
    policy = FillBalanced(state=False, subskills=subskills, data=data)
    return _tree("fill-balanced-blind", policy, twin="fill-balanced")


def no_data() -> Teacher:
    """Control: writes nothing."""
    return _blind("no-data", Nothing(), Procedural(), ranked=False)


def wrong_answers() -> Teacher:
    """Control: `uniform` with wrong answers."""
    return _blind("wrong-answers", Blind(), WrongAnswers(Procedural()), ranked=False, unverified=True)


def off_domain() -> Teacher:
    """Control: correct examples of kinds that the domain never tests."""
    policy = Blind("Write problems that have nothing to do with the domain.")
    return _blind("off-domain", policy, Procedural(otherwise="off-domain"), ranked=False, unverified=True)


def ceiling() -> Teacher:
    """Reference: `uniform` with ten times the budget."""
    return _blind("ceiling", Blind(), Procedural(), ranked=False, factor=10)
