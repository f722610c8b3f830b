"""Policies where there are skills: in any state, within the curriculum, and apart from their no-state twins."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgym.core import (
    Attempt,
    Brief,
    Budget,
    Curriculum,
    Feedback,
    Observation,
    Plan,
    Problem,
    SkillReport,
    SkillTree,
    State,
    StateContext,
    Subskill,
    Turn,
    to_json,
)
from dgym.environments.skill_list import SkillList
from dgym.environments.skill_tree import SkillTreeEnvironment
from dgym.errors import UsageError
from dgym.skills.curriculum import FREE, allocate
from dgym.teachers import make_teacher
from dgym.teachers.policies import Bandit, ByErrorRate
from dgym.teachers.tree import (
    Alternating,
    FillBalanced,
    GrowThenShift,
    RandomTree,
    Threshold,
    water_fill,
)

SKILLS = ("add", "larger", "smaller", "subtract")
REFINED = {"add": ("add/a", "add/b", "add/c"), "larger": ("larger/a",), "smaller": ()}
LEFT = (0, 1, 7, 100)
SEEDS = st.integers(0, 2**40)
# A machine may be busy: how long an example takes is no finding.
calm = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TREES = [Alternating, FillBalanced, GrowThenShift, RandomTree, Threshold]
LISTS = {
    "weakness": ByErrorRate(),
    "weakness-blind": ByErrorRate(state=False),
    "bandit": Bandit(),
    "bandit-blind": Bandit(state=False),
}
FORESTS = {
    **{f"{kind.__name__}": kind() for kind in TREES},
    **{f"{kind.__name__}-blind": kind(state=False) for kind in TREES},
    "bandit": GrowThenShift(shares=Bandit()),
    "bandit-blind": GrowThenShift(state=False, shares=Bandit(state=False)),
}
POLICIES = [("skill-list", n) for n in LISTS] + [("skill-tree", n) for n in FORESTS]
BLIND = [(e, n) for e, n in POLICIES if n.endswith("-blind") or n == "RandomTree"]
USING = [(e, n) for e, n in POLICIES if (e, n) not in BLIND]


def policy_of(environment, name):
    return LISTS[name] if environment == "skill-list" else FORESTS[name]


def brief_of(environment, subskills=REFINED):
    return Brief("fake", environment, "", "", {}, Budget(), 3, subskills=subskills)


def error(skill, i=0):
    return Observation(f"{skill} {i} {i}", f"wrong {i}", str(i), False)


def report(skill, accuracy, weight=1.0, cap=None):
    errors = tuple(error(skill, i) for i in range(round(10 * (1 - accuracy))))
    return SkillReport(skill, accuracy, 10, errors, weight, cap)


def state_of(environment, reports, trees=(), left=100, history=(), memory=None, iteration=0, seed=3):
    if environment == "skill-tree":
        grown = {tree.skill: tree for tree in trees}
        trees = tuple(grown.get(r.skill, SkillTree(r.skill)) for r in reports)
    return State(
        environment,
        iteration,
        seed,
        0.5,
        skills=tuple(reports),
        trees=trees if environment == "skill-tree" else (),
        history=tuple(history) if environment == "skill-tree" else (),
        examples_left=left,
        memory=memory,
    )


def carried_out(environment, policy, state, brief=None, curriculum=FREE):
    """The plan as the environment carries it out."""
    made = (SkillList if environment == "skill-list" else SkillTreeEnvironment)(curriculum=curriculum)
    return made.expand(policy.plan(brief or brief_of(environment), state), state)


def spent(plan):
    """Examples by skill, refinements counted under their skill."""
    out = {}
    for item in plan.items:
        skill = item.skill.partition("/")[0]
        out[skill] = out.get(skill, 0) + item.count
    return out


def tree(skill, *leaves, frozen=False):
    """A tree with subskills a, b, ... of the given (allocation, data, accuracy)."""
    named = (Subskill(f"{skill}/{'abcdefgh'[i]}", *leaf) for i, leaf in enumerate(leaves))
    return SkillTree(skill, tuple(named), frozen)


def any_state(environment, seed):
    """Any state: skills in any number, perfect or hopeless, weighted, capped, frozen, with any trees and past."""
    rng = random.Random(seed)

    def share():
        return rng.choice([0.0, 1.0, rng.randrange(11) / 10])

    def leaf():
        return rng.randrange(41), rng.randrange(41), rng.choice([None, share()])

    skills = [f"s{i}" for i in range(rng.randrange(8))]
    limits = [1.0, 0.0, 2.5], [None, None, 0, 3, 40]
    reports = [report(s, share(), *map(rng.choice, limits)) for s in skills]
    trees = [tree(s, *(leaf() for _ in range(rng.randrange(5))), frozen=rng.random() < 0.2) for s in skills]
    history = [
        Turn(i, {s: share() for s in skills}, (), {s: share() - 0.5 for s in skills}) for i in range(rng.randrange(4))
    ]
    return state_of(
        environment, reports, trees, rng.choice(LEFT), history, iteration=len(history), seed=rng.randrange(100)
    )


def another_student(state, seed):
    """The same state of another student: other accuracies, rewards and errors; the same trees and data."""
    rng = random.Random(seed)
    skills = (replace(report(r.skill, rng.randrange(11) / 10, r.weight, r.cap), count=r.count) for r in state.skills)
    return replace(
        state,
        score=rng.random(),
        skills=tuple(skills),
        trees=tuple(
            replace(t, subskills=tuple(replace(leaf, accuracy=rng.random()) for leaf in t.subskills))
            for t in state.trees
        ),
        history=tuple(
            replace(t, accuracy=dict.fromkeys(t.accuracy, rng.random()), reward=dict.fromkeys(t.reward, rng.random()))
            for t in state.history
        ),
    )


# Any state -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("environment", "name"), POLICIES)
@calm
@given(seed=SEEDS)
def test_any_state_is_planned_for_and_the_allowance_is_spent(environment, name, seed):
    policy, state = policy_of(environment, name), any_state(environment, seed)
    brief = brief_of(environment, {"s0": ("s0/a", "s0/b", "s0/z"), "s1": (), "s2": ("s2/a",)})
    plan = policy.plan(brief, state)
    assert policy.plan(brief, state) == plan
    json.dumps(plan.memory, allow_nan=False)
    assert json.loads(json.dumps(to_json(plan)))
    caps = {r.skill: r.cap for r in state.skills if r.cap is not None}
    # Whoever reads the episode later learns why.
    assert all(action.why for action in plan.actions)
    done = carried_out(environment, policy, state, brief, Curriculum(caps=caps))
    asked = spent(done)
    frozen = {t.skill for t in state.trees if t.frozen}
    open_ = [r for r in state.skills if r.weight > 0 and r.skill not in frozen]
    assert set(asked) <= {r.skill for r in open_}
    assert all(asked.get(skill, 0) <= cap for skill, cap in caps.items())
    able = sum(state.examples_left if r.cap is None else r.cap for r in open_)
    assert sum(asked.values()) == min(state.examples_left, able)
    # Every share goes as its policy meant it: the trees ask for no more than the environment fits.
    if environment == "skill-list":
        assert done.items == plan.items


@pytest.mark.parametrize(("environment", "name"), POLICIES)
@calm
@given(seed=SEEDS)
def test_a_memory_is_gone_on_from(environment, name, seed):
    policy, state = policy_of(environment, name), any_state(environment, seed)
    for step in range(3):
        plan = policy.plan(brief_of(environment), state)
        state = replace(any_state(environment, seed + step), iteration=step, memory=json.loads(json.dumps(plan.memory)))


@pytest.mark.parametrize(("environment", "name"), POLICIES)
def test_thousands_of_skills(environment, name):
    policy, reports = policy_of(environment, name), [report(f"skill {i}", i / 4000) for i in range(4000)]
    plan = carried_out(environment, policy, state_of(environment, reports))
    assert sum(spent(plan).values()) == 100
    assert len(json.dumps(plan.memory)) < 500_000


@pytest.mark.parametrize(("environment", "name"), POLICIES)
def test_no_skill_at_all(environment, name):
    plan = policy_of(environment, name).plan(brief_of(environment), state_of(environment, ()))
    assert (plan.items, plan.actions) == ((), ())


@pytest.mark.parametrize(("environment", "name"), POLICIES)
def test_weights_of_the_user_count_in_every_policy(environment, name):
    got = {"add": 0, "larger": 0}
    for seed in range(100):
        reports = [report("add", 0.5, weight=3.0), report("larger", 0.5)]
        state = state_of(environment, reports, seed=seed)
        for skill, count in spent(carried_out(environment, policy_of(environment, name), state)).items():
            got[skill] += count
    assert 1.7 < got["add"] / got["larger"] < 4


@pytest.mark.parametrize("name", LISTS)
def test_items_are_of_moderate_size(name):
    reports = [report(s, 0.5) for s in SKILLS]
    items = LISTS[name].plan(brief_of("skill-list"), state_of("skill-list", reports, left=200)).items
    assert all(item.count <= (20 if "bandit" in name else 60) for item in items)
    assert all(item.skill in item.instruction for item in items)


# Twins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("environment", "name"), BLIND)
@calm
@given(seed=SEEDS)
def test_twins_do_not_look_at_the_student(environment, name, seed):
    state = any_state(environment, seed)
    policy, brief = policy_of(environment, name), brief_of(environment)
    assert policy.plan(brief, another_student(state, seed)) == policy.plan(brief, state)


@pytest.mark.parametrize(("environment", "name"), BLIND)
def test_nor_does_the_engine_see_errors_by_way_of_a_twin(environment, name):
    state = state_of(environment, [report(s, 0.5) for s in SKILLS])
    state = replace(state, skills=tuple(replace(r, errors=(Observation("p", "x", "y", False),)) for r in state.skills))
    assert not any(item.like for item in carried_out(environment, policy_of(environment, name), state).items)


@pytest.mark.parametrize(("environment", "name"), USING)
def test_the_others_do(environment, name):
    policy, brief = policy_of(environment, name), brief_of(environment)
    grown = [tree(s, (10, 10, 0.5), (10, 10, 0.5)) for s in SKILLS]
    weak = state_of(environment, [report(s, 0.1 if s == "add" else 0.9) for s in SKILLS], grown)
    strong = state_of(environment, [report(s, 0.9 if s == "add" else 0.1) for s in SKILLS], grown)
    assert spent(carried_out(environment, policy, weak))["add"] > 2 * spent(
        carried_out(environment, policy, strong)
    ).get("add", 0)
    assert policy.plan(brief, weak) != policy.plan(brief, strong)


@pytest.mark.parametrize(("environment", "name"), BLIND)
def test_in_the_long_run_twins_treat_skills_alike(environment, name):
    total = dict.fromkeys(SKILLS, 0)
    for seed in range(120):
        state = state_of(environment, [report(s, i / 4) for i, s in enumerate(SKILLS)], left=7, seed=seed)
        for skill, count in spent(carried_out(environment, policy_of(environment, name), state)).items():
            total[skill] += count
    # Seven do not divide by four: the odd ones go to all in turn.
    assert max(total.values()) - min(total.values()) < 90
    assert min(total.values()) > 120


SHIPPED = {
    "weakness": {"open-ended", "skill-list", "skill-tree"},
    "bandit": {"skill-list", "skill-tree"},
    "threshold": {"skill-tree"},
    "alternating": {"skill-tree"},
    "fill-balanced": {"skill-tree"},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_state_using_teacher_has_one_twin_in_the_same_environments(name):
    from dgym.teachers import builtin

    one = getattr(builtin, name.replace("-", "_"))()
    blind = (
        builtin.weakness_blind(),
        builtin.bandit_blind(),
        builtin.random_tree(),
        builtin.alternating_blind(),
        builtin.fill_balanced_blind(),
    )
    twins = [teacher for teacher in blind if teacher.twin == name]
    assert len(twins) == 1
    assert set(one.policies) == set(twins[0].policies) == SHIPPED[name]
    assert not one.twin
    assert (one.state_blind, twins[0].state_blind) == (False, False)
    assert one.engine == twins[0].engine


def test_in_open_ended_the_twin_sees_problems_but_no_answers():
    from dgym.teachers import builtin

    policy = builtin.weakness_blind().policies["open-ended"]
    problems = [("add 1 1", "2"), ("add 2 2", "4"), ("larger 1 2", "2")]

    def planned(right):
        seen = tuple(Observation(p, a if r else "?", a, r) for (p, a), r in zip(problems, right, strict=True))
        return policy.plan(brief_of("open-ended"), State("open-ended", 0, 9, sum(right) / 3, seen, examples_left=40))

    plan = planned([True, False, False])
    assert planned([False, True, True]) == planned([True] * 3) == plan
    assert {item.like[0].prompt for item in plan.items if item.like} == {p for p, _ in problems}
    assert "failed" not in "".join(item.instruction for item in plan.items)
    assert policy.plan(brief_of("open-ended"), State("open-ended", 0, 9, 0.0, examples_left=9)).items[0].count == 9


# By error rate -------------------------------------------------------------------------------------------------


def test_error_rates_are_weighted_and_capped():
    reports = [report("add", 0.2, cap=10), report("larger", 0.8, weight=3.0), report("smaller", 0.8)]
    plan = ByErrorRate(replay=0.0).plan(brief_of("skill-list"), state_of("skill-list", reports))
    # add 0.8 and larger 0.6 and smaller 0.2; what add may not take goes to the others in proportion.
    assert spent(plan) == {"add": 10, "larger": 68, "smaller": 22}


def test_where_those_in_need_are_capped_others_get_the_rest():
    reports = [report("add", 0.0, cap=10), report("larger", 1.0), report("smaller", 1.0, weight=0.0)]
    plan = ByErrorRate(replay=0.0).plan(brief_of("skill-list"), state_of("skill-list", reports))
    assert spent(plan) == {"add": 10, "larger": 90}


@calm
@given(
    st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 30))), min_size=1, max_size=8),
    st.integers(0, 100),
)
def test_an_allocation_within_caps(given_, total):
    weights, caps = [float(w) for w, _ in given_], [c for _, c in given_]
    counts = allocate(weights, total, caps)
    able = [i for i, w in enumerate(weights) if w > 0 or not any(weights)]
    assert all(counts[i] <= (total if caps[i] is None else caps[i]) for i in range(len(counts)))
    assert all(counts[i] == 0 for i in range(len(counts)) if i not in able)
    assert sum(counts) == min(total, sum(total if caps[i] is None else caps[i] for i in able))
    # Among those that are not at their caps, more weight never means less.
    free = [i for i in able if caps[i] is None or counts[i] < caps[i]]
    assert all(counts[i] >= counts[j] for i in free for j in free if weights[i] > weights[j])
    # Caps that bind nobody change nothing.
    loose = [None if c is None else c + total for c in caps]
    assert allocate(weights, total, loose) == allocate(weights, total)


# The bandit ----------------------------------------------------------------------------------------------------


def taught(environment, students, rounds, budget=100, policy=None):
    """Plays rounds of the bandit; `students` maps a skill to its accuracy after what was spent, round by round."""
    policy = policy or policy_of(environment, "bandit")
    history, memory = [], None
    for iteration in range(rounds):
        accuracy = {skill: curve([h.get(skill, 0) for h in history]) for skill, curve in students.items()}
        reports = [report(s, a) for s, a in accuracy.items()]
        state = state_of(environment, reports, left=budget, memory=memory, iteration=iteration)
        plan = carried_out(environment, policy, state)
        memory = json.loads(json.dumps(plan.memory))
        history.append(spent(plan))
    return history


@pytest.mark.parametrize("environment", ["skill-list", "skill-tree"])
def test_a_hard_skill_loses_its_share_to_one_that_gains(environment):
    history = taught(
        environment,
        {"hard": lambda spent: 0.1, "learns": lambda spent: min(0.9, 0.1 + sum(spent) / 300)},
        rounds=4,
    )
    assert history[0]["hard"] == history[0]["learns"] == 50
    # Its errors stay, but what was spent on it gained nothing.
    assert all(turn["hard"] < 35 for turn in history[1:])
    assert all(turn["hard"] >= 10 for turn in history)  # it is still measured


def test_a_forgotten_skill_is_practised_again_and_a_hard_one_is_not():
    def forgotten(spent):
        return 0.9 if not spent else min(0.8, 0.3 + sum(spent[1:]) / 150)

    history = taught("skill-list", {"hard": lambda spent: 0.1, "mine": forgotten}, 5)
    # Hardly practised while it was known, it was forgotten; that drop is not held against practising it.
    assert history[0]["mine"] < 20
    assert history[1]["mine"] > 1.2 * history[1]["hard"]
    assert history[2]["mine"] > 1.2 * history[2]["hard"]


def test_what_is_mastered_gets_little_more_than_its_measured_share():
    history = taught("skill-list", {"done": lambda spent: 1.0, "rest": lambda spent: min(0.8, sum(spent) / 400)}, 5)
    assert all(10 <= turn["done"] <= 25 for turn in history)


def test_the_bandit_learns_once_per_training():
    """With two data generations, the second sees the same student and must not count a gain of nothing."""
    policy, brief = Bandit(), brief_of("skill-list")
    reports = [report("add", 0.2), report("larger", 0.2)]
    first = policy.plan(brief, state_of("skill-list", reports))
    again = policy.plan(brief, state_of("skill-list", reports, memory=first.memory))
    assert spent(again) == spent(first)
    one, two = (plan.memory["skills"]["add"] for plan in (first, again))
    assert (one, two) == ([0.2, 1.0, 0.0, 0.0], [0.2, 2.0, 0.0, 0.0])
    better = [report("add", 0.6), report("larger", 0.2)]
    after = policy.plan(brief, state_of("skill-list", better, memory=again.memory, iteration=1))
    accuracy, plays, weight, gain = after.memory["skills"]["add"]
    # Two plays gained 0.4: the regression of gain on plays, from which the slope follows as 0.8 / 4.
    assert (accuracy, weight, gain) == (0.6, 4.0, pytest.approx(0.8))
    assert plays == spent(after)["add"] / 50
    assert spent(after)["add"] > spent(after)["larger"]


@pytest.mark.parametrize("memory", ["text", 7, [], {}, {"skills": {}}])
def test_a_memory_that_is_not_its_own_is_no_memory(memory):
    state = state_of("skill-list", [report("add", 0.2)], memory=memory)
    assert spent(Bandit().plan(brief_of("skill-list"), state)) == {"add": 100}


@pytest.mark.parametrize(("name", "params"), [("bandit", {"explore": 2}), ("fill-balanced", {"data": 0})])
def test_parameters_out_of_range_are_refused(name, params):
    with pytest.raises(UsageError, match="cannot be made"):
        make_teacher(name, params)


# Trees: which of the two -------------------------------------------------------------------------------------


def actions_of(policy, state, brief=None):
    return {a.skill: a for a in policy.plan(brief or brief_of("skill-tree"), state).actions}


def turns(*rewards, skill="add"):
    return tuple(Turn(i, {skill: 0.5}, (), {skill: r}) for i, r in enumerate(rewards))


GROWN = [tree("add", (10, 10, 0.9), (10, 10, 0.1))]


def test_alternating_explores_first_and_then_by_turns():
    kinds = [
        actions_of(Alternating(), state_of("skill-tree", [report("add", 0.5)], GROWN, history=turns(*[0.0] * n)))
        for n in range(4)
    ]
    assert [k["add"].kind for k in kinds] == ["explore", "exploit", "explore", "exploit"]


@pytest.mark.parametrize(
    ("rewards", "kind"),
    [((), "explore"), ((0.02,), "exploit"), ((0.01,), "explore"), ((0.5, -0.1), "explore"), ((-0.1, 0.5), "exploit")],
)
def test_threshold_exploits_while_it_pays(rewards, kind):
    state = state_of("skill-tree", [report("add", 0.5)], GROWN, history=turns(*rewards))
    assert actions_of(Threshold(), state)["add"].kind == kind
    assert actions_of(Threshold(), replace(state, history=(*state.history, Turn(9, {}))))["add"].kind == kind


def test_the_threshold_is_each_skills_own_and_a_parameter():
    reports = [report("add", 0.5), report("larger", 0.5)]
    trees = [*GROWN, tree("larger", (5, 5, 0.5))]
    history = (Turn(0, {}, (), {"add": 0.1, "larger": 0.0}),)
    state = state_of("skill-tree", reports, trees, history=history)
    refined = brief_of("skill-tree", {"larger": ("a", "b")})
    assert {s: a.kind for s, a in actions_of(Threshold(), state, refined).items()} == {
        "add": "exploit",
        "larger": "explore",
    }
    assert actions_of(Threshold(threshold=0.2), state)["add"].kind == "explore"


def test_random_trees_do_both():
    reports = [report(s, 0.5) for s in SKILLS]
    trees = [tree(s, (10, 10, 0.5)) for s in SKILLS]
    parts = brief_of("skill-tree", {})
    kinds = [
        tuple(a.kind for a in actions_of(RandomTree(), state_of("skill-tree", reports, trees, seed=s), parts).values())
        for s in range(50)
    ]
    explored = sum(kind.count("explore") for kind in kinds)
    assert 70 < explored < 130
    assert any(len(set(kind)) == 2 for kind in kinds)  # skills do not all do the same


@pytest.mark.parametrize("kind", TREES)
def test_where_nothing_has_grown_it_explores_and_where_all_has_it_exploits(kind):
    for seed in range(8):
        for history in (turns(), turns(0.5), turns(0.5, 0.5)):
            empty = state_of("skill-tree", [report("add", 0.5)], history=history, seed=seed)
            assert actions_of(kind(), empty)["add"].kind == "explore"
            full = [tree("add", *[(10, 10, 0.5)] * 3)]
            done = state_of("skill-tree", [report("add", 0.5)], full, history=history, seed=seed)
            assert actions_of(kind(), done)["add"].kind == "exploit"


@pytest.mark.parametrize("kind", [Alternating, Threshold])
def test_explore_grows_the_next_proposals(kind):
    state = state_of("skill-tree", [report("add", 0.5)], [tree("add", (10, 10, 0.5))], left=30)
    action = actions_of(kind(), state)["add"]
    assert (action.grow, action.data) == (("add/b", "add/c"), 15)
    action = actions_of(kind(grow=1), state)["add"]
    assert (action.grow, action.data) == (("add/b",), 30)
    nameless = state_of("skill-tree", [report("smaller", 0.5)], left=30)
    assert actions_of(kind(), nameless)["smaller"].grow == ("smaller/part 1", "smaller/part 2")


def test_explore_grows_no_more_than_it_has_data_for():
    state = state_of("skill-tree", [report("add", 0.5)], left=1)
    assert actions_of(GrowThenShift(), state)["add"].grow == ("add/a",)
    state = state_of("skill-tree", [report("add", 0.5)], left=2)
    assert actions_of(GrowThenShift(), state)["add"].grow == ("add/a", "add/b")


def test_what_a_tree_still_lacks_comes_out_of_its_share():
    trees = [tree("add", (20, 10, 0.5))]
    state = state_of("skill-tree", [report("add", 0.5)], trees, left=30)
    assert actions_of(Alternating(), state)["add"].data == 10
    assert spent(carried_out("skill-tree", Alternating(), state)) == {"add": 30}


# Trees: exploit ------------------------------------------------------------------------------------------------


def exploited(policy, leaves, left=20):
    state = state_of("skill-tree", [report("add", 0.5)], [tree("add", *leaves)], left=left, history=turns(1.0))
    action = actions_of(policy, state)["add"]
    assert action.kind == "exploit"
    return action.shift, carried_out("skill-tree", policy, state)


def test_exploit_moves_data_from_what_is_known_to_what_is_not():
    shift, plan = exploited(Threshold(), [(20, 20, 1.0), (20, 20, 0.2), (20, 20, 0.4)])
    assert shift == {"add/a": -4, "add/b": 11, "add/c": 9}
    assert {item.skill: item.count for item in plan.items} == {"add/b": 11, "add/c": 9}
    shift, _ = exploited(Threshold(shed=0.0), [(20, 20, 1.0), (20, 20, 0.2)])
    assert shift == {"add/b": 20}


def test_the_twin_spreads_evenly():
    shift, _ = exploited(RandomTree(probability=0.0), [(20, 20, 1.0), (20, 20, 0.2)])
    assert shift == {"add/a": 10, "add/b": 10}


@pytest.mark.parametrize("policy", [*[kind() for kind in TREES], *[kind(state=False) for kind in TREES]])
@calm
@given(data=st.data())
def test_an_exploit_never_starves_a_tree(policy, data):
    leaf = st.tuples(
        st.integers(0, 40), st.integers(0, 40), st.one_of(st.none(), st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    )
    leaves = data.draw(st.lists(leaf, min_size=3, max_size=3))
    left = data.draw(st.sampled_from([1, 7, 100]))
    policy = replace(policy, probability=0.0) if isinstance(policy, RandomTree) else policy
    shift, plan = exploited(policy, leaves, left)
    assert sum(item.count for item in plan.items) == left
    before = {f"add/{n}": leaf for n, leaf in zip("abc", leaves, strict=True)}
    for name, (allocation, written, _) in before.items():
        # No subskill loses more than a fifth of its data.
        assert allocation + shift.get(name, 0) >= written - written // 5 - 1
        assert allocation + shift.get(name, 0) >= 0


@pytest.mark.parametrize("accuracy", [0.0, 0.7, 1.0, None])
def test_where_all_is_known_alike_data_are_spread_evenly(accuracy):
    shift, _ = exploited(Threshold(), [(10, 10, accuracy)] * 4)
    assert shift == dict.fromkeys(("add/a", "add/b", "add/c", "add/d"), 5)


def test_shedding_does_not_add_up_over_the_rounds():
    leaves, shifts = [(20, 20, 1.0), (20, 20, 0.0)], []
    for _ in range(4):
        shift, plan = exploited(Threshold(), leaves)
        new = spent(plan)["add"]
        leaves = [(leaves[0][0] + shift.get("add/a", 0), 20, 1.0), (leaves[1][0] + new, leaves[1][1] + new, 0.0)]
        shifts.append(leaves[0][0])
    assert shifts == [16] * 4


# Fill-balanced -------------------------------------------------------------------------------------------------


def test_fill_balanced_grows_and_then_fills_the_emptiest_first():
    policy = FillBalanced(subskills=2, data=50)
    empty = state_of("skill-tree", [report("add", 0.5)], left=20)
    assert (actions_of(policy, empty)["add"].grow, actions_of(policy, empty)["add"].data) == (("add/a", "add/b"), 10)
    grown = state_of("skill-tree", [report("add", 0.5)], [tree("add", (30, 30, 0.0), (20, 12, 1.0))], left=20)
    action = actions_of(policy, grown)["add"]
    assert (action.kind, action.shift) == ("exploit", {"add/a": 1, "add/b": 11})


def test_a_full_skill_leaves_its_share_to_the_others():
    policy = FillBalanced(subskills=1, data=50)
    reports = [report("add", 0.0), report("larger", 1.0)]
    trees = [tree("add", (45, 45, 0.0)), tree("larger", (10, 10, 1.0))]
    plan = carried_out("skill-tree", policy, state_of("skill-tree", reports, trees, left=30))
    assert spent(plan) == {"add": 5, "larger": 25}
    # Once all are full, they are filled to twice as much.
    trees = [tree("add", (50, 50, 0.0)), tree("larger", (50, 50, 1.0))]
    plan = carried_out("skill-tree", policy, state_of("skill-tree", reports, trees, left=100))
    assert spent(plan) == {"add": 50, "larger": 50}


@calm
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 200))
def test_water_finds_its_level(levels, amount):
    out = water_fill(levels, amount)
    assert sum(out) == sum(levels) + amount
    assert all(new >= old for new, old in zip(out, levels, strict=True))
    raised = [new for new, old in zip(out, levels, strict=True) if new > old]
    assert not raised or max(raised) - min(out) <= 1


# In the environment itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORESTS)
def test_rounds_of_an_episode_by_hand(name):
    """From real feedback on, with engines that write all that is asked: trees fill up, allocations stay sane."""
    from dgym.core import Past

    environment, policy, brief = SkillTreeEnvironment(), FORESTS[name], brief_of("skill-tree")
    past, memory = [], None
    for iteration in range(5):
        right = {s: min(9, 2 + 2 * iteration * i) for i, s in enumerate(SKILLS)}
        feedback = Feedback(
            "feedback",
            tuple(
                Attempt(Problem(f"{s}{i}", f"{s} {i}", "1", s), "?", float(i < n))
                for s, n in right.items()
                for i in range(10)
            ),
        )
        context = StateContext(iteration, 40 + iteration, tuple(past), examples_left=40, memory=memory)
        state = environment.observe(feedback, context)
        plan = environment.expand(policy.plan(brief, state), state)
        assert isinstance(plan, Plan)
        kept = {}
        for item in plan.items:
            kept[item.skill] = kept.get(item.skill, 0) + item.count
        assert sum(kept.values()) == 40
        past.append(Past(len(past), feedback, plan.actions, kept))
        memory = json.loads(json.dumps(plan.memory))
    trees = environment.observe(feedback, StateContext(5, 1, tuple(past))).trees
    assert sum(leaf.data for t in trees for leaf in t.subskills) == 200
    assert sum(leaf.allocation for t in trees for leaf in t.subskills) >= 150
