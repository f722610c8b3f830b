"""Public conformance checks for anything registered: `dgym check my_teacher.py:MyTeacher`.

Each check is one sentence that should hold. What a checked thing raises becomes a finding, so that one run tells
everything that is wrong. The project's own tests run the same checks over every registered name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from dgym import registry
from dgym.core import (
    NEW_COMBINATION,
    Attempt,
    Brief,
    Budget,
    Domain,
    Engine,
    Environment,
    Example,
    Feedback,
    Generator,
    Plan,
    PlanItem,
    Policy,
    Probe,
    Problem,
    Rules,
    Split,
    State,
    StateContext,
    Student,
    StudentFamily,
    Teacher,
    derive_seed,
    from_json,
    to_json,
)
from dgym.domains import make_domain
from dgym.episode import ClosedLoop, LocalPool, ask_policy, run_episode
from dgym.errors import DgymError, UsageError, one_line, unknown_name
from dgym.fakes import FakeFamily
from dgym.gate import Gate, OverlapIndex
from dgym.models.recipe import Recipe
from dgym.teachers import make_teacher

EVALUATION: Final[tuple[Split, ...]] = ("feedback", "selection", "test")
"""The splits that a domain must fill."""

ALLOWANCE: Final = 40
"""How many examples a teacher under check may submit in one iteration."""

GARBAGE: Final = (
    "",
    " \n\t",
    "?",
    "nan",
    "-inf",
    "1/0",
    "0x",
    "99:99",
    "[" * 5_000,
    "9" * 100_000,
    "\x00\ufffd\U0001f600",
    "{'a': [1,",
    "I do not know, perhaps 3 or 4.",
)
"""Responses that a student might give and that no grader may stumble over."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: What should hold, in words.
        ok: Whether it does.
        detail: What was seen instead; empty when it holds.
        warning: Whether it is advice: a failed one does not make the thing unusable.
    """

    name: str
    ok: bool
    detail: str = ""
    warning: bool = False


def passed(findings: Sequence[Finding]) -> bool:
    """Whether nothing but warnings failed."""
    return all(f.ok or f.warning for f in findings)


class _UnmetError(DgymError):
    """What a check expected does not hold."""


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _UnmetError(otherwise)


class _Report:
    """Collects findings; an exception inside `with report(name):` is a failed check."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    @contextmanager
    def __call__(self, name: str, *, warning: bool = False) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.findings.append(Finding(name, False, one_line(error), warning))
        else:
            self.findings.append(Finding(name, True, "", warning))


def check(kind: str, name: str, domain: str = "fake", *, deep: bool = False) -> list[Finding]:
    """Checks what is registered under a name.

    Args:
        kind: `"teacher"`, `"domain"`, `"environment"` or `"student"`.
        name: Registered name, or `path/to/file.py:Attr`.
        domain: Registered name of the domain in which a teacher or student is exercised.
        deep: Whether a student is loaded and trained too, which may take seconds to minutes.

    Returns:
        One finding per check.

    Raises:
        UsageError: If there is no such kind or name, or if it cannot be imported or made.
    """
    if kind not in ("teacher", "domain", "environment", "student"):
        raise unknown_name("kind with checks", kind, ("teacher", "domain", "environment", "student"))
    if kind == "teacher":
        return check_teacher(make_teacher(name), domain)
    report = _Report()
    made: Any = None if kind == "domain" else registry.load(kind, name)
    with report("it can be made without arguments"):
        made = make_domain(name) if kind == "domain" else made()
    if not report.findings[0].ok:
        return report.findings
    if kind == "student":
        return report.findings + check_student(made, domain, deep=deep)
    checks: Mapping[str, Callable[[Any], list[Finding]]] = {
        "domain": check_domain,
        "environment": check_environment,
    }
    return report.findings + checks[kind](made)


# --------------------------------------------------------------------------------------------------------------
# Teachers


