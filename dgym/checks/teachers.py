"""Checks of a teacher: in every environment that it enters, from Brief and State alone, without a real student."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from itertools import islice
from typing import Final

from dgym import registry
from dgym.checks.findings import Finding, Report, feedback_on, require, round_trip
from dgym.core import (
    Brief,
    Budget,
    Domain,
    Engine,
    Environment,
    Example,
    Feedback,
    Plan,
    PlanItem,
    Policy,
    Rules,
    State,
    StateContext,
    Teacher,
    from_json,
    to_json,
)
from dgym.domains import make_domain
from dgym.episode import ClosedLoop, LocalPool, ask_policy, run_episode
from dgym.fakes import FakeFamily
from dgym.gate import Gate
from dgym.overlap import OverlapIndex

ALLOWANCE: Final = 40
"""How many examples a teacher under check may submit in one iteration."""

ROUNDS: Final = 12
"""For how many rounds a policy's memory is watched."""


def check_teacher(teacher: Teacher, domain: str = "fake", again: Callable[[], Teacher] | None = None) -> list[Finding]:
    """Checks a teacher in every environment that it enters.

    Args:
        teacher: What `dgym.teachers.make_teacher` returns.
        domain: Registered name of the domain in which it is exercised.
        again: Makes the teacher anew, to see whether it keeps to itself what it should return as memory.
    """
    report = Report()
    known = set(registry.names("environment"))
    with report("it enters at least one environment, with a policy for each"):
        require(bool(teacher.policies), "it enters none")
        for name, policy in teacher.policies.items():
            require(isinstance(policy, Policy), f"{type(policy).__name__} for {name!r} has no plan(brief, state)")
    with report("it enters known environments only", warning=True):
        unknown = sorted(set(teacher.policies) - known)
        require(not unknown, f"{', '.join(unknown)} not registered")
    with report("its engine has generate(brief, item)"):
        require(isinstance(teacher.engine, Engine), f"it is a {type(teacher.engine).__name__}")
    fresh: Teacher | None = None
    if again is not None:
        with report("it can be made anew"):
            fresh = again()
    if not report.sound:
        return report.findings
    for name in sorted(known & set(teacher.policies)):
        entered = make_domain(domain)
        with report(f"{name}: every check could be made"):
            _check_entry(report, teacher, name, entered, fresh)
    return report.findings


def _check_entry(report: Report, teacher: Teacher, name: str, domain: Domain, fresh: Teacher | None) -> None:
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
    half = feedback_on(problems, lambda i, p: p.reference if i % 2 else "?", domain)
    context = StateContext(iteration=0, seed=7, examples_left=rules.budget.examples_per_iteration)
    states = {
        "an ordinary state": environment.observe(half, context),
        "a state without errors": environment.observe(
            feedback_on(problems, lambda _, p: p.reference, domain), replace(context, iteration=1)
        ),
        "a state without any observation": environment.observe(Feedback("feedback", ()), context),
        "an exhausted budget": environment.observe(half, replace(context, iteration=2, examples_left=0)),
    }
    shown = to_json(brief), {what: to_json(state) for what, state in states.items()}
    plans: dict[str, Plan] = {}
    with _watched(report, name):
        for what, state in states.items():
            with report(f"{name}: plans in {what}"):
                plans[what] = ask_policy(policy, brief, state)
            with report(f"{name}: asks for no more than is left in {what}", warning=True):
                asked = sum(item.count for item in plans[what].items) if what in plans else 0
                require(asked <= state.examples_left, f"it asks for {asked} where {state.examples_left} are left")
        ordinary = states["an ordinary state"]
        plan = plans.get("an ordinary state")
        if plan is None:
            return
        with report(f"{name}: the same state gives the same plan"):
            second = ask_policy(policy, brief, from_json(State, to_json(ordinary)))
            require(to_json(second) == to_json(plan), "a second plan differs; let all randomness come from state.seed")
        with report(f"{name}: goes on from its memory"):
            ask_policy(policy, brief, replace(ordinary, iteration=1, memory=plan.memory))
        with report(f"{name}: its memory stays within 1 MB for {ROUNDS} rounds"):
            memory = plan.memory
            for i in range(1, ROUNDS):
                memory = ask_policy(policy, brief, replace(ordinary, iteration=i, seed=i, memory=memory)).memory
        with report(f"{name}: Brief, State and Plan survive JSON"):
            for record in (brief, ordinary, plan):
                require(round_trip(record), f"{type(record).__name__} does not")
        items = [replace(item, count=min(item.count, 5), seed=100 + i) for i, item in enumerate(plan.items[:2])]
        written = _check_engine(report, name, teacher, brief, domain, items)
        if fresh is not None:
            with report(f"{name}: made anew, it plans and writes the same"):
                twin = ask_policy(fresh.policies[name], brief, ordinary)
                require(to_json(twin) == to_json(plan), "the plan differs; return what is to be remembered as memory")
                require(_write(fresh, brief, items) == written, "the examples differ")
        with report(f"{name}: leaves Brief and State as they were"):
            now = to_json(brief), {what: to_json(state) for what, state in states.items()}
            require(now == shown, "it changes what it is shown")
        with report(f"{name}: plays an episode in the domain {domain.name!r}"):
            for _ in run_episode(loop(), teacher, LocalPool(teacher)):
                pass


