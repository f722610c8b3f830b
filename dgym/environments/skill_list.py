"""Skill-list: the teacher sees accuracy and errors per skill."""

from __future__ import annotations

from dgym.core import Feedback, SkillReport, State, StateContext
from dgym.environments.open_ended import observation


class SkillList:
    """The environment `skill-list`, on the domain's gold skills."""

    name = "skill-list"
    version = "1"
    wants_probes = False

    def observe(self, feedback: Feedback, context: StateContext) -> State:
        """Groups the attempts by skill, skills in alphabetical order."""
        reports = (
            SkillReport(
                skill=skill,
                accuracy=sum(a.score for a in attempts) / len(attempts),
                count=len(attempts),
                errors=tuple(observation(a) for a in attempts if not a.correct),
            )
            for skill, attempts in feedback.by_skill().items()
        )
        return State(environment=self.name, score=feedback.score, skills=tuple(reports), **context.fields())