def check_teacher(teacher: Teacher, domain: str = "fake") -> list[Finding]:
    """Checks a teacher in every environment that it enters.

    Args:
        teacher: What `dgym.teachers.make_teacher` returns.
        domain: Registered name of the domain in which it is exercised.
    """
    report = _Report()
    known = set(registry.names("environment"))
    with report("it enters at least one environment, with a policy for each"):
        _require(bool(teacher.policies), "it enters none")
        for name, policy in teacher.policies.items():
            _require(isinstance(policy, Policy), f"{type(policy).__name__} for {name!r} has no plan(brief, state)")
    with report("it enters known environments only", warning=True):
        unknown = sorted(set(teacher.policies) - known)
        _require(not unknown, f"{', '.join(unknown)} not registered")
    with report("its engine has generate(brief, item)"):
        _require(isinstance(teacher.engine, Engine), f"it is a {type(teacher.engine).__name__}")
    if not all(f.ok or f.warning for f in report.findings):
        return report.findings
    for name in sorted(known & set(teacher.policies)):
        entered = make_domain(domain)
        with report(f"{name}: every check could be made"):
            _check_entry(report, teacher, name, entered)
    return report.findings


def _check_entry(report: _Report, teacher: Teacher, name: str, domain: Domain) -> None:
    environment: Environment = registry.load("environment", name)()
    policy = teacher.policies[name]
    problems = domain.problems("feedback")[:30]
    rules = Rules(iterations=2, budget=Budget(ALLOWANCE * teacher.budget_factor), share=0.1)

    def loop() -> ClosedLoop:
        return ClosedLoop(
            domain,
            environment,
            FakeFamily().open(None, "a"),
            rules,
            unverified=teacher.unverified,
            index=OverlapIndex(domain, {}),
        )

    brief = loop().brief
    half = _feedback(problems, lambda i, p: p.reference if i % 2 else "?", domain)
    context = StateContext(iteration=0, seed=7, examples_left=rules.budget.examples_per_iteration)
    states = {
        "an ordinary state": environment.observe(half, context),
        "a state without errors": environment.observe(
            _feedback(problems, lambda _, p: p.reference, domain), replace(context, iteration=1)
        ),
        "a state without any observation": environment.observe(Feedback("feedback", ()), context),
        "an exhausted budget": environment.observe(half, replace(context, iteration=2, examples_left=0)),
    }
    plans: dict[str, Plan] = {}
    for what, state in states.items():
        with report(f"{name}: plans in {what}"):
            plans[what] = ask_policy(policy, brief, state)
        with report(f"{name}: asks for no more than is left in {what}", warning=True):
            asked = sum(item.count for item in plans[what].items) if what in plans else 0
            _require(asked <= state.examples_left, f"it asks for {asked} where {state.examples_left} are left")
    ordinary = states["an ordinary state"]
    plan = plans.get("an ordinary state")
    if plan is None:
        return
    with report(f"{name}: the same state gives the same plan"):
        again = ask_policy(policy, brief, from_json(State, to_json(ordinary)))
        _require(to_json(again) == to_json(plan), "a second plan differs; let all randomness come from state.seed")
    with report(f"{name}: goes on from its memory"):
        ask_policy(policy, brief, replace(ordinary, iteration=1, memory=plan.memory))
    with report(f"{name}: Brief, State and Plan survive JSON"):
        for record in (brief, ordinary, plan):
            _require(_round_trip(record), f"{type(record).__name__} does not")
    items = [replace(item, count=min(item.count, 5), seed=100 + i) for i, item in enumerate(plan.items[:2])]
    _check_engine(report, name, teacher, brief, domain, items)
    with report(f"{name}: plays an episode in the domain {domain.name!r}"):
        for _ in run_episode(loop(), teacher, LocalPool(teacher)):
            pass