@contextmanager
def _watched(report: Report, name: str) -> Iterator[None]:
    """Checks that what is done inside touches nothing that others in this process share."""
    before, said = random.getstate(), io.StringIO()
    try:
        with redirect_stdout(said):
            yield
    finally:
        with report(f"{name}: prints nothing", warning=True):
            require(not said.getvalue(), f"it prints {said.getvalue()[:80]!r}; the standard output is not its own")
        with report(f"{name}: leaves the global random state alone", warning=True):
            require(random.getstate() == before, "it does not; make a random.Random of your own from the seed")


def _write_item(teacher: Teacher, brief: Brief, item: PlanItem) -> list[Example]:
    # One more than wanted is enough to see that an engine writes too much, even one that never ends.
    return list(islice(teacher.engine.generate(brief, item), item.count + 1))


def _write(teacher: Teacher, brief: Brief, items: Sequence[PlanItem]) -> list[Example]:
    return [e for item in items for e in _write_item(teacher, brief, item)]


def _check_engine(
    report: Report, name: str, teacher: Teacher, brief: Brief, domain: Domain, items: Sequence[PlanItem]
) -> list[Example]:
    written: list[Example] = []
    with report(f"{name}: the engine writes at most what an item counts"):
        for item in items:
            got = _write_item(teacher, brief, item)
            written += got
            require(len(got) <= item.count, f"more than {item.count} examples")
    with report(f"{name}: its examples are well-formed"):
        budget = Budget(len(written) + 1)
        verdicts = Gate(domain, OverlapIndex(domain, {}), budget, verify=not teacher.unverified).submit(written)
        bad = [v for v in verdicts if v.reason == "malformed"]
        require(
            not bad, f"{len(bad)} of {len(verdicts)} are not, such as {bad[0].example.prompt[:80]!r}" if bad else ""
        )
    with report(f"{name}: most of its examples are distinct and not known to be wrong", warning=True):
        rejected = [v for v in verdicts if not v.kept]
        require(2 * len(rejected) <= len(verdicts), f"{len(rejected)} of {len(verdicts)} would be rejected")
    with report(f"{name}: its examples survive JSON"):
        require(all(round_trip(e) for e in written if isinstance(e, Example)), "some do not")
    with report(f"{name}: the same item gives the same examples"):
        again = _write(teacher, brief, items)
        require(again == written, "they differ; let all randomness come from item.seed")
    with report(f"{name}: so it does after others, and beside others"):
        backwards = [_write_item(teacher, brief, item) for item in reversed(items)]
        require([e for part in reversed(backwards) for e in part] == written, "in another order they differ")
        with ThreadPoolExecutor(4) as pool:
            beside = list(pool.map(lambda item: _write_item(teacher, brief, item), [*items] * 2))
        require([e for part in beside for e in part] == written * 2, "in threads they differ")
    if written:
        with report(f"{name}: another seed gives other examples", warning=True):
            other = _write(teacher, brief, [replace(i, seed=i.seed + 1_000) for i in items])
            require(other != written, "they are the same, so that repeated items are rejected as duplicates")
    with report(f"{name}: the engine survives a skill that it does not know"):
        unknown = PlanItem(3, "Write problems that practise this.", skill='no "such"\nskill / \u00e9', seed=5)
        _write_item(teacher, brief, unknown)
    return written
