"""What the two environments show; what any environment must do is in `dgym.checks`."""

import pytest

from dgym.core import Attempt, Feedback, Observation, Problem, SkillReport, StateContext
from dgym.environments.open_ended import OpenEnded
from dgym.environments.skill_list import SkillList

CONTEXT = StateContext(iteration=1, seed=5, examples_left=9)
ATTEMPTS = (
    Attempt(Problem("p1", "1 + 1?", "2", "sum"), "2", 1.0),
    Attempt(Problem("p2", "a right angle?", "90", "angle"), "45", 0.5),
    Attempt(Problem("p3", "2 + 2?", "4", "sum"), "5", 0.0),
)
FEEDBACK = Feedback("feedback", ATTEMPTS)
SEEN = (
    Observation("1 + 1?", "2", "2", True),
    Observation("a right angle?", "45", "90", False),
    Observation("2 + 2?", "5", "4", False),
)


def test_open_ended_shows_every_attempt_in_order():
    state = OpenEnded().observe(FEEDBACK, CONTEXT)
    assert (state.observations, state.skills, state.score) == (SEEN, (), 0.5)


def test_skill_list_shows_accuracy_and_errors_by_skill():
    state = SkillList().observe(FEEDBACK, CONTEXT)
    assert state.observations == ()
    assert state.skills == (SkillReport("angle", 0.5, 1, (SEEN[1],)), SkillReport("sum", 0.5, 2, (SEEN[2],)))


@pytest.mark.parametrize("environment", [OpenEnded(), SkillList()])
def test_the_context_is_passed_on(environment):
    state = environment.observe(FEEDBACK, CONTEXT)
    assert (state.environment, state.iteration, state.seed, state.examples_left) == (environment.name, 1, 5, 9)