def _check_engine(
    report: _Report, name: str, teacher: Teacher, brief: Brief, domain: Domain, items: Sequence[PlanItem]
) -> None:
    def write(item: PlanItem) -> list[Example]:
        # One more than wanted is enough to see that an engine writes too much, even one that never ends.
        return list(islice(teacher.engine.generate(brief, item), item.count + 1))

    written: list[Example] = []
    with report(f"{name}: the engine writes at most what an item counts"):
        for item in items:
            got = write(item)
            written += got
            _require(len(got) <= item.count, f"more than {item.count} examples")
    with report(f"{name}: its examples are well-formed"):
        budget = Budget(len(written) + 1)
        verdicts = Gate(domain, OverlapIndex(domain, {}), budget, verify=not teacher.unverified).submit(written)
        bad = [v for v in verdicts if v.reason == "malformed"]
        _require(
            not bad, f"{len(bad)} of {len(verdicts)} are not, such as {bad[0].example.prompt[:80]!r}" if bad else ""
        )
    with report(f"{name}: most of its examples are distinct and not known to be wrong", warning=True):
        rejected = [v for v in verdicts if not v.kept]
        _require(2 * len(rejected) <= len(verdicts), f"{len(rejected)} of {len(verdicts)} would be rejected")
    with report(f"{name}: its examples survive JSON"):
        _require(all(_round_trip(e) for e in written if isinstance(e, Example)), "some do not")
    with report(f"{name}: the same item gives the same examples"):
        _require([e for i in items for e in write(i)] == written, "they differ; let all randomness come from item.seed")
    if written:
        with report(f"{name}: another seed gives other examples", warning=True):
            other = [e for i in items for e in write(replace(i, seed=i.seed + 1_000))]
            _require(other != written, "they are the same, so that repeated items are rejected as duplicates")
    with report(f"{name}: the engine survives a skill that it does not know"):
        write(PlanItem(3, "Write problems that practise this.", skill='no "such"\nskill / \u00e9', seed=5))


# --------------------------------------------------------------------------------------------------------------
# Domains


def check_domain(domain: Domain) -> list[Finding]:
    """Checks a domain, and its generators where it has some."""
    report = _Report()
    with report("it has all that a Domain has"):
        _require(isinstance(domain, Domain), f"{type(domain).__name__} does not; see dgym.core.Domain")
        for attribute in ("name", "version", "description", "answer_format"):
            text = getattr(domain, attribute)
            _require(isinstance(text, str) and bool(text.strip()), f"its {attribute} is empty")
    splits: dict[Split, Sequence[Problem]] = {}
    with report("feedback, selection and test have problems"):
        for split in EVALUATION:
            splits[split] = domain.problems(split)
            _require(len(splits[split]) > 0, f"{split} has none")
    if not all(f.ok for f in report.findings):
        return report.findings
    every = [p for problems in splits.values() for p in problems]
    with report("asked again, it gives the same problems"):
        for split in EVALUATION:
            _require(list(domain.problems(split)) == list(splits[split]), f"{split} differs")
    with report("ids are unique across splits"):
        _require(len({p.id for p in every}) == len(every), "some problems share an id")
    with report("ids tell neither skill nor split nor answer"):
        groups: dict[str, list[str]] = {}
        for split, problems in splits.items():
            for p in problems:
                _require(p.id != p.reference, f"{p.id!r} is the answer")
                for word in (split, p.skill):
                    groups.setdefault(word, []).append(p.id)
        for word, ids in groups.items():
            # A hash may spell a short word by chance, but not in every id.
            _require(not all(word.lower() in i.lower() for i in ids), f"{ids[0]!r} tells {word!r}")
    with report("every reference is graded 1"):
        for p in every:
            # Where there are hidden tests, no answer may be published.
            score = domain.grade(p, p.reference) if p.reference else 1.0
            _require(score == 1.0, f"{p.reference!r} to {p.prompt[:80]!r} is graded {score}")
    one_each = list({p.skill: p for p in every}.values())
    with report("any response is graded from 0 to 1, without an exception"):
        for p in one_each:
            for response in GARBAGE:
                score = domain.grade(p, response)
                _require(0 <= score <= 1, f"{response[:20]!r} to {p.prompt[:80]!r} is graded {score}")
    with report("an empty response is no right answer"):
        for p in one_each:
            _require(domain.grade(p, "") < 1, f"it is, to {p.prompt[:80]!r}")
    with report("references are not known to be wrong as examples"):
        for p in (p for p in every if p.reference):
            _require(domain.check(Example(p.prompt, p.reference, images=p.images)) is not False, f"{p.prompt[:80]!r}")
    with report("any text has a fingerprint, and can be checked as an example"):
        for text in GARBAGE:
            _require(len(domain.fingerprints(text)) > 0, f"{text[:20]!r} has none")
            domain.check(Example(text, text))
    with report("no problem is in two splits, by fingerprint"):
        identity = {
            split: {domain.fingerprints(p.prompt, p.images)[0] for p in problems} for split, problems in splits.items()
        }
        for i, split in enumerate(EVALUATION):
            for other in EVALUATION[i + 1 :]:
                shared = identity[split] & identity[other]
                _require(not shared, f"{len(shared)} in {split} and {other}, such as {min(shared, default='')!r}")
    with report("overlap keys contain a problem's own fingerprint"):
        for p in every:
            _require(domain.fingerprints(p.prompt, p.images)[0] in domain.overlap_keys(p), f"{p.prompt[:80]!r}")
    if isinstance(domain, Generator):
        _check_generator(report, domain, domain, splits)
    return report.findings


