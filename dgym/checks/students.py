"""Checks of a family of students; a deep check loads, trains and asks one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Final

from dgym.checks.findings import Finding, Report, UnmetError, require
from dgym.core import Domain, Example, Problem, Student, StudentFamily
from dgym.domains import make_domain
from dgym.errors import DgymError, UsageError, one_line
from dgym.models.recipe import Recipe

ODD: Final = ("\x00\ufffd\U0001f600", "?" * 5_000, "a\n\n\tb", "<|im_end|> <eos> </s>")
"""What an example or a problem may say, and no student may stumble over."""


def check_student(
    family: StudentFamily, domain: str = "fake", *, variant: str = "", deep: bool = False
) -> list[Finding]:
    """Checks a family of students.

    Args:
        family: What the registered name makes.
        domain: Registered name of the domain whose problems a deep check asks.
        variant: Which one a deep check takes; the first unless given.
        deep: Whether to load a variant, and to train, save and ask it.
    """
    report = Report()
    open_ = getattr(family, "open", False) is True
    with report("it has all that a StudentFamily has"):
        require(isinstance(family, StudentFamily), f"{type(family).__name__} does not; see dgym.core.StudentFamily")
        require(bool(family.variants) or open_, "it has no variants")
        require(len(set(family.variants)) == len(family.variants), "two variants have one name")
        require(open_ or not variant or variant in family.variants, f"{variant!r} is none of its variants")
    if not report.findings[0].ok:
        return report.findings
    if open_:
        _check_open(report, family)
    else:
        with report("every seed draws a variant, the same one again"):
            for seed in (*range(50), 2**31, 2**62):
                drawn = family.draw(seed)
                require(drawn in family.variants, f"seed {seed} draws {drawn!r}")
                require(family.draw(seed) == drawn, f"seed {seed} draws {drawn!r} and then another")
        with report("digests are stable, and differ between variants"):
            digests = [family.digest(v) for v in family.variants]
            require(all(isinstance(d, str) and d for d in digests), "one is empty or no text")
            require([family.digest(v) for v in family.variants] == digests, "asked again, they differ")
            require(len(set(digests)) == len(digests), "two variants share one")
    if deep and (variant or family.variants):
        _check_learning(report, family, variant or family.variants[0], make_domain(domain))
    return report.findings


def _check_open(report: Report, family: StudentFamily) -> None:
    """Checks a family that takes any text as variant: it is named by the user, never drawn."""
    with report("without a variant it says what to write"):
        try:
            drawn = family.draw(1)
        except UsageError:
            drawn = ""
        require(not drawn, f"seed 1 draws {drawn!r}; an open family is asked for by name")
    with report("what there is not is the user's mistake"):
        for act in (family.digest, lambda variant: family.load(variant, "cpu", "float32", 1)):
            try:
                act("./no such/thing")
            except DgymError:
                continue
            except Exception as error:
                raise UnmetError(f"a variant that does not exist raises {one_line(error)}") from error


def _check_learning(report: Report, family: StudentFamily, variant: str, domain: Domain) -> None:
    taught = domain.problems("feedback")[:80]
    problems = taught[:40]
    examples = [Example(p.prompt, p.reference, p.skill, images=p.images) for p in taught] * 3
    students: list[Student] = []
    before: list[str] = []
    after: list[str] = []
    with report("a variant loads, and two students are opened on it"):
        base = family.load(variant, "cpu", "float32", 1)
        require(base.bytes >= 0, f"its weights have {base.bytes} bytes")
        students += [base.open(Recipe(), variant) for _ in range(2)]
        require(all(isinstance(s, Student) for s in students), "they lack a method of dgym.core.Student")
    if not report.findings[-1].ok:
        return
    student, other = students
    with report("a student gives one answer per problem, in order, the same again"):
        before = student.answer(problems)
        require(len(before) == len(problems), f"{len(before)} answers to {len(problems)} problems")
        require(all(isinstance(a, str) for a in before), "an answer is no text")
        require(student.answer(problems) == before, "asked again, they differ")
        require(student.answer([]) == [], "no problems should give no answers")
    with report("it trains, and reports numbers"):
        measures = student.train(examples, seed=1, fresh=True)
        require(all(isinstance(v, int | float) for v in measures.values()), f"it reports {dict(measures)}")
        after = student.answer(problems)
    with report("training changes its answers", warning=True):
        require(after != before, f"{len(examples)} examples change none of {len(problems)} answers")
    with report("its training leaves other students alone"):
        require(other.answer(problems) == before, "another student of the same base answers otherwise")
    with report("the same training gives the same answers"):
        student.train(examples, seed=1, fresh=True)
        require(student.answer(problems) == after, "they differ")
    with report("what it learned is saved and loaded"), tempfile.TemporaryDirectory() as folder:
        student.save(folder)
        other.load(folder)
        require(other.answer(problems) == after, "the loaded student answers otherwise")
    _check_going_on(report, student, taught)
    with report("a fresh training on nothing gives the untrained student"):
        student.train([], seed=1, fresh=True)
        require(student.answer(problems) == before, "it answers otherwise")
    with report("it can be closed twice, and closing it leaves others alone"):
        for _ in range(2):
            student.close()
        require(other.answer(problems) == after, "another student of the same base answers otherwise")
        for _ in range(2):
            other.close()


def _check_going_on(report: Report, student: Student, taught: Sequence[Problem]) -> None:
    examples = [Example(p.prompt, p.reference, p.skill, images=p.images) for p in taught]
    half = len(examples) // 2
    with report("it goes on learning on top of what it has learned, each time alike"):
        answers = []
        for _ in range(2):
            student.train(examples[:half], seed=1, fresh=True)
            student.train(examples[half:], seed=2, fresh=False)
            answers.append(student.answer(taught))
        require(answers[0] == answers[1], "the same again gives other answers")
    with report("it takes any text to learn and to answer"):
        images = taught[0].images
        student.train([Example(text, text, images=images) for text in ODD], seed=1, fresh=True)
        answered = student.answer([Problem(f"odd{i}", text, "", "", images) for i, text in enumerate(ODD)])
        require(len(answered) == len(ODD), f"{len(answered)} answers to {len(ODD)} problems")
