"""Policies, engines, and the teachers that ship."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgym import registry
from dgym.core import Brief, Budget, Observation, PlanItem, SkillReport, State
from dgym.fakes import FakeDomain
from dgym.gate import Gate
from dgym.overlap import OverlapIndex
from dgym.skills.curriculum import allocate, chunks
from dgym.teachers import builtin, make_teacher
from dgym.teachers.engines import Noisy, Procedural

FAKE = FakeDomain()
WEIGHTS = st.lists(st.integers(0, 1000).map(lambda n: n / 8), min_size=1, max_size=12)


def domain_of(name):
    return registry.load("domain", name)()


def state(environment, accuracy, left=40):
    """A state in which each skill has the given accuracy on ten problems."""
    reports, seen = [], []
    for skill, share in accuracy.items():
        shown = [
            Observation(e.prompt, e.response if i < 10 * share else "?", e.response, i < 10 * share)
            for i, e in enumerate(FAKE.fresh(skill, 10, 1))
        ]
        seen += shown
        reports.append(SkillReport(skill, share, 10, tuple(o for o in shown if not o.correct)))
    parts = {"observations": tuple(seen)} if environment == "open-ended" else {"skills": tuple(reports)}
    return State(environment, 1, 3, sum(accuracy.values()) / len(accuracy), examples_left=left, **parts)


def written(play, name, environment="open-ended", budget=100, **params):
    """What the teacher writes in its first iteration against the fake student, whose weak skill is `add`."""
    teacher = make_teacher(name, params)
    played = play(teacher, environment=environment, budget=budget, iterations=1, unverified=teacher.unverified)
    return played.steps[1]


# Allocation ----------------------------------------------------------------------------------------------------


@given(WEIGHTS, st.integers(0, 500))
def test_an_allocation_adds_up_and_is_proportional(weights, total):
    counts = allocate(weights, total)
    mass = sum(weights) or len(weights)
    shares = weights if sum(weights) else [1] * len(weights)
    assert sum(counts) == total
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - share / mass * total) < 1 + 1e-9
    if total:
        assert all(c == 0 for c, w in zip(counts, weights, strict=True) if w == 0 and sum(weights))


@given(WEIGHTS, st.integers(0, 500), st.data())
def test_more_weight_never_means_less(weights, total, data):
    counts = allocate(weights, total)
    i, j = (data.draw(st.integers(0, len(weights) - 1)) for _ in range(2))
    if weights[i] > weights[j]:
        assert counts[i] >= counts[j]


def test_nothing_to_allocate_to():
    assert allocate([], 10) == []


@given(st.integers(0, 300), st.integers(1, 40))
def test_chunks_add_up(total, size):
    parts = chunks(total, size)
    assert sum(parts) == total
    assert all(0 < p <= size for p in parts)
    assert len(parts) == -(-total // size)


# State-blind teachers ------------------------------------------------------------------------------------------


def test_uniform_is_balanced(play):
    counts = Counter(e.skill for e in written(play, "uniform").kept)
    assert counts == dict.fromkeys(FAKE.skills(), 25)


def test_random_takes_one_kind_per_batch(play):
    step = written(play, "random", budget=200)
    kinds = {item: {e.skill for e in step.kept if e.item == item} for item in range(10)}
    assert all(len(kind) == 1 for kind in kinds.values())
    assert len(set.union(*kinds.values())) > 1


def test_no_data_writes_nothing(play):
    assert written(play, "no-data").verdicts == ()


@pytest.mark.parametrize("domain", ["fake", "math"])
def test_wrong_answers_are_all_wrong(domain):
    brief = brief_of(domain)
    examples = make_teacher("wrong-answers").engine.generate(brief, PlanItem(60, seed=4))
    assert len(examples) == 60
    assert {domain_of(domain).check(e) for e in examples} == {False}
    assert {e.skill for e in examples} == set(domain_of(domain).skills())


@pytest.mark.parametrize("domain", ["fake", "math"])
def test_off_domain_examples_are_of_no_tested_kind(domain):
    brief, known = brief_of(domain), domain_of(domain)
    item = PlanItem(60, skill=known.skills()[0], seed=4)
    examples = make_teacher("off-domain").engine.generate(brief, item)
    assert len({e.prompt for e in examples}) == 60
    assert {known.infer_skill(e.prompt) for e in examples} == {None}
    assert {known.check(e) for e in examples} == {None}


def test_the_ceiling_is_uniform_with_ten_times_the_budget():
    ceiling, uniform = make_teacher("ceiling"), make_teacher("uniform")
    assert (ceiling.budget_factor, uniform.budget_factor) == (10, 1)
    assert (ceiling.policies, ceiling.engine) == (uniform.policies, uniform.engine)


@pytest.mark.parametrize(
    ("name", "ranked", "blind"),
    [
        ("uniform", True, True),
        ("random", True, True),
        ("weakness", True, False),
        ("no-data", False, True),
        ("wrong-answers", False, True),
        ("off-domain", False, True),
        ("ceiling", False, True),
    ],
)
def test_what_is_ranked_and_what_looks_at_the_state(name, ranked, blind):
    teacher = make_teacher(name)
    assert (teacher.ranked, teacher.state_blind, teacher.privileged) == (ranked, blind, True)
    assert set(teacher.policies) >= {"open-ended", "skill-list", "skill-tree"}
    if blind:
        for environment, policy in teacher.policies.items():
            bad = state("open-ended", dict.fromkeys(FAKE.skills(), 0.0))
            good = state("open-ended", dict.fromkeys(FAKE.skills(), 1.0))
            assert policy.plan(brief_of("fake", environment), bad) == policy.plan(brief_of("fake", environment), good)


# Weakness ------------------------------------------------------------------------------------------------------

WEAK_ADD = {"add": 0.2, "subtract": 1.0, "larger": 1.0, "smaller": 1.0}
SOLID = dict.fromkeys(FAKE.skills(), 1.0)


def taught(environment, accuracy, **params):
    """Counts by skill what the weakness teacher writes in a state."""
    teacher, brief = make_teacher("weakness", params), brief_of("fake", environment)
    plan = teacher.policies[environment].plan(brief, state(environment, accuracy))
    out = Counter()
    for index, item in enumerate(plan.items):
        examples = teacher.engine.generate(brief, PlanItem(item.count, item.instruction, item.skill, item.like, index))
        out.update(FAKE.infer_skill(e.prompt) for e in examples)
    return out


@pytest.mark.parametrize("environment", ["open-ended", "skill-list"])
def test_weakness_teaches_what_failed_and_replays_the_rest(environment):
    counts = taught(environment, WEAK_ADD, replay=0.5)
    assert sum(counts.values()) == 40
    assert counts == {"add": 25, "subtract": 5, "larger": 5, "smaller": 5}


@pytest.mark.parametrize("environment", ["open-ended", "skill-list"])
def test_the_replay_share_is_a_parameter(environment):
    assert taught(environment, WEAK_ADD, replay=0.0) == {"add": 40}
    assert taught(environment, WEAK_ADD, replay=1.0) == dict.fromkeys(FAKE.skills(), 10)


@pytest.mark.parametrize("environment", ["open-ended", "skill-list"])
def test_without_errors_weakness_teaches_everything(environment):
    counts = taught(environment, SOLID)
    assert sum(counts.values()) == 40
    assert all(9 <= counts[skill] <= 11 for skill in FAKE.skills())


def test_skill_list_follows_the_error_rates():
    accuracy = {"add": 0.4, "subtract": 0.8, "larger": 1.0, "smaller": 1.0}
    assert taught("skill-list", accuracy, replay=0.0) == {"add": 30, "subtract": 10}


def test_every_error_is_used_before_one_is_used_twice():
    teacher, shown = make_teacher("weakness", {"replay": 0.0, "per_error": 2}), state("open-ended", WEAK_ADD)
    items = teacher.policies["open-ended"].plan(brief_of("fake"), shown).items
    errors = {o for o in shown.observations if not o.correct}
    assert len(errors) == 8
    assert {i.like[0] for i in items[:8]} == {i.like[0] for i in items[8:16]} == errors


@pytest.mark.parametrize("environment", ["open-ended", "skill-list"])
def test_weakness_raises_the_weak_skill(play, environment):
    step = written(play, "weakness", environment)
    assert Counter(e.skill for e in step.kept).most_common(1)[0][0] == "add"


@pytest.mark.parametrize(
    "name",
    [
        *("weakness", "weakness_blind", "bandit", "bandit_blind", "threshold", "random_tree"),
        *("alternating", "alternating_blind", "fill_balanced", "fill_balanced_blind"),
    ],
)
def test_whole_episodes_spend_their_budget_and_teach(play, name):
    teacher = getattr(builtin, name)()
    for environment in teacher.policies:
        for rules in ({}, {"training": "continue"}, {"generations": 2}):
            played = play(teacher, environment=environment, budget=60, iterations=3, **rules)
            assert [len(step.verdicts) for step in played.steps] == [0, 60, 60, 60]
            assert played.steps[-1].feedback.score > played.steps[0].feedback.score
            if environment == "skill-tree":
                actions = [a for step in played.steps for plan in step.plans for a in plan.actions]
                assert {a.kind for a in actions} == {"explore", "exploit"}
                parts = [name for skill in FAKE.skills() for name in FAKE.subskills(skill)]
                assert {e.skill for step in played.steps for e in step.kept} == set(parts)


# The procedural engine -----------------------------------------------------------------------------------------


def brief_of(domain, environment="open-ended"):
    from dgym.core import Brief

    return Brief(domain, environment, "", "", {}, Budget(), 3)


def test_small_items_share_the_mixture_equally():
    engine, brief = Procedural(), brief_of("fake")
    counts = Counter(e.skill for seed in range(400) for e in engine.generate(brief, PlanItem(1, seed=seed)))
    assert set(counts) == set(FAKE.skills())
    assert max(counts.values()) - min(counts.values()) < 60


def test_a_named_skill_goes_before_an_inferred_one():
    like = (Observation("larger 1 2", "?", "2", False),)
    for item, skill in ((PlanItem(3, skill="add", like=like), "add"), (PlanItem(3, like=like), "larger")):
        assert {e.skill for e in Procedural().generate(brief_of("fake"), item)} == {skill}


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("add/small", "add small"),
        ("add/part 2", "add any"),  # a refinement that the domain does not know
        ("adding up", "larger any"),  # a discovered skill: what the errors are like decides
        ("larger than/part 1", "larger any"),
    ],
)
def test_examples_claim_what_the_plan_named(name, prompts):
    like = (Observation("larger 1 2", "?", "2", False),)
    examples = Procedural().generate(brief_of("fake"), PlanItem(30, skill=name, like=like, seed=1))
    assert [e.skill for e in examples] == [name] * 30
    kind, part = prompts.split()
    assert {FAKE.infer_skill(e.prompt) for e in examples} == {kind}
    small = [int(e.prompt.split()[1]) < 500 for e in examples]
    assert all(small) == (part == "small")
    assert {FAKE.check(e) for e in examples} == {True}


def test_an_unknown_name_without_any_problem_gives_the_mixture():
    examples = Procedural().generate(brief_of("fake"), PlanItem(8, skill="number sense", seed=1))
    assert {FAKE.infer_skill(e.prompt) for e in examples} == set(FAKE.skills())
    assert {e.skill for e in examples} == {"number sense"}


def test_without_a_name_examples_claim_their_kind():
    examples = Procedural().generate(brief_of("fake"), PlanItem(8, seed=1))
    assert {e.skill for e in examples} == set(FAKE.skills())


@given(st.integers(0, 2**63 - 1), st.integers(1, 30))
def test_the_item_alone_decides(seed, count):
    item = PlanItem(count, seed=seed)
    first = Procedural().generate(brief_of("fake"), item)
    assert first == Procedural().generate(brief_of("fake", "skill-list"), item)
    assert len({e.prompt for e in first}) == count


def test_a_noisy_writer_gets_some_answers_wrong_and_the_gate_catches_them():
    brief = Brief("fake", "skill-list", "", "", {}, Budget(), 1)
    item = PlanItem(60, seed=5)
    domain = FakeDomain()

    def wrong(share):
        return [domain.check(e) is False for e in Noisy(Procedural(), share).generate(brief, item)]

    assert sum(wrong(0.0)) == 0
    assert sum(wrong(1.0)) == 60
    assert 8 <= sum(wrong(0.3)) <= 28
    assert wrong(0.3) == wrong(0.3)
    gate = Gate(domain, OverlapIndex(domain, {}), Budget(60), verify=True)
    reasons = [v.reason for v in gate.submit(make_teacher("weakness", {"noise": 0.3}).engine.generate(brief, item))]
    assert reasons.count("incorrect") == sum(wrong(0.3))