def _check_generator(
    report: _Report, domain: Domain, generator: Generator, splits: Mapping[Split, Sequence[Problem]], count: int = 10
) -> None:
    index = OverlapIndex(domain, {})
    written: Sequence[Problem] = ()
    with report("generator: evaluation problems can be indexed"):
        index = OverlapIndex(domain, splits)
        written = domain.problems("train")  # by people: then there is an end to them
    with report("generator: it knows the skills of its problems"):
        # A skill that only the test split shows, as a new combination, cannot be generated.
        asked = {p.skill for problems in splits.values() for p in problems if p.slice != NEW_COMBINATION}
        _require(asked <= set(generator.skills()), f"problems have {sorted(asked)}")
        _require(bool(written) or asked == set(generator.skills()), f"problems have only {sorted(asked)}")
        _require(not asked & set(generator.off_domain()), "a tested skill is called off the domain")
    with report("generator: it recognises the skill of every problem"):
        for p in (p for problems in splits.values() for p in problems if p.slice != NEW_COMBINATION):
            _require(generator.infer_skill(p.prompt, p.images) == p.skill, f"not of {p.prompt[:80]!r}")
    for skill in generator.skills():
        fresh: list[Example] = []
        there = sum(p.skill == skill for p in written) if written else 2 * count + 1
        due = min(count, there)
        with report(f"generator: {skill}: fresh examples are as many as asked, and the same for the same seed"):
            fresh = generator.fresh(skill, count, 1)
            _require(len(fresh) == due, f"{len(fresh)} of {due}")
            _require(generator.fresh(skill, count, 1) == fresh, "they differ")
            _require(there < 2 or generator.fresh(skill, count, 2) != fresh, "another seed gives the same")
        with report(f"generator: {skill}: fresh examples pass the gate"):
            rejected = [v for v in Gate(domain, index, Budget(count), verify=True).submit(fresh) if not v.kept]
            shown = f"{rejected[0].reason}: {rejected[0].example.prompt[:80]!r}" if rejected else ""
            _require(not rejected, shown)
        with report(f"generator: {skill}: fresh examples are of this skill, by claim and by text"):
            for e in fresh:
                _require(e.skill == skill == generator.infer_skill(e.prompt, e.images), f"{e.prompt[:80]!r}")
        with report(f"generator: {skill}: wrong answers are wrong"):
            for i, e in enumerate(fresh):
                wrong = generator.wrong_answer(e, i)
                _require((wrong.prompt, wrong.images) == (e.prompt, e.images), "the problem changed")
                _require(wrong.response != e.response, f"{wrong.response!r} to {e.prompt[:80]!r}")
                _require(domain.check(wrong) is not True, f"{wrong.response!r} to {e.prompt[:80]!r}")
    for skill in generator.skills():
        for part in generator.subskills(skill):
            with report(f"generator: {part}: a refinement's examples are of its skill"):
                _require(part.startswith(f"{skill}/"), f"it is not named {skill}/...")
                for e in generator.fresh(part, count, 1):
                    _require(e.skill == part, f"{e.skill!r} is claimed")
                    _require(generator.infer_skill(e.prompt, e.images) == skill, f"{e.prompt[:80]!r}")
    for skill in generator.off_domain():
        with report(f"generator: {skill}: off the domain, fresh examples are of no tested skill"):
            fresh = generator.fresh(skill, count, 1)
            _require(len(fresh) == count, f"{len(fresh)} of {count}")
            for e in fresh:
                _require(generator.infer_skill(e.prompt, e.images) is None, f"{e.prompt[:80]!r}")


