"""The skill-tree environment: from actions to items, from a history to trees, and what is trained on."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgym.core import (
    Action,
    Attempt,
    Curriculum,
    Example,
    Feedback,
    Past,
    Plan,
    PlanItem,
    Probe,
    Problem,
    StateContext,
    Subskill,
    Teacher,
    Turn,
)
from dgym.environments.skill_tree import SkillTreeEnvironment
from dgym.errors import TeacherError
from dgym.fakes import FakeDomain
from dgym.skills.tree import Bounds
from dgym.teachers.engines import Procedural

SKILLS = ("add", "larger", "smaller", "subtract")
# A machine may be busy: how long an example takes is no finding.
calm = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def feedback(right, asked=10):
    """Feedback with so many of ten problems right, by skill."""
    return Feedback(
        "feedback",
        tuple(
            Attempt(Problem(f"{skill}{i}", f"{skill} {i}", str(i), skill), "!", float(i < count))
            for skill, count in right.items()
            for i in range(asked)
        ),
    )


HALF = feedback(dict.fromkeys(SKILLS, 5))


def context(left=100, past=(), iteration=None, **fields):
    iteration = len(past) if iteration is None else iteration
    return StateContext(iteration=iteration, seed=3, past=tuple(past), examples_left=left, **fields)


def explore(skill, data, *grow):
    return Action(skill, "explore", grow, data)


def exploit(skill, **shift):
    return Action(skill, "exploit", shift={f"{skill}/{name}": change for name, change in shift.items()})


def expanded(actions, left=100, past=(), items=(), environment=None, shown=HALF):
    environment = environment or SkillTreeEnvironment()
    state = environment.observe(shown, context(left, past))
    return environment.expand(Plan(tuple(items), actions=tuple(actions)), state)


def counts(plan):
    """How many examples of each subskill a plan asks for."""
    out = Counter()
    for item in plan.items:
        out[item.skill] += item.count
    return dict(out)


GROWN = (Past(0, HALF, (explore("add", 10, "add/a", "add/b"),), {"add/a": 10, "add/b": 10}),)


# From actions to items -----------------------------------------------------------------------------------------


def test_explore_asks_for_the_new_subskills():
    plan = expanded([explore("add", 30, "with carry", "add/small")])
    assert counts(plan) == {"add/with carry": 30, "add/small": 30}
    # What is written down has full names, whichever way the policy gave them.
    assert plan.actions == (explore("add", 30, "add/with carry", "add/small"),)
    assert [item.count for item in plan.items] == [20, 10, 20, 10]
    assert plan.items[0].instruction == "Write problems that practise add, in particular: with carry."


def test_items_show_errors_of_their_skill_and_not_always_the_same():
    items = expanded([explore("add", 40, "a")], shown=feedback({"add": 2, "larger": 0})).items
    assert all(len(item.like) == 5 and not any(o.correct for o in item.like) for item in items)
    assert all(o.prompt.startswith("add ") for item in items for o in item.like)
    assert items[0].like != items[1].like
    assert all(i.like == () for i in expanded([explore("add", 3, "a")], shown=feedback({"add": 10})).items)


def test_a_policy_without_state_shows_the_engine_no_errors():
    blind = replace(explore("add", 10, "a"), show_errors=False)
    items = expanded([blind, explore("larger", 10, "b")], shown=feedback({"add": 2, "larger": 0})).items
    assert {bool(item.like) for item in items if item.skill == "add/a"} == {False}
    assert {bool(item.like) for item in items if item.skill == "larger/b"} == {True}


def test_exploit_asks_for_what_it_adds_and_nothing_for_what_it_takes():
    assert counts(expanded([exploit("add", a=7, b=-4)], past=GROWN)) == {"add/a": 7}
    assert counts(expanded([exploit("add", a=-10, b=-10)], past=GROWN)) == {}


def test_what_was_rejected_is_asked_for_again():
    past = (Past(0, HALF, (explore("add", 10, "add/a", "add/b"),), {"add/a": 10, "add/b": 6}),)
    assert counts(expanded([exploit("add")], past=past)) == {"add/b": 4}
    assert counts(expanded([exploit("add", b=-4)], past=past)) == {}
    # A tree that the plan does not act on gets nothing.
    assert counts(expanded([explore("larger", 3, "x")], past=past)) == {"larger/x": 3}
    assert counts(expanded([], past=past)) == {}


def test_a_subskill_may_be_grown_and_shifted_in_one_plan():
    assert counts(expanded([explore("add", 5, "a"), exploit("add", a=3)])) == {"add/a": 8}


def test_every_skill_gets_its_part_of_a_short_allowance():
    plan = expanded([explore(skill, 30, "a", "b") for skill in SKILLS], left=40)
    assert counts(plan) == {f"{skill}/{part}": 5 for skill in SKILLS for part in "ab"}
    plan = expanded([explore("add", 60, "a"), explore("larger", 10, "a", "b")], left=8)
    assert counts(plan) == {"add/a": 6, "larger/a": 1, "larger/b": 1}


@calm
@given(
    st.lists(st.tuples(st.sampled_from(SKILLS), st.sampled_from("abcd"), st.integers(0, 50)), max_size=9),
    st.integers(0, 120),
)
def test_no_plan_asks_for_more_than_is_left_or_wanted(grown, left):
    plan = expanded([explore(skill, data, part) for skill, part, data in grown], left=left)
    wanted = {}
    for skill, part, data in grown:
        wanted.setdefault(f"{skill}/{part}", data)
    asked = counts(plan)
    assert sum(asked.values()) == min(left, sum(wanted.values()))
    assert all(0 < count <= wanted[name] for name, count in asked.items())
    assert all(0 < item.count <= 20 for item in plan.items)
    assert all(item.instruction for item in plan.items)


def test_plain_items_go_first():
    items = (PlanItem(5, "any"), PlanItem(4, "gcd", "larger"))
    plan = expanded([explore("add", 30, "a")], left=12, items=items)
    assert plan.items[:2] == items
    assert counts(plan) == {None: 5, "larger": 4, "add/a": 3}


def test_without_allowance_there_are_no_items_but_the_tree_grows():
    plan = expanded([explore("add", 30, "a")], left=0)
    assert (plan.items, plan.actions) == ((), (explore("add", 30, "add/a"),))


def test_bounds_hold_for_the_whole_forest():
    tight = SkillTreeEnvironment(bounds=Bounds(max_subskills=2, max_allocation=9, total=20))
    plan = expanded([explore("add", 30, "a", "b", "c"), explore("larger", 30, "a")], environment=tight)
    assert counts(plan) == {"add/a": 9, "add/b": 9, "larger/a": 2}
    past = (Past(0, HALF, plan.actions, counts(plan)),)
    shown = tight.observe(HALF, context(100, past))
    assert [[leaf.allocation for leaf in t.subskills] for t in shown.trees] == [[9, 9], [2], [], []]
    assert counts(expanded([explore("smaller", 5, "a")], environment=tight, past=past)) == {}


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (explore("ad", 3, "x"), "no skill tree named 'ad'. Did you mean 'add'"),
        (exploit("add", aa=3), "named 'add/aa'. Did you mean 'add/a'"),
        (explore("add", 3, " "), "printable"),
        (explore("add", 3, "x" * 300), "at most 200"),
        (explore("add", 3, "a\ud800"), "printable"),
        (explore("add", 2.5, "x"), "no whole number"),
        (exploit("add", a=0.5), "no whole number"),
        (Action("add", "prune"), "'prune'"),
        ("add", "is a str"),
    ],
)
def test_an_action_that_cannot_be_carried_out_is_the_teachers_fault(action, message):
    with pytest.raises(TeacherError, match=message):
        expanded([action], past=GROWN)


# The curriculum ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"exclude": ("add",)}, {"include": ("larger", "smaller")}, {"freeze": ("add",)}])
def test_actions_on_excluded_skills_and_frozen_trees_are_ignored(fields):
    environment = SkillTreeEnvironment(curriculum=Curriculum(**fields))
    plan = expanded([explore("add", 9, "new"), explore("larger", 4, "a")], environment=environment, past=GROWN)
    assert (counts(plan), [a.skill for a in plan.actions]) == ({"larger/a": 4}, ["larger"])


def test_a_tree_that_is_frozen_midway_keeps_what_it_has():
    environment = SkillTreeEnvironment(curriculum=Curriculum(freeze=("add",)))
    tree = environment.observe(HALF, context(past=GROWN)).trees[0]
    assert tree.frozen
    assert [(leaf.name, leaf.allocation, leaf.data) for leaf in tree.subskills] == [
        ("add/a", 10, 10),
        ("add/b", 10, 10),
    ]


def test_a_cap_is_shared_by_a_skills_items_and_what_it_leaves_goes_to_others():
    environment = SkillTreeEnvironment(curriculum=Curriculum(caps={"add": 7}))
    actions = [explore("add", 10, "a", "b"), explore("larger", 30, "a")]
    assert counts(expanded(actions, environment=environment, left=30)) == {"add/a": 4, "add/b": 3, "larger/a": 23}
    plan = expanded(actions, environment=environment, left=30, items=(PlanItem(5, "", "add"),))
    assert counts(plan) == {"add": 5, "add/a": 1, "add/b": 1, "larger/a": 23}


# The history ---------------------------------------------------------------------------------------------------


def test_trees_and_history_follow_from_the_past():
    first, second = feedback({"add": 2, "larger": 9}), feedback({"add": 5, "larger": 8})
    past = (
        Past(0, first, (explore("add", 10, "add/a"),), {"add/a": 9, None: 1}),
        Past(1, second, (exploit("add", a=4),), {"add/a": 4}),
    )
    probes = (Probe("add/a", 0.5, 13), Probe("larger", 0.1, 2))
    state = SkillTreeEnvironment().observe(feedback({"add": 5, "larger": 9}), context(past=past, probes=probes))
    assert [t.skill for t in state.trees] == [r.skill for r in state.skills] == ["add", "larger"]
    assert state.trees[0].subskills == (Subskill("add/a", 14, 13, 0.5),)
    one, two = state.history
    assert one == Turn(
        0, {"add": 0.2, "larger": 0.9}, past[0].actions, pytest.approx({"add": 0.3, "larger": -0.1}), past[0].kept
    )
    assert (two.iteration, two.reward) == (1, pytest.approx({"add": 0.0, "larger": 0.1}))


def test_data_generations_of_one_iteration_share_its_reward():
    first, second = feedback({"add": 2}), feedback({"add": 5})
    past = (Past(0, first), Past(0, first), Past(1, second), Past(1, second))
    turns = SkillTreeEnvironment().observe(second, context(past=past, iteration=1)).history
    assert [turn.iteration for turn in turns] == [0, 0, 1, 1]
    assert [turn.reward for turn in turns] == [pytest.approx({"add": 0.3})] * 2 + [{}] * 2


def test_the_history_hides_excluded_skills():
    environment = SkillTreeEnvironment(curriculum=Curriculum(exclude=("larger",)))
    past = (Past(0, feedback({"add": 2, "larger": 9})),)
    turn = environment.observe(feedback({"add": 3, "larger": 9}), context(past=past)).history[0]
    assert (set(turn.accuracy), set(turn.reward)) == ({"add"}, {"add"})


# What is trained on --------------------------------------------------------------------------------------------


def test_exploiting_downwards_takes_the_oldest_data_away():
    examples = [Example(f"{i}", "", claim) for i, claim in enumerate(["add/a", None, "add/a", "add", "add/b", "add/a"])]
    past = (*GROWN, Past(0, HALF, (exploit("add", a=-8),)))
    chosen = SkillTreeEnvironment().training_set(examples, context(past=past))
    assert [e.prompt for e in chosen] == ["1", "2", "3", "4", "5"]
    gone = (*past, Past(0, HALF, (exploit("add", a=-2),)))
    assert [e.skill for e in SkillTreeEnvironment().training_set(examples, context(past=gone))] == [
        None,
        "add",
        "add/b",
    ]


class Script:
    """A policy that follows a list of actions, one entry an iteration."""

    def __init__(self, *script):
        self.script, self.states = script, []

    def plan(self, brief, state):
        self.states.append(state)
        return Plan(actions=tuple(self.script[state.iteration]))


def test_in_an_episode_data_move_both_ways(play):
    policy = Script(
        [explore("add", 12, "small", "large"), explore("larger", 6, "small")],
        [exploit("add", small=-10, large=6)],
        [exploit("add", small=4)],
    )
    teacher = Teacher("script", {"skill-tree": policy}, Procedural())
    played = play(teacher, environment="skill-tree", budget=30, iterations=3)
    trained = [Counter(e.skill for e in data) for data, _, _ in played.student.trainings]
    assert trained == [
        {"add/small": 12, "add/large": 12, "larger/small": 6},
        {"add/small": 2, "add/large": 18, "larger/small": 6},
        # The four come back from what was written before: nothing new has to be asked for.
        {"add/small": 6, "add/large": 18, "larger/small": 6},
    ]
    assert [len(step.verdicts) for step in played.steps] == [0, 30, 6, 0]
    last = policy.states[-1]
    assert [(leaf.allocation, leaf.data) for leaf in last.trees[0].subskills] == [(2, 12), (18, 18)]
    assert all(leaf.accuracy is not None for leaf in last.trees[0].subskills)
    assert [set(turn.reward) for turn in last.history] == [set(FakeDomain().skills())] * 2
