"""Hand-made identities and steps."""

from dgym.core import Attempt, Example, Feedback, Plan, PlanItem, Problem, Step, Verdict, digest
from dgym.specs import EpisodeSpec, Identity, Seeds


def identity(teacher="uniform", seed=1, environment="open-ended", **fields):
    flags = {"privileged": False, "state_blind": False, "ranked": True}
    flags |= {name: fields.pop(name) for name in list(fields) if name in flags}
    pins = {"teacher": fields.pop("pin", "1")}
    spec = EpisodeSpec(teacher=teacher, environment=environment, seeds=Seeds.all(seed), **fields)
    return Identity(spec=spec, digest=digest([spec.model_dump(mode="json"), pins]), variant="a", pins=pins, **flags)


def feedback(split, scores):
    """Problems p0, p1, ...; the first half of them are of skill "first", the others of "second"."""
    skills = ["first" if 2 * i < len(scores) else "second" for i in range(len(scores))]
    problems = [Problem(f"p{i}", f"What is {i}?", str(i), skill) for i, skill in enumerate(skills)]
    return Feedback(split, tuple(Attempt(p, "an answer", float(s)) for p, s in zip(problems, scores, strict=True)))


def step(iteration, selection, test=None, *, examples=10, rejected=2, best=False):
    verdicts = [Verdict(Example(f"Q{i}", f"A {i}", "first", i % 2), True, tokens=2) for i in range(examples)]
    verdicts += [Verdict(Example("Q0", "A 0", None, 0), False, "duplicate", True, 2) for _ in range(rejected)]
    if iteration == 0:
        verdicts = []
    return Step(
        iteration=iteration,
        feedback=feedback("feedback", [1, 0]),
        selection=feedback("selection", selection),
        test=None if test is None else feedback("test", test),
        plans=(Plan((PlanItem(6), PlanItem(6))),) if iteration else (),
        verdicts=tuple(verdicts),
        examples_total=examples * iteration,
        best=best,
        seconds={"train": 1.5, "answer": 0.5, "plan": 0.25},
        train={"loss": 0.5, "steps": 3, "tokens": 40} if iteration else {},
    )


def episode(base, chosen, last):
    """Three steps: untrained, chosen by selection, and last."""
    return [step(0, [0, 0], base), step(1, [1, 0], chosen, best=True), step(2, [0, 0], last)]
