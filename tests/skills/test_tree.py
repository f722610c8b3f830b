"""Skill trees as pure data: properties of every action, and the fold of a history."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgym.core import Action, Example, Feedback, Past, Probe, SkillTree, Subskill, from_json, to_json
from dgym.skills.tree import (
    Bounds,
    act,
    apply,
    deficits,
    forest,
    full_name,
    instruction,
    size,
    trained_on,
    ungrown,
)

SKILLS = ("sum", "gcd", "time")
PARTS = ("a", "b", "c", "d", "e")
BOUNDS = Bounds(max_subskills=4, max_allocation=50)
NOTHING = Feedback("feedback", ())
# A machine may be busy: how long an example takes is no finding.
calm = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

names = st.sampled_from(PARTS)
bounds = st.builds(Bounds, st.integers(1, 6), st.integers(0, 60), st.one_of(st.none(), st.integers(0, 120)))


@st.composite
def actions(draw, skills=SKILLS):
    skill = draw(st.sampled_from(skills))
    if draw(st.booleans()):
        grow = draw(st.lists(names.map(lambda n: f"{skill}/{n}"), max_size=4))
        return Action(skill, "explore", tuple(grow), draw(st.integers(-5, 80)))
    shift = draw(st.dictionaries(names.map(lambda n: f"{skill}/{n}"), st.integers(-90, 90), max_size=5))
    return Action(skill, "exploit", shift=shift)


pasts = st.lists(
    st.builds(
        Past,
        st.integers(0, 9),
        st.just(NOTHING),
        st.lists(actions(), max_size=4).map(tuple),
        st.dictionaries(st.sampled_from([f"{s}/{p}" for s in SKILLS for p in PARTS]), st.integers(0, 40), max_size=6),
    ),
    max_size=5,
)


@st.composite
def trees(draw, skill="sum"):
    grown = draw(st.lists(names, unique=True, max_size=4))
    leaves = (Subskill(f"{skill}/{n}", draw(st.integers(0, 50)), draw(st.integers(0, 60))) for n in grown)
    return SkillTree(skill, tuple(leaves))


def allocations(tree):
    return {leaf.name: leaf.allocation for leaf in tree.subskills}


# One action ----------------------------------------------------------------------------------------------------


@calm
@given(trees(), st.lists(names, max_size=6), st.integers(-5, 80), bounds)
def test_explore_adds_new_names_in_order_and_touches_nothing_else(tree, grown, data, limits):
    grow = tuple(f"sum/{n}" for n in grown)
    after = apply(tree, Action("sum", "explore", grow, data), limits)
    old = len(tree.subskills)
    assert after.subskills[:old] == tree.subskills
    new = [n for n in dict.fromkeys(grow) if n not in allocations(tree)][: max(0, limits.max_subskills - old)]
    assert [leaf.name for leaf in after.subskills[old:]] == new
    assert all(leaf == Subskill(leaf.name, min(max(0, data), limits.max_allocation)) for leaf in after.subskills[old:])


@calm
@given(trees(), actions(), bounds)
def test_growing_twice_is_growing_once(tree, action, limits):
    action = replace(action, kind="explore")
    once = apply(tree, action, limits)
    assert apply(once, action, limits) == once


@calm
@given(trees(), st.dictionaries(names.map(lambda n: f"sum/{n}"), st.integers(-90, 90)))
def test_exploit_shifts_both_ways_within_bounds(tree, shift):
    after = apply(tree, Action("sum", "exploit", shift=shift), BOUNDS)
    assert [leaf.name for leaf in after.subskills] == [leaf.name for leaf in tree.subskills]
    for before, leaf in zip(tree.subskills, after.subskills, strict=True):
        assert leaf.allocation == min(max(0, before.allocation + shift.get(leaf.name, 0)), BOUNDS.max_allocation)
        assert (leaf.data, leaf.accuracy) == (before.data, before.accuracy)


@calm
@given(trees(), st.data(), st.integers(0, 60), st.integers(0, 200))
def test_a_balanced_shift_within_bounds_preserves_the_sum(tree, data, amount, room):
    if len(tree.subskills) < 2:
        return
    giver, taker = data.draw(st.permutations(tree.subskills))[:2]
    amount = min(amount, giver.allocation, BOUNDS.max_allocation - taker.allocation)
    action = Action("sum", "exploit", shift={taker.name: amount, giver.name: -amount})
    # Even a full forest lets data move: what is given up makes room first.
    for limit in (None, 0, room):
        after = apply(tree, action, BOUNDS, limit)
        assert size(after) == size(tree)
        assert allocations(after)[taker.name] == taker.allocation + amount


@calm
@given(trees(), actions(("sum",)), st.integers(0, 60), bounds)
def test_no_action_takes_more_than_the_room_that_there_is(tree, action, room, limits):
    after = apply(tree, action, limits, room)
    assert size(after) <= size(tree) + room
    assert all(leaf.allocation >= 0 for leaf in after.subskills)


@calm
@given(trees(), actions(), bounds)
def test_a_frozen_tree_and_another_skill_never_change(tree, action, limits):
    frozen = replace(tree, frozen=True)
    assert apply(frozen, action, limits) == frozen
    if action.skill != tree.skill:
        assert apply(tree, action, limits) == tree


def test_an_exploit_without_shift_changes_nothing():
    tree = SkillTree("sum", (Subskill("sum/a", 3, 9),))
    assert apply(tree, Action("sum", "exploit")) == tree


def test_an_allocation_above_a_bound_set_later_is_not_lost_by_raising_it():
    tree = SkillTree("sum", (Subskill("sum/a", 80),))
    assert allocations(apply(tree, Action("sum", "exploit", shift={"sum/a": 5}), BOUNDS)) == {"sum/a": 80}


# A forest ------------------------------------------------------------------------------------------------------


@calm
@given(st.lists(actions(), max_size=12), bounds)
def test_a_forest_stays_within_its_bounds(done, limits):
    after = act(tuple(SkillTree(s) for s in SKILLS), done, limits)
    assert [tree.skill for tree in after] == list(SKILLS)
    for tree in after:
        assert len(tree.subskills) <= limits.max_subskills
        assert len(set(allocations(tree))) == len(tree.subskills)
        assert all(0 <= leaf.allocation <= limits.max_allocation for leaf in tree.subskills)
    if limits.total is not None:
        assert sum(map(size, after)) <= limits.total


@calm
@given(st.lists(actions(), max_size=12))
def test_skills_do_not_disturb_each_other(done):
    together = act(tuple(SkillTree(s) for s in SKILLS), done)
    for tree in together:
        assert act((SkillTree(tree.skill),), [a for a in done if a.skill == tree.skill]) == (tree,)


@calm
@given(pasts, bounds)
def test_the_fold_is_the_same_step_by_step(past, limits):
    trees_ = tuple(SkillTree(s) for s in SKILLS)
    kept = {}
    for turn in past:
        trees_ = act(trees_, turn.actions, limits)
        kept = {name: kept.get(name, 0) + turn.kept.get(name, 0) for name in {*kept, *turn.kept}}
    folded = forest(SKILLS, past, bounds=limits)
    assert [allocations(t) for t in folded] == [allocations(t) for t in trees_]
    assert all(leaf.data == kept.get(leaf.name, 0) for tree in folded for leaf in tree.subskills)


@calm
@given(pasts)
def test_a_forest_survives_json(past):
    for tree in forest(SKILLS, past, [Probe("sum/a", 0.25, 4)], frozen=("gcd",)):
        assert from_json(SkillTree, to_json(tree)) == tree


def test_the_fold_joins_actions_data_and_probes():
    past = (
        Past(0, NOTHING, (Action("sum", "explore", ("sum/a", "sum/b"), 10),), {"sum/a": 8, "gcd": 3}),
        Past(0, NOTHING, (Action("sum", "exploit", shift={"sum/a": 5, "sum/b": -4}),), {"sum/a": 5}),
    )
    probes = (Probe("sum/a", 0.75, 13), Probe("gcd", 0.1, 3))
    assert forest(("gcd", "sum"), past, probes, frozen=("gcd", "sum")) == (
        SkillTree("gcd", (), True),
        # A tree that was frozen later keeps what was done to it before.
        SkillTree("sum", (Subskill("sum/a", 15, 13, 0.75), Subskill("sum/b", 6, 0, None)), True),
    )
    assert forest((), past) == ()


def test_data_written_before_a_subskill_grew_counts():
    past = (Past(0, NOTHING, (), {"sum/a": 4}), Past(0, NOTHING, (Action("sum", "explore", ("sum/a",), 10),)))
    assert deficits(forest(("sum",), past)[0]) == {"sum/a": 6}


@calm
@given(trees())
def test_deficits_are_what_is_missing(tree):
    missing = deficits(tree)
    for leaf in tree.subskills:
        assert missing.get(leaf.name, 0) == max(0, leaf.allocation - leaf.data)
    assert all(count > 0 for count in missing.values())


# What is trained on --------------------------------------------------------------------------------------------


@calm
@given(
    st.lists(st.sampled_from([None, "sum", "sum/a", "sum/b", "gcd/a"]), max_size=40),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_the_latest_examples_of_each_subskill_are_trained_on(claims, a, b):
    examples = [Example(str(i), "", claim) for i, claim in enumerate(claims)]
    tree = SkillTree("sum", (Subskill("sum/a", a), Subskill("sum/b", b)))
    chosen = trained_on(examples, (tree,))
    assert chosen == sorted(chosen, key=lambda e: int(e.prompt))
    for claim, limit in (("sum/a", a), ("sum/b", b), (None, 99), ("sum", 99), ("gcd/a", 99)):
        claimed = [e for e in examples if e.skill == claim]
        assert [e for e in chosen if e.skill == claim] == claimed[max(0, len(claimed) - limit) :]


# Names ---------------------------------------------------------------------------------------------------------


def test_names_are_full_whichever_way_they_are_given():
    assert full_name("sum", "with carry") == full_name("sum", " sum/with carry ") == "sum/with carry"
    assert full_name("sum", "gcd/a") == "sum/gcd/a"


def test_what_may_still_be_grown():
    tree = SkillTree("sum", (Subskill("sum/b", 1), Subskill("sum/part 1", 1)))
    assert ungrown(tree, ("sum/a", "b", "sum/a", "c"), 3) == ("sum/a", "sum/c")
    assert ungrown(tree, (), 3) == ("sum/part 2", "sum/part 3")
    assert ungrown(tree, ("b",), 3) == ()


def test_instructions_are_words():
    assert instruction("sum", "sum/with carry") == "Write problems that practise sum, in particular: with carry."
    assert "of another kind than in its other parts" in instruction("sum", "sum/part 2")
