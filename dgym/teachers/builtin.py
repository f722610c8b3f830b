"""The teachers that ship: named pairs of policies and an engine.

State-blind: `uniform` (the one to beat) and `random`. State-using: `weakness`. Controls, shown beside the
ranking: `no-data`, `wrong-answers`, `off-domain`, and `ceiling`, which is `uniform` with ten times the budget.
"""

from __future__ import annotations

from dgym import registry
from dgym.core import Engine, Policy, Teacher
from dgym.teachers.engines import Procedural, WrongAnswers
from dgym.teachers.policies import Blind, ByErrorRate, MoreLikeErrors, Nothing


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


def uniform() -> Teacher:
    """All kinds of problem of the domain in equal parts."""
    return _blind("uniform", Blind(), Procedural(), ranked=True)


def random_skills() -> Teacher:
    """Each batch of twenty examples from one kind of problem, drawn at random."""
    policy = Blind("Write problems of one kind, whichever you like.")
    return _blind("random", policy, Procedural(otherwise="one"), ranked=True)


def weakness(replay: float = 0.25, per_error: int = 4) -> Teacher:
    """More of what the student gets wrong, and some of everything against forgetting.

    Args:
        replay: Share of the data spent on everything, in [0, 1].
        per_error: Open-ended: examples written for each failed problem that is drawn.
    """
    return Teacher(
        name="weakness",
        policies={
            "open-ended": MoreLikeErrors(per_error=per_error, replay=replay),
            "skill-list": ByErrorRate(replay=replay),
        },
        engine=Procedural(),
        privileged=True,
    )


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
