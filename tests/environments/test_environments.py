"""What the environments show; what any environment must do is in `dgym.checks`."""

import pytest

from dgym.core import (
    Action,
    Attempt,
    Curriculum,
    Example,
    Feedback,
    Observation,
    Plan,
    PlanItem,
    Problem,
    SkillOrganisation,
    SkillReport,
    StateContext,
)
from dgym.environments import make_environment
from dgym.environments.open_ended import OpenEnded
from dgym.environments.skill_list import SkillList
from dgym.environments.skill_tree import SkillTreeEnvironment
from dgym.errors import UsageError

CONTEXT = StateContext(iteration=1, seed=5, examples_left=9)
ATTEMPTS = (
    Attempt(Problem("p1", "1 + 1?", "2", "sum"), "2", 1.0),
    Attempt(Problem("p2", "a right angle?", "90", "angle", (b"a picture",)), "45", 0.5),
    Attempt(Problem("p3", "2 + 2?", "4", "sum"), "5", 0.0),
)
FEEDBACK = Feedback("feedback", ATTEMPTS)
SEEN = (
    Observation("1 + 1?", "2", "2", True),
    Observation("a right angle?", "45", "90", False, (b"a picture",)),
    Observation("2 + 2?", "5", "4", False),
)
WITH_SKILLS = [SkillList, SkillTreeEnvironment]


def test_open_ended_shows_every_attempt_in_order():
    state = OpenEnded().observe(FEEDBACK, CONTEXT)
    assert (state.observations, state.skills, state.score) == (SEEN, (), 0.5)


@pytest.mark.parametrize("kind", WITH_SKILLS)
def test_accuracy_and_errors_by_skill(kind):
    state = kind().observe(FEEDBACK, CONTEXT)
    assert state.observations == ()
    assert state.skills == (SkillReport("angle", 0.5, 1, (SEEN[1],)), SkillReport("sum", 0.5, 2, (SEEN[2],)))


@pytest.mark.parametrize("environment", [OpenEnded(), SkillList(), SkillTreeEnvironment()])
def test_the_context_is_passed_on(environment):
    state = environment.observe(FEEDBACK, CONTEXT)
    assert (state.environment, state.iteration, state.seed, state.examples_left) == (environment.name, 1, 5, 9)


def test_only_environments_with_skills_organise_them():
    assert not isinstance(OpenEnded(), SkillOrganisation)
    assert isinstance(SkillList(), SkillOrganisation)
    assert isinstance(SkillTreeEnvironment(), SkillOrganisation)


@pytest.mark.parametrize("environment", [SkillList(), SkillTreeEnvironment()])
def test_plain_items_and_memory_are_left_as_they_are(environment):
    items = (PlanItem(3, "any", like=SEEN[:1]), PlanItem(4, "sums", "sum"), PlanItem(2, "new", "no such skill"))
    state = environment.observe(FEEDBACK, CONTEXT)
    assert environment.expand(Plan(items, [1], ask_known=True), state) == Plan(items, [1], ask_known=True)
    examples = [Example("1 + 2?", "3", "sum"), Example("?", "!", None)]
    assert list(environment.training_set(examples, CONTEXT)) == examples


def test_a_skill_list_has_no_trees_to_act_on():
    plan = Plan((PlanItem(1),), actions=(Action("sum", "explore", ("a",), 3),))
    assert SkillList().expand(plan, SkillList().observe(FEEDBACK, CONTEXT)) == Plan((PlanItem(1),))


# Discovered skills ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WITH_SKILLS)
def test_discovered_skills_take_the_place_of_the_gold_ones(kind):
    found = {"p1": "easy", "p3": "two/fold", "unused": "x"}
    state = kind(skills=found).observe(FEEDBACK, CONTEXT)
    assert [(r.skill, r.count, r.accuracy) for r in state.skills] == [
        ("easy", 1, 1.0),
        ("other", 1, 0.5),
        ("two/fold", 1, 0.0),
    ]
    assert not {"sum", "angle"} & {r.skill for r in state.skills}


@pytest.mark.parametrize("kind", WITH_SKILLS)
def test_without_any_discovered_skill_everything_is_other(kind):
    assert [r.skill for r in kind(skills={}).observe(FEEDBACK, CONTEXT).skills] == ["other"]


# The curriculum ------------------------------------------------------------------------------------------------


def curriculum_of(kind, **fields):
    environment = kind(curriculum=Curriculum(**fields))
    return environment, environment.observe(FEEDBACK, CONTEXT)


