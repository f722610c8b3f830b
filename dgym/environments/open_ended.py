"""Open-ended: the teacher sees every feedback problem with the student's answer, and no skill labels."""

from __future__ import annotations

from dgym.core import Attempt, Feedback, Observation, State, StateContext


def observation(attempt: Attempt) -> Observation:
    """Returns what a teacher may see of an attempt: no name, no gold skill."""
    problem = attempt.problem
    return Observation(problem.prompt, attempt.response, problem.reference, attempt.correct, problem.images)


class OpenEnded:
    """The environment `open-ended`."""

    name = "open-ended"
    version = "1"
    wants_probes = False

    def observe(self, feedback: Feedback, context: StateContext) -> State:
        """Shows all attempts in the split's order."""
        return State(
            environment=self.name,
            score=feedback.score,
            observations=tuple(observation(a) for a in feedback.attempts),
            **context.fields(),
        )
