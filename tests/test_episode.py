"""The loop, with fakes: what is trained on, which iteration wins, what a teacher sees, how teachers fail."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, islice, repeat

import pytest

from dgym.core import MEMORY_LIMIT, Action, Budget, Example, Plan, PlanItem, Probe, Problem, Rules, to_json
from dgym.environments.open_ended import OpenEnded
from dgym.episode import LocalPool, first_of, share_of, used, work
from dgym.errors import DgymError, StudentError, TeacherError
from dgym.fakes import FakeDomain
from dgym.teachers import make_teacher

DOMAIN = FakeDomain()
HIDDEN = [p for split in ("selection", "test") for p in DOMAIN.problems(split)]


def wrong(brief, item):
    skills = DOMAIN.skills()
    fresh = [e for s in skills for e in DOMAIN.fresh(s, -(-item.count // len(skills)), item.seed)]
    return [DOMAIN.wrong_answer(e, item.seed) for e in fresh]


def right_then_wrong(brief, item):
    """Good additions when asked for some; ruins every skill otherwise."""
    return DOMAIN.fresh("add", item.count, item.seed) if item.skill == "add" else wrong(brief, item)


def by_iteration(*skills):
    """Plans everything for one skill per iteration; `None` plans nothing."""

    def plan(brief, state):
        skill = skills[state.iteration]
        return Plan((PlanItem(state.examples_left, skill=skill),)) if skill else Plan()

    return plan


# What wins -----------------------------------------------------------------------------------------------------


def test_the_best_iteration_is_chosen_on_selection_and_ties_go_to_the_earlier(play, scripted):
    plan = by_iteration("add", "any", "any", None)
    steps = play(scripted(plan, right_then_wrong), iterations=4, budget=40, verify=False).steps
    scores = [s.selection.score for s in steps]
    assert scores[1] > scores[0] > scores[3] == scores[4]
    assert [s.best for s in steps] == [True, True, False, False, False]


def test_the_untrained_student_wins_when_nothing_helps(play, scripted):
    played = play(scripted(writer=wrong), iterations=2, budget=40, verify=False)
    assert [s.best for s in played.steps] == [True, False, False]
    assert played.steps[2].selection.score < played.steps[0].selection.score


def test_an_equal_score_is_no_better(play, scripted):
    steps = play(scripted(lambda b, s: Plan()), iterations=2).steps
    assert [s.best for s in steps] == [True, False, False]


def test_test_scores_are_asked_only_where_needed(play, scripted):
    plan = by_iteration("add", "any", None, None)
    steps = play(scripted(plan, right_then_wrong), iterations=4, budget=40, verify=False).steps
    assert [s.test is not None for s in steps] == [True, True, False, False, True]
    steps = play(scripted(writer=wrong), iterations=3, verify=False, test_every_iteration=True).steps
    assert all(s.test is not None for s in steps)


def test_no_iterations_still_score_the_untrained_student(play, scripted):
    (step,) = play(scripted(), iterations=0).steps
    assert (step.iteration, step.best, step.test is not None) == (0, True, True)


# What is trained on --------------------------------------------------------------------------------------------


def test_retraining_uses_all_data_from_the_base(play, scripted):
    played = play(scripted(), iterations=3, budget=5)
    first, second, third = played.student.trainings
    assert [len(t[0]) for t in played.student.trainings] == [5, 10, 15]
    assert third[0][:10] == second[0]
    assert second[0][:5] == first[0]
    assert all(fresh for _, _, fresh in played.student.trainings)
    assert len({seed for _, seed, _ in played.student.trainings}) == 3
    assert [s.examples_total for s in played.steps] == [0, 5, 10, 15]


def test_continuing_uses_the_new_data_on_top(play, scripted):
    played = play(scripted(), iterations=3, budget=5, training="continue")
    assert [len(t[0]) for t in played.student.trainings] == [5, 5, 5]
    assert not any(fresh for _, _, fresh in played.student.trainings)
    assert [s.examples_total for s in played.steps] == [0, 5, 10, 15]


def test_training_seeds_depend_on_training_seed_and_iteration_only(play, scripted):
    def seeds(**rules):
        return [t[1] for t in play(scripted(), iterations=2, **rules).student.trainings]

    assert seeds() == seeds(teacher_seed=5, budget=3)
    assert set(seeds()).isdisjoint(seeds(training_seed=2))


def test_several_generations_renew_the_state_and_train_once(play, scripted):
    spy = scripted(lambda b, s: Plan((PlanItem(9),)))
    played = play(spy, iterations=2, budget=10, generations=3)
    # They share what may be submitted before a training: a third of it, a half of the rest, the rest.
    assert [s.examples_left for s in spy.states] == [4, 3, 3] * 2
    assert [s.iteration for s in spy.states] == [0, 0, 0, 1, 1, 1]
    assert len({s.seed for s in spy.states}) == len({i.seed for i in spy.items}) == 6
    assert len({s.observations for s in spy.states[:3]}) == 1
    assert [len(t[0]) for t in played.student.trainings] == [10, 20]
    assert [len(s.plans) for s in played.steps] == [0, 3, 3]


def test_only_what_the_gate_keeps_is_trained_on(play, scripted):
    def mixed(brief, item):
        good = DOMAIN.fresh("add", item.count - 2, item.seed)
        return [*good, DOMAIN.wrong_answer(good[0], 1), HIDDEN[0].prompt]

    played = play(scripted(writer=mixed), iterations=1, budget=6)
    assert [v.reason for v in played.steps[1].verdicts] == ["", "", "", "", "duplicate", "malformed"]
    assert played.student.trainings[0][0] == list(played.steps[1].kept)


def test_controls_pass_the_gate_unverified(play):
    control = make_teacher("wrong-answers")
    assert len(play(control, iterations=1, unverified=True).steps[1].kept) == 10
    assert len(play(control, iterations=1).steps[1].kept) == 0


def test_a_total_budget_ends_the_data_not_the_episode(play, scripted):
    spy = scripted()
    played = play(spy, iterations=3, budget=Budget(10, 15))
    assert [s.examples_left for s in spy.states] == [10, 5, 0]
    assert [s.examples_total for s in played.steps] == [0, 10, 15, 15]


def test_a_share_is_the_same_first_problems_of_each_skill(play, scripted):
    step = play(scripted(), iterations=0, share=0.25).steps[0]
    assert {k: len(a) for k, a in step.selection.by_skill().items()} == dict.fromkeys(DOMAIN.skills(), 5)
    full = [p for p in DOMAIN.problems("selection") if p.skill == "add"]
    assert [a.problem for a in step.selection.by_skill()["add"]] == full[:5]
    rare = [Problem("r", "x", "y", "rare")]
    assert share_of(rare, 0.01) == rare, "no skill is left out"


# What a teacher sees -------------------------------------------------------------------------------------------


def test_counts_take_from_the_skills_in_turns():
    problems = FakeDomain().problems("test")
    skills = sorted({p.skill for p in problems})
    for wanted in (1, len(skills), 3 * len(skills) + 1):
        chosen = first_of(problems, wanted)
        each = [sum(p.skill == s for p in chosen) for s in skills]
        assert len(chosen) == wanted
        assert max(each) - min(each) <= 1
        assert [p for p in problems if p in chosen] == list(chosen)
    assert list(first_of(problems, 10**6)) == list(problems)
    rules = Rules(counts={"test": 5}, share=0.5)
    assert len(used(FakeDomain(), "test", rules)) == 5
    assert used(FakeDomain(), "feedback", rules) == share_of(FakeDomain().problems("feedback"), 0.5)
    with pytest.raises(ValueError, match="counts"):
        Rules(counts={"train": 5})


def test_paper_validation_is_one_split_of_both(play, scripted):
    played = play(scripted(), iterations=1, validation="paper")
    assert all(s.selection is s.feedback for s in played.steps)
    asked = {p for problems in played.student.asked for p in problems}
    validation = [*DOMAIN.problems("feedback"), *DOMAIN.problems("selection")]
    assert [a.problem for a in played.steps[0].feedback.attempts] == validation
    assert asked == {*validation, *DOMAIN.problems("test")}


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return {n for v in value for n in numbers_in(v)}
    return {value} if isinstance(value, int | float) else set()


@pytest.mark.parametrize("environment", ["open-ended", "skill-list"])
def test_a_teacher_never_sees_the_hidden_splits(play, scripted, environment):
    def copies(brief, item):
        # Submitting the hidden problems themselves must tell nothing either.
        return [Example(p.prompt, p.reference) for p in HIDDEN[::20][: item.count]]

    spy = scripted(writer=copies)
    rules = {"iterations": 3, "budget": 12, "test_every_iteration": True}
    played = play(spy, environment=environment, **rules)
    assert {v.reason for v in played.steps[1].verdicts} == {"overlap-selection", "overlap-test"}
    shown = [to_json(x) for x in (*spy.briefs, *spy.states)]
    text = json.dumps(shown)
    for problem in HIDDEN:
        assert problem.id not in text
        assert json.dumps(problem.prompt) not in text
    assert not any(p.id in text for p in DOMAIN.problems("feedback"))
    for name in ("selection", "test_every", "overlap"):
        assert name not in text
    hidden_scores = {s.selection.score for s in played.steps} | {s.test.score for s in played.steps}
    shown_scores = {s.feedback.score for s in played.steps}
    assert hidden_scores.isdisjoint(shown_scores), "else the next line shows nothing"
    assert {to_json(s)["score"] for s in spy.states} <= shown_scores
    if environment == "open-ended":
        assert hidden_scores.isdisjoint(numbers_in(shown))


@pytest.mark.parametrize("training", ["retrain", "continue"])
def test_no_count_says_which_problems_are_hidden(play, scripted, training):
    """All that a teacher hears of a submission is the same, whether some of it is hidden problems or none."""

    def plan(brief, state):
        skill = state.skills[0].skill
        explore = Action(skill, "explore", grow=("one", "two"), data=6)
        return Plan(actions=(explore,), ask_known=True) if state.iteration == 0 else Plan(ask_known=True)

    plain = DOMAIN.fresh("add", 40, 5)
    secret = [Example(p.prompt, p.reference) for p in HIDDEN[:: len(HIDDEN) // 6]]

    def writer(hidden):
        def write(brief, item):
            first = 20 * item.skill.endswith("two")
            own = plain[first : first + item.count]
            if hidden and not first:
                own[::2] = secret[: len(own[::2])]
            # Claiming a skill of its own for an example would single it out.
            return [replace(e, skill=f"mine {i}" if i < 4 else item.skill) for i, e in enumerate(own)]

        return write

    heard = []
    for hidden in (False, True):
        spy = scripted(planner=plan, writer=writer(hidden))
        budget = Budget(12, known_checks_total=100)
        played = play(spy, environment="skill-tree", iterations=2, budget=budget, training=training)
        kept = sum(len(s.kept) for s in played.steps)
        state = spy.states[1]
        heard.append(
            (
                state.rejected,
                state.examples_left,
                state.known["asked"],
                state.known_checks_left,
                [(p.skill, p.count) for p in state.probes],
                [(s.name, s.allocation, s.data) for t in state.trees for s in t.subskills],
                [t.kept for t in state.history],
            )
        )
        assert (kept < 12) == hidden
    assert heard[0] == heard[1]


def test_rejections_are_told(play, scripted):
    spy = scripted(writer=wrong)
    play(spy, iterations=2, budget=4)
    assert [s.rejected for s in spy.states] == [{}, {"incorrect": 4}]


def test_memory_comes_back_as_json(play, scripted):
    def plan(brief, state):
        return Plan(memory={"seen": (*(state.memory or {"seen": []})["seen"], state.iteration)})

    spy = scripted(plan)
    play(spy, iterations=3, generations=2)
    assert [s.memory for s in spy.states] == [
        None,
        {"seen": [0]},
        {"seen": [0, 0]},
        {"seen": [0, 0, 1]},
        {"seen": [0, 0, 1, 1]},
        {"seen": [0, 0, 1, 1, 2]},
    ]


def test_memory_is_a_copy(play, scripted):
    held, seen = [], []

    def plan(brief, state):
        held.append(state.iteration)
        seen.append(list(state.memory or []))
        return Plan(memory=held)

    play(scripted(plan), iterations=3)
    assert seen == [[], [0], [0, 1]]


def test_probes_measure_the_student_on_what_it_was_taught(play, scripted):
    class Probing(OpenEnded):
        wants_probes = True

    spy = scripted()
    played = play(spy, environment=Probing(), iterations=2, budget=30)
    latest = played.student.trainings[0][0][-20:]
    before, after = (s.probes for s in spy.states)
    asked = [Problem("x", e.prompt, e.response, "add") for e in latest]
    student = played.student.inner
    student.train(played.student.trainings[0][0], seed=0, fresh=True)
    right = [a == p.reference for a, p in zip(student.answer(asked), asked, strict=True)]
    assert before == ()
    assert after == (Probe("add", sum(right) / 20, 20),)


# Seeds ---------------------------------------------------------------------------------------------------------


class Backwards(LocalPool):
    """Works on the last item first."""

    def generate(self, brief, items):
        return super().generate(brief, items[::-1])[::-1]


class Threads(LocalPool):
    """Four workers."""

    def generate(self, brief, items):
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda item: work(self._teacher.engine.generate, brief, item), items))


@pytest.mark.parametrize("pool", [Backwards, Threads])
@pytest.mark.parametrize("environment", ["open-ended", "skill-list"])
def test_workers_and_their_order_change_nothing(play, pool, environment):
    teacher = make_teacher("weakness")
    one = play(teacher, environment=environment, iterations=2, budget=40)
    other = play(teacher, environment=environment, iterations=2, budget=40, pool=pool(teacher))
    for a, b in zip(one.steps, other.steps, strict=True):
        assert replace(a, seconds={}) == replace(b, seconds={})


def test_teacher_seeds_derive_from_the_rules_alone(play, scripted):
    def seeds(**rules):
        spy = scripted(lambda b, s: Plan((PlanItem(2, seed=99), PlanItem(2, seed=99))))
        play(spy, iterations=2, **rules)
        return [s.seed for s in spy.states] + [i.seed for i in spy.items]

    assert len(set(seeds())) == 6
    assert 99 not in seeds(), "a policy's own seeds are replaced"
    assert seeds() == seeds(training_seed=9, budget=20, variant="b")
    assert set(seeds()).isdisjoint(seeds(teacher_seed=2))
    assert set(seeds()).isdisjoint(seeds(environment="skill-list"))


# How teachers fail ---------------------------------------------------------------------------------------------


def endless():
    value = []
    value.append(value)
    return value


def deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (lambda b, s: 1 / 0, "The policy raised ZeroDivisionError: division by zero"),
        (lambda b, s: None, "returned NoneType"),
        (lambda b, s: Plan(None), "where a Plan of PlanItems is due"),
        (lambda b, s: Plan((1,)), "where a Plan of PlanItems is due"),
        (lambda b, s: Plan((PlanItem("3"),)), "no whole number"),
        (lambda b, s: Plan(memory=object()), "memory is not JSON"),
        (lambda b, s: Plan(memory=float("nan")), "memory is not JSON"),
        (lambda b, s: Plan(memory=endless()), "memory is not JSON"),
        (lambda b, s: Plan(memory=deep()), "memory is not JSON"),
        (lambda b, s: Plan(memory="x" * MEMORY_LIMIT), "1000002 bytes; 1000000 are allowed"),
    ],
)
def test_an_unusable_plan_is_the_teachers_failure(play, scripted, plan, message):
    with pytest.raises(TeacherError, match=message):
        play(scripted(plan), iterations=1)


def test_the_largest_memory_is_allowed(play, scripted):
    play(scripted(lambda b, s: Plan(memory="x" * (MEMORY_LIMIT - 2))), iterations=2)


def test_plans_are_cut_to_the_budget(play, scripted):
    spy = scripted(lambda b, s: Plan((PlanItem(-3), PlanItem(6), PlanItem(0), PlanItem(10**9), PlanItem(1))))
    played = play(spy, iterations=1, budget=10)
    assert [i.count for i in spy.items] == [6, 4]
    assert [e.item for e in played.steps[1].kept] == [0] * 6 + [1] * 4


@pytest.mark.parametrize(
    ("writer", "message"),
    [
        (lambda b, i: [], "planned 20 examples and its engine returned no examples"),
        (lambda b, i: ["junk"] * 10_000, "only malformed examples. The last was: 'junk'"),
        (lambda b, i: None, "The engine raised TypeError"),
        (lambda b, i: 1 / 0, "The engine raised ZeroDivisionError"),
    ],
)
def test_an_engine_that_writes_nothing_usable_has_failed(play, scripted, writer, message):
    with pytest.raises(TeacherError, match=message):
        play(scripted(writer=writer), iterations=2)


def test_steps_before_a_failure_stay_valid(scripted):
    from dgym.core import Rules
    from dgym.episode import ClosedLoop, run_episode
    from dgym.fakes import FakeFamily

    teacher = scripted(by_iteration("add")).teacher  # knows no second iteration
    loop = ClosedLoop(DOMAIN, OpenEnded(), FakeFamily().open(None, "a"), Rules(iterations=3))
    run = run_episode(loop, teacher, LocalPool(teacher))
    assert [s.iteration for s in islice(run, 2)] == [0, 1]
    with pytest.raises(TeacherError, match="IndexError"):
        next(run)


def test_ten_thousand_malformed_examples_count_as_many_as_were_planned(play, scripted):
    good = iter([True, False])

    def writer(brief, item):
        return DOMAIN.fresh("add", item.count, 1) if next(good) else [object()] * 10_000

    step = play(scripted(writer=writer), iterations=2, budget=10).steps[2]
    assert [v.reason for v in step.verdicts] == ["malformed"] * 10


def test_more_than_asked_is_cut_even_without_end(play, scripted):
    def writer(brief, item):
        return (Example(f"add 1 {n}", str(n + 1)) for n in count(1_000))

    assert len(play(scripted(writer=writer), iterations=1, budget=10).steps[1].verdicts) == 10
    assert len(work(lambda b, i: repeat("x"), None, PlanItem(3)).examples) == 3


def test_one_failed_item_costs_its_examples_only(play, scripted):
    def writer(brief, item):
        if item.skill == "bad":
            raise TeacherError("out of ideas")
        return DOMAIN.fresh("add", item.count, item.seed)

    spy = scripted(lambda b, s: Plan((PlanItem(3, skill="bad"), PlanItem(4))), writer)
    assert [e.item for e in play(spy, iterations=1).steps[1].kept] == [1] * 4
    with pytest.raises(TeacherError, match="out of ideas"):
        play(scripted(lambda b, s: Plan((PlanItem(3, skill="bad"),)), writer), iterations=1)


def test_a_students_failure_is_not_the_teachers(play, scripted, monkeypatch):
    from dgym.fakes import FakeStudent

    def fail(self, examples, *, seed, fresh):
        raise StudentError("out of memory")

    monkeypatch.setattr(FakeStudent, "train", fail)
    with pytest.raises(StudentError, match="out of memory"):
        play(scripted(), iterations=1)


def test_an_episode_begins_once(play, scripted):
    with pytest.raises(DgymError, match="begun already"):
        play(scripted(), iterations=0).loop.begin()
