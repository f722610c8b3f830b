"""Skill-list: the teacher sees accuracy and errors per skill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from dgym.core import Attempt, Curriculum, Example, Feedback, Plan, SkillReport, State, StateContext
from dgym.environments.open_ended import observation
from dgym.errors import UsageError
from dgym.skills.curriculum import FREE, allows, check_names, check_numbers, within
from dgym.skills.discovery import OTHER


class SkillList:
    """The environment `skill-list`.

    The curriculum's excluded skills are neither shown nor taught: plan items that name them are dropped. Caps cut
    items. Weights are shown in the reports, for policies to multiply their own weights with. An item that names
    no skill passes, so that a teacher that asks for a mixture is not held by the curriculum.

    Args:
        curriculum: What the user wants taught.
        skills: Discovered skills, by problem id. Problems that it lacks are of the skill `other`, for their errors
            are not to be hidden from a teacher. `None` for the domain's own skills.

    Raises:
        UsageError: If the curriculum's numbers are out of range, or if it freezes trees where there are none.
    """

    name = "skill-list"
    version = "1"
    wants_probes = False
    has_trees: ClassVar[bool] = False

    def __init__(self, *, curriculum: Curriculum = FREE, skills: Mapping[str, str] | None = None) -> None:
        check_numbers(curriculum)
        if curriculum.freeze and not self.has_trees:
            raise UsageError(
                f"The environment {self.name!r} has no trees to freeze; skill-tree has, and exclude leaves a skill out."
            )
        self.curriculum, self._skills = curriculum, skills

    def observe(self, feedback: Feedback, context: StateContext) -> State:
        """Groups the attempts by skill, skills in alphabetical order.

        Raises:
            UsageError: If the curriculum names a skill that does not exist, or leaves none.
        """
        groups = self._groups(feedback)
        if groups:
            check_names(self.curriculum, tuple(groups))
        reports = (
            SkillReport(
                skill=skill,
                accuracy=accuracy(attempts),
                count=len(attempts),
                errors=tuple(observation(a) for a in attempts if not a.correct),
                weight=float(self.curriculum.weights.get(skill, 1.0)),
                cap=self.curriculum.caps.get(skill),
            )
            for skill, attempts in groups.items()
            if allows(self.curriculum, skill)
        )
        return State(environment=self.name, score=feedback.score, skills=tuple(reports), **context.fields())

    def expand(self, plan: Plan, state: State) -> Plan:
        """Keeps the items within the curriculum; there are no trees to act on."""
        shown = tuple(report.skill for report in state.skills)
        return replace(plan, items=within(self.curriculum, plan.items, shown), actions=())

    def training_set(self, examples: Sequence[Example], context: StateContext) -> Sequence[Example]:
        """Returns all examples."""
        return examples

    def _groups(self, feedback: Feedback) -> dict[str, Sequence[Attempt]]:
        if self._skills is None:
            return dict(feedback.by_skill())
        groups: dict[str, list[Attempt]] = {}
        for attempt in feedback.attempts:
            groups.setdefault(self._skills.get(attempt.problem.id, OTHER), []).append(attempt)
        return {skill: groups[skill] for skill in sorted(groups)}

    def _accuracies(self, feedback: Feedback) -> dict[str, float]:
        """Returns the accuracy of every skill that the curriculum shows."""
        return {s: accuracy(group) for s, group in self._groups(feedback).items() if allows(self.curriculum, s)}


def accuracy(attempts: Sequence[Attempt]) -> float:
    """Returns the mean score of some attempts, at least one."""
    return sum(a.score for a in attempts) / len(attempts)
