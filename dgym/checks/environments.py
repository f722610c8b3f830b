"""Checks of an environment, on feedback whose names and skills cannot be guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dgym.checks.findings import Finding, Report, feedback_on, require, round_trip
from dgym.core import (
    Action,
    Environment,
    Example,
    Feedback,
    Past,
    Plan,
    PlanItem,
    Probe,
    Problem,
    SkillOrganisation,
    State,
    StateContext,
    derive_seed,
    to_json,
)
from dgym.errors import TeacherError


def check_environment(environment: Environment, again: Callable[[], Environment] | None = None) -> list[Finding]:
    """Checks an environment.

    Args:
        environment: What the registered name makes.
        again: Makes it anew, to see whether it keeps anything between calls.
    """
    report = Report()
    with report("it has all that an Environment has"):
        require(isinstance(environment, Environment), f"{type(environment).__name__} does not; see dgym.core")
        for attribute in ("name", "version"):
            text = getattr(environment, attribute)
            require(isinstance(text, str) and bool(text.strip()), f"its {attribute} is empty")
        require(isinstance(environment.wants_probes, bool), "wants_probes is neither True nor False")
    if not report.sound:
        return report.findings
    problems = [
        Problem(f"name{derive_seed('id', i):x}", f"What is {i} plus 1?", str(i + 1), f"label{derive_seed(i % 3):x}")
        for i in range(12)
    ]
    ordinary = feedback_on(problems, lambda i, p: p.reference if i % 2 else "?")
    context = StateContext(
        iteration=2,
        seed=11,
        past=(Past(0, feedback_on(problems, lambda *_: "?")), Past(1, ordinary, kept={"a claim": 3})),
        probes=(Probe("a claim", 0.5, 4),),
        rejected={"duplicate": 3},
        examples_left=17,
        known={"asked": 5, "known": 2},
        known_checks_left=4,
        memory={"kept": [1, None]},
    )
    feedbacks = {
        "ordinary": ordinary,
        "empty": Feedback("feedback", ()),
        "all right": feedback_on(problems, lambda _, p: p.reference),
        "all wrong": feedback_on(problems, lambda _, __: "?"),
    }
    for what, feedback in feedbacks.items():
        state: State | None = None
        with report(f"{what} feedback gives a state, the same again"):
            state = environment.observe(feedback, context)
            require(isinstance(state, State), f"it gives a {type(state).__name__}")
            require(environment.observe(feedback, context) == state, "a second state differs")
            if again is not None:
                require(again().observe(feedback, context) == state, "made anew, it gives another")
        if not isinstance(state, State):
            continue
        with report(f"{what} feedback: name and score are right"):
            require(state.environment == environment.name, f"the state says {state.environment!r}")
            require(abs(state.score - feedback.score) < 1e-9, f"the score is {state.score}, not {feedback.score}")
        with report(f"{what} feedback: what the loop adds is passed on"):
            for field, value in context.fields().items():
                require(getattr(state, field) == value, f"{field} is {getattr(state, field)!r}, not {value!r}")
        with report(f"{what} feedback: the state survives JSON"):
            require(round_trip(state), "it does not")
        with report(f"{what} feedback: the state hides the names of problems"):
            text = str(to_json(state))
            require(not any(p.id in text for p in problems), "it shows one")
            if environment.name == "open-ended":
                require(not any(p.skill in text for p in problems), "it shows a gold skill")
        if isinstance(environment, SkillOrganisation):
            _check_organisation(report, environment, what, state, context)
    return report.findings


def _check_organisation(
    report: Report, environment: SkillOrganisation, what: str, state: State, context: StateContext
) -> None:
    with report(f"{what} feedback: plans of any kind are carried out or refused"):
        plain = Plan((PlanItem(5), PlanItem(3, "", "no such skill")), memory={"kept": 1})
        acting = (Action("no such skill", "explore", ("part",), 5), Action("no such skill", "exploit", shift={"x": 1}))
        for plan in (Plan(), plain, *(replace(plain, actions=(action,)) for action in acting)):
            try:
                expanded = environment.expand(plan, state)
            except TeacherError:
                continue
            require(isinstance(expanded, Plan), f"it gives a {type(expanded).__name__}")
            require(expanded.memory == plan.memory, "the plan's memory is lost")
            require(all(isinstance(i, PlanItem) for i in expanded.items), "an item is no PlanItem")
        require(not environment.expand(Plan(), state).items, "an empty plan asks for examples")
    with report(f"{what} feedback: the student is trained on examples that there are"):
        examples = [Example(f"prompt {i}", str(i), "a claim" if i % 2 else None) for i in range(6)]
        chosen = list(environment.training_set(examples, context))
        require(all(example in examples for example in chosen), "one was never written")
        require(not list(environment.training_set([], context)), "there are none, and it finds some")