@pytest.mark.parametrize("kind", WITH_SKILLS)
@pytest.mark.parametrize("fields", [{"exclude": ("angle",)}, {"include": ("sum",)}])
def test_excluded_skills_are_neither_shown_nor_taught(kind, fields):
    environment, state = curriculum_of(kind, **fields)
    assert [r.skill for r in state.skills] == ["sum"]
    assert [t.skill for t in state.trees] == (["sum"] if kind is SkillTreeEnvironment else [])
    items = (PlanItem(1, skill="angle"), PlanItem(1, skill="angle/right"), PlanItem(1, skill="sum"), PlanItem(1))
    assert environment.expand(Plan(items), state).items == items[2:]


@pytest.mark.parametrize("kind", WITH_SKILLS)
def test_caps_cut_a_skill_with_all_its_refinements(kind):
    environment, state = curriculum_of(kind, caps={"sum": 5, "angle": 0})
    assert [(r.skill, r.cap) for r in state.skills] == [("angle", 0), ("sum", 5)]
    items = (
        PlanItem(3, skill="sum"),
        PlanItem(1, skill="angle"),
        PlanItem(3, skill="sum/carry"),
        PlanItem(1, skill="sum"),
        PlanItem(9),
    )
    cut = environment.expand(Plan(items), state).items
    assert [(i.count, i.skill) for i in cut] == [(3, "sum"), (2, "sum/carry"), (9, None)]


@pytest.mark.parametrize("kind", WITH_SKILLS)
def test_a_skill_with_a_slash_in_its_name_is_no_refinement(kind):
    found = {"p1": "a", "p2": "a/b", "p3": "c"}
    environment = kind(curriculum=Curriculum(exclude=("a",), caps={"a/b": 4}), skills=found)
    state = environment.observe(FEEDBACK, CONTEXT)
    items = (PlanItem(3, skill="a/b"), PlanItem(3, skill="a/b/c"), PlanItem(3, skill="a/x"))
    assert [(i.count, i.skill) for i in environment.expand(Plan(items), state).items] == [(3, "a/b"), (1, "a/b/c")]


@pytest.mark.parametrize("kind", WITH_SKILLS)
def test_weights_are_shown(kind):
    _, state = curriculum_of(kind, weights={"sum": 2.5})
    assert [(r.skill, r.weight) for r in state.skills] == [("angle", 1.0), ("sum", 2.5)]


@pytest.mark.parametrize("kind", WITH_SKILLS)
@pytest.mark.parametrize("field", ["include", "exclude", "weights", "caps"])
def test_a_misspelt_skill_is_named_with_the_nearest(kind, field):
    value = {"angel": 1} if field in ("weights", "caps") else ("angel",)
    with pytest.raises(UsageError, match=r"'angel'. Did you mean 'angle'"):
        curriculum_of(kind, **{field: value})


@pytest.mark.parametrize("kind", WITH_SKILLS)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exclude": ("sum", "angle")}, "leaves no skill"),
        ({"include": ("sum",), "exclude": ("sum",)}, "leaves no skill"),
        ({"weights": {"sum": -1.0}}, "weight of 'sum' is -1.0"),
        ({"weights": {"sum": float("nan")}}, "weight of 'sum' is nan"),
        ({"caps": {"sum": -1}}, "cap of 'sum' is -1"),
    ],
)
def test_a_curriculum_that_cannot_be_followed_is_refused(kind, fields, message):
    with pytest.raises(UsageError, match=message):
        curriculum_of(kind, **fields)


@pytest.mark.parametrize("kind", WITH_SKILLS)
def test_no_feedback_at_all_is_an_ordinary_case(kind):
    environment = kind(curriculum=Curriculum(include=("sum",)))
    assert environment.observe(Feedback("feedback", ()), CONTEXT).skills == ()


def test_only_trees_can_be_frozen():
    with pytest.raises(UsageError, match="no trees to freeze"):
        SkillList(curriculum=Curriculum(freeze=("sum",)))
    assert [t.frozen for t in curriculum_of(SkillTreeEnvironment, freeze=("sum",))[1].trees] == [False, True]


# By name -------------------------------------------------------------------------------------------------------


def test_environments_are_made_by_name():
    wanted = Curriculum(exclude=("sum",))
    assert isinstance(make_environment("open-ended"), OpenEnded)
    assert isinstance(make_environment("skill-tree"), SkillTreeEnvironment)
    made = make_environment("skill-list", wanted, {"p1": "sum"})
    assert isinstance(made, SkillList)
    assert [r.skill for r in made.observe(FEEDBACK, CONTEXT).skills] == ["other"]


@pytest.mark.parametrize("given", [{"curriculum": Curriculum(exclude=("sum",))}, {"skills": {}}])
def test_an_environment_without_skills_takes_no_curriculum(given):
    with pytest.raises(UsageError, match=r"'open-ended' shows no skills.*skill-list, skill-tree"):
        make_environment("open-ended", **given)
