"""`dgym.make`: the closed loop as an object with `reset` and `step`, for teachers written as a plain loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dgym.core import Brief, Example, Plan, PlanItem, Rules, State
from dgym.domains import make_domain
from dgym.environments import make_environment
from dgym.episode import ClosedLoop, overlap_index
from dgym.errors import DgymError
from dgym.models.recipe import Recipe
from dgym.students.host import StudentConfig, StudentHost, configured, local_student
from dgym.students.names import own_recipe


class Gym:
    """One environment, domain and student, driven by hand.

    A step's reward is the change in the score on the selection split, in [-1, 1]; an episode's rewards add up to
    the gain of its last iteration.

    Attributes:
        brief: What a teacher is told at the start.
    """

    brief: Brief

    def __init__(self, environment: str, domain: str, config: StudentConfig, rules: Rules) -> None:
        self._environment = make_environment(environment)
        self._domain = make_domain(domain)
        self._index = overlap_index(self._domain)
        self._config, self._rules = config, rules
        self._host = StudentHost()
        self._loop: ClosedLoop | None = None
        self.brief = self._new_loop().brief

    def reset(self) -> State:
        """Starts anew with the untrained student, and evaluates it."""
        self._loop = self._new_loop()
        self._loop.begin()
        return self._loop.observe()

    def step(self, examples: Sequence[Example]) -> tuple[State, float, bool, dict[str, Any]]:
        """Submits examples, trains the student and evaluates it.

        Args:
            examples: What to teach; at most the budget counts.

        Returns:
            The new state; the change in the selection score; whether the episode is over; and, for curves, a
            dictionary with `score` (feedback), `kept`, `rejected` (counts by reason) and `seconds` by stage.

        Raises:
            DgymError: If `reset` was not called, or if the episode is over.
        """
        loop = self._loop
        if loop is None or loop.done:
            raise DgymError("The episode is over; call reset()." if loop else "Call reset() first.")
        before = loop.last.selection.score
        loop.accept(Plan((PlanItem(len(examples)),) if examples else ()), loop.observe())
        loop.submit(examples)
        rejected = loop.observe().rejected
        step = loop.learn()
        info = {
            "score": step.feedback.score,
            # What overlaps a hidden split looks kept, as it does to every teacher.
            "kept": len(step.verdicts) - sum(rejected.values()),
            "rejected": dict(rejected),
            "seconds": dict(step.seconds),
        }
        return loop.observe(), step.selection.score - before, loop.done, info

    def close(self) -> None:
        """Gives back the student's memory."""
        self._host.close("gym")
        self._loop = None

    def _new_loop(self) -> ClosedLoop:
        student = local_student(self._host, self._config, "gym")
        return ClosedLoop(self._domain, self._environment, student, self._rules, index=self._index)


def make(
    environment: str = "open-ended",
    domain: str = "math",
    student: str = "micro-math",
    *,
    seed: int = 1,
    rules: Rules | None = None,
    recipe: Recipe | None = None,
) -> Gym:
    """Makes a closed loop to drive by hand.

    Args:
        environment: Registered name.
        domain: Registered name.
        student: Registered name, which draws a variant by seed, or `name:variant`.
        seed: Draws the variant and seeds the training.
        rules: Iterations, budget, protocol.
        recipe: How the student is trained; by default as its family says.

    Raises:
        UsageError: If a name is unknown.
    """
    rules = rules or Rules(training_seed=seed, teacher_seed=seed)
    config = configured(student, seed, recipe or Recipe.preset(own_recipe(student)))
    return Gym(environment, domain, config, rules)