# --------------------------------------------------------------------------------------------------------------
# Environments


def check_environment(environment: Environment) -> list[Finding]:
    """Checks an environment on feedback whose names and skills cannot be guessed."""
    report = _Report()
    with report("it has all that an Environment has"):
        _require(isinstance(environment, Environment), f"{type(environment).__name__} does not; see dgym.core")
    if not report.findings[0].ok:
        return report.findings
    problems = [
        Problem(f"name{derive_seed('id', i):x}", f"What is {i} plus 1?", str(i + 1), f"label{derive_seed(i % 3):x}")
        for i in range(12)
    ]
    context = StateContext(
        iteration=2,
        seed=11,
        probes=(Probe("a claim", 0.5, 4),),
        rejected={"duplicate": 3},
        examples_left=17,
        memory={"kept": [1, None]},
    )
    feedbacks = {
        "ordinary": _feedback(problems, lambda i, p: p.reference if i % 2 else "?"),
        "empty": Feedback("feedback", ()),
        "all right": _feedback(problems, lambda _, p: p.reference),
        "all wrong": _feedback(problems, lambda _, __: "?"),
    }
    for what, feedback in feedbacks.items():
        state: State | None = None
        with report(f"{what} feedback gives a state, the same again"):
            state = environment.observe(feedback, context)
            _require(isinstance(state, State), f"it gives a {type(state).__name__}")
            _require(environment.observe(feedback, context) == state, "a second state differs")
        if not isinstance(state, State):
            continue
        with report(f"{what} feedback: name and score are right"):
            _require(state.environment == environment.name, f"the state says {state.environment!r}")
            _require(abs(state.score - feedback.score) < 1e-9, f"the score is {state.score}, not {feedback.score}")
        with report(f"{what} feedback: what the loop adds is passed on"):
            for field, value in context.fields().items():
                _require(getattr(state, field) == value, f"{field} is {getattr(state, field)!r}, not {value!r}")
        with report(f"{what} feedback: the state survives JSON"):
            _require(_round_trip(state), "it does not")
        with report(f"{what} feedback: the state hides the names of problems"):
            text = str(to_json(state))
            _require(not any(p.id in text for p in problems), "it shows one")
            if environment.name == "open-ended":
                _require(not any(p.skill in text for p in problems), "it shows a gold skill")
    return report.findings


# --------------------------------------------------------------------------------------------------------------
# Students


def check_student(family: StudentFamily, domain: str = "fake", *, deep: bool = False) -> list[Finding]:
    """Checks a family of students.

    Args:
        family: What the registered name makes.
        domain: Registered name of the domain whose problems a deep check asks.
        deep: Whether to load the first variant, and to train, save and ask it.
    """
    report = _Report()
    open_ = getattr(family, "open", False) is True
    with report("it has all that a StudentFamily has"):
        _require(isinstance(family, StudentFamily), f"{type(family).__name__} does not; see dgym.core.StudentFamily")
        _require(bool(family.variants) or open_, "it has no variants")
        _require(len(set(family.variants)) == len(family.variants), "two variants have one name")
    if not report.findings[0].ok:
        return report.findings
    if open_:
        _check_open(report, family)
        return report.findings
    with report("every seed draws a variant, the same one again"):
        for seed in (*range(50), 2**31, 2**62):
            variant = family.draw(seed)
            _require(variant in family.variants, f"seed {seed} draws {variant!r}")
            _require(family.draw(seed) == variant, f"seed {seed} draws {variant!r} and then another")
    with report("digests are stable, and differ between variants"):
        digests = [family.digest(v) for v in family.variants]
        _require(all(isinstance(d, str) and d for d in digests), "one is empty or no text")
        _require([family.digest(v) for v in family.variants] == digests, "asked again, they differ")
        _require(len(set(digests)) == len(digests), "two variants share one")
    if deep:
        _check_learning(report, family, make_domain(domain))
    return report.findings


def _check_open(report: _Report, family: StudentFamily) -> None:
    """Checks a family that takes any text as variant: it is named by the user, never drawn."""
    with report("without a variant it says what to write"):
        try:
            drawn = family.draw(1)
        except UsageError:
            drawn = ""
        _require(not drawn, f"seed 1 draws {drawn!r}; an open family is asked for by name")
    with report("what there is not is the user's mistake"):
        for act in (family.digest, lambda variant: family.load(variant, "cpu", "float32", 1)):
            try:
                act("./no such/thing")
            except DgymError:
                continue
            except Exception as error:
                raise _UnmetError(f"a variant that does not exist raises {one_line(error)}") from error


def _check_learning(report: _Report, family: StudentFamily, domain: Domain) -> None:
    variant = family.variants[0]
    taught = domain.problems("feedback")[:80]
    problems = taught[:40]
    examples = [Example(p.prompt, p.reference, p.skill, images=p.images) for p in taught] * 3
    students: list[Student] = []
    before: list[str] = []
    after: list[str] = []
    with report("a variant loads, and two students are opened on it"):
        base = family.load(variant, "cpu", "float32", 1)
        _require(base.bytes >= 0, f"its weights have {base.bytes} bytes")
        students += [base.open(Recipe(), variant) for _ in range(2)]
        _require(all(isinstance(s, Student) for s in students), "they lack a method of dgym.core.Student")
    if not report.findings[-1].ok:
        return
    student, other = students
    with report("a student gives one answer per problem, in order, the same again"):
        before = student.answer(problems)
        _require(len(before) == len(problems), f"{len(before)} answers to {len(problems)} problems")
        _require(all(isinstance(a, str) for a in before), "an answer is no text")
        _require(student.answer(problems) == before, "asked again, they differ")
        _require(student.answer([]) == [], "no problems should give no answers")
    with report("it trains, and reports numbers"):
        measures = student.train(examples, seed=1, fresh=True)
        _require(all(isinstance(v, int | float) for v in measures.values()), f"it reports {dict(measures)}")
        after = student.answer(problems)
    with report("training changes its answers", warning=True):
        _require(after != before, f"{len(examples)} examples change none of {len(problems)} answers")
    with report("its training leaves other students alone"):
        _require(other.answer(problems) == before, "another student of the same base answers otherwise")
    with report("the same training gives the same answers"):
        student.train(examples, seed=1, fresh=True)
        _require(student.answer(problems) == after, "they differ")
    with report("what it learned is saved and loaded"), tempfile.TemporaryDirectory() as folder:
        student.save(folder)
        other.load(folder)
        _require(other.answer(problems) == after, "the loaded student answers otherwise")
    with report("a fresh training on nothing gives the untrained student"):
        student.train([], seed=1, fresh=True)
        _require(student.answer(problems) == before, "it answers otherwise")
    with report("it can be closed twice"):
        for s in (*students, *students):
            s.close()


# --------------------------------------------------------------------------------------------------------------


def _feedback(
    problems: Sequence[Problem], answer: Callable[[int, Problem], str], domain: Domain | None = None
) -> Feedback:
    attempts = []
    for i, p in enumerate(problems):
        response = answer(i, p)
        score = domain.grade(p, response) if domain else float(response == p.reference)
        attempts.append(Attempt(p, response, score))
    return Feedback("feedback", tuple(attempts))


def _round_trip(record: Any) -> bool:
    return bool(from_json(type(record), to_json(record)) == record)
