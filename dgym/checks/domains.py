"""Checks of a domain: its problems, its grader, what it makes of examples, and its generators where it has some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from dgym.checks.findings import GARBAGE, Finding, Report, require, round_trip
from dgym.core import (
    NEW_COMBINATION,
    Attempt,
    Budget,
    Domain,
    Example,
    Frames,
    Generator,
    GradesTogether,
    Measures,
    Problem,
    Rules,
    Split,
    Summarises,
)
from dgym.environments.open_ended import OpenEnded
from dgym.episode import ClosedLoop
from dgym.errors import DgymError
from dgym.fakes import FakeFamily
from dgym.gate import Gate
from dgym.overlap import OverlapIndex

EVALUATION: Final[tuple[Split, ...]] = ("feedback", "selection", "test")
"""The splits that a domain must fill."""


def check_domain(domain: Domain) -> list[Finding]:
    """Checks a domain, and its generators where it has some."""
    report = Report()
    with report("it has all that a Domain has"):
        require(isinstance(domain, Domain), f"{type(domain).__name__} does not; see dgym.core.Domain")
        for attribute in ("name", "version", "description", "answer_format"):
            text = getattr(domain, attribute)
            require(isinstance(text, str) and bool(text.strip()), f"its {attribute} is empty")
    splits: dict[Split, Sequence[Problem]] = {}
    with report("feedback, selection and test have problems"):
        for split in EVALUATION:
            splits[split] = domain.problems(split)
            require(len(splits[split]) > 0, f"{split} has none")
    if not report.sound:
        return report.findings
    every = [p for problems in splits.values() for p in problems]
    _check_problems(report, domain, splits)
    if not report.sound:
        return report.findings
    one_each = list({p.skill: p for p in every}.values())
    with report("what a teacher is told of it survives JSON"):
        student, index = FakeFamily().open(None, "a"), OverlapIndex(domain, {})
        brief = ClosedLoop(domain, OpenEnded(), student, Rules(), index=index).brief
        require(round_trip(brief), "its Brief does not")
    _check_grader(report, domain, every, one_each)
    with report("references are not known to be wrong as examples"):
        for p in (p for p in every if p.reference):
            require(domain.check(Example(p.prompt, p.reference, images=p.images)) is not False, f"{p.prompt[:80]!r}")
    with report("any text has a fingerprint, and can be checked as an example"):
        for text in GARBAGE:
            require(len(domain.fingerprints(text)) > 0, f"{text[:20]!r} has none")
            domain.check(Example(text, text))
    with report("no problem is in two splits, by fingerprint"):
        identity = {
            split: {domain.fingerprints(p.prompt, p.images)[0] for p in problems} for split, problems in splits.items()
        }
        identity["train"] = {domain.fingerprints(p.prompt, p.images)[0] for p in domain.problems("train")}
        names = list(identity)
        for i, split in enumerate(names):
            for other in names[i + 1 :]:
                shared = identity[split] & identity[other]
                require(not shared, f"{len(shared)} in {split} and {other}, such as {min(shared, default='')!r}")
    with report("overlap keys contain a problem's own fingerprint"):
        for p in every:
            require(domain.fingerprints(p.prompt, p.images)[0] in domain.overlap_keys(p), f"{p.prompt[:80]!r}")
    if isinstance(domain, Frames):
        with report("the words around every problem are put and taken away alike"):
            for p in one_each:
                framed = domain.frame(p.prompt)
                require(domain.frame(framed) == framed, f"{p.prompt[:80]!r} is framed twice")
                require(domain.bare(framed) == domain.bare(p.prompt), f"{p.prompt[:80]!r} is not what is left")
    if isinstance(domain, Generator):
        _check_generator(report, domain, domain, splits)
    return report.findings


def _check_problems(report: Report, domain: Domain, splits: Mapping[Split, Sequence[Problem]]) -> None:
    every = [p for problems in splits.values() for p in problems]
    with report("asked again, it gives the same problems"):
        for split in EVALUATION:
            require(list(domain.problems(split)) == list(splits[split]), f"{split} differs")
    with report("problems are made of plain values, and can be asked"):
        for p in every:
            require(isinstance(p, Problem), f"one is a {type(p).__name__}")
            require(isinstance(p.prompt, str) and bool(p.prompt.strip()), f"{p.id!r} asks nothing")
            require(all(isinstance(i, bytes) and i for i in p.images), f"{p.id!r} has an image that is no bytes")
        # One of each kind: an image of every problem through JSON would take long.
        for p in {(p.skill, p.slice): p for p in every}.values():
            require(round_trip(p), f"{p.id!r} does not survive JSON")
    with report("ids are unique across splits"):
        require(len({p.id for p in every}) == len(every), "some problems share an id")
    with report("ids tell neither skill nor split nor answer"):
        groups: dict[str, list[str]] = {}
        for split, problems in splits.items():
            for p in problems:
                require(p.id != p.reference, f"{p.id!r} is the answer")
                for word in (split, p.skill):
                    groups.setdefault(word, []).append(p.id)
        for word, ids in groups.items():
            # A hash may spell a short word by chance, but not in every id.
            require(not all(word.lower() in i.lower() for i in ids), f"{ids[0]!r} tells {word!r}")


def _check_grader(report: Report, domain: Domain, every: Sequence[Problem], one_each: Sequence[Problem]) -> None:
    # Where there are hidden tests, no answer may be published.
    answered = [p for p in every if p.reference]
    right: list[float] = []
    with report("every reference is graded 1"):
        right = _graded(domain, answered, [p.reference for p in answered])
        for p, score in zip(answered, right, strict=True):
            require(score == 1.0, f"{p.reference!r} to {p.prompt[:80]!r} is graded {score}")
    mixed = [(p, p.reference or "?") for p in one_each] + [(p, "?") for p in one_each]
    graded: list[float] = []
    with report("any response is graded from 0 to 1, without an exception"):
        for p in one_each:
            for response in GARBAGE:
                score = domain.grade(p, response)
                require(0 <= score <= 1, f"{response[:20]!r} to {p.prompt[:80]!r} is graded {score}")
        graded = [domain.grade(p, response) for p, response in mixed]
    with report("asked again, and from several threads, it grades alike"):
        require([domain.grade(p, response) for p, response in mixed] == graded, "asked again, a grade differs")
        with ThreadPoolExecutor(4) as pool:
            beside = list(pool.map(lambda asked: domain.grade(*asked), mixed))
        require(beside == graded, "in threads, a grade differs")
    with report("an empty response is no right answer"):
        for p in one_each:
            require(domain.grade(p, "") < 1, f"it is, to {p.prompt[:80]!r}")
    if isinstance(domain, GradesTogether):
        with report("graded together, responses get the grades that they get alone"):
            alone = [(p, r, g) for (p, r), g in zip(mixed, graded, strict=True) if not p.group]
            together = domain.grade_all([p for p, _, _ in alone], [r for _, r, _ in alone])
            require([g for g, _ in together] == [g for _, _, g in alone], "they do not")
            require(list(domain.grade_all([], [])) == [], "no problems should give no grades")
            for p in [p for p, _, _ in alone][:1]:
                domain.grade_all([p] * len(GARBAGE), GARBAGE)
    if isinstance(domain, Measures):
        with report("it measures any response, from 0 to 1"):
            for p in one_each:
                for response in (p.reference, *GARBAGE):
                    found = dict(domain.measures(p, response))
                    require(all(0 <= v <= 1 for v in found.values()), f"{response[:20]!r} is measured as {found}")
    if isinstance(domain, Summarises):
        with report("it sums up any attempts, from 0 to 1"):
            attempts = [Attempt(p, r, g) for (p, r), g in zip(mixed, graded, strict=True)]
            found = dict(domain.summary(attempts))
            require(all(0 <= v <= 1 for v in found.values()), f"{found}")


def _graded(domain: Domain, problems: Sequence[Problem], responses: Sequence[str]) -> list[float]:
    """Grades as an episode does: together where the domain can."""
    if isinstance(domain, GradesTogether):
        return [score for score, _ in domain.grade_all(problems, responses)]
    return [domain.grade(p, r) for p, r in zip(problems, responses, strict=True)]


def _check_generator(
    report: Report, domain: Domain, generator: Generator, splits: Mapping[Split, Sequence[Problem]], count: int = 10
) -> None:
    index = OverlapIndex(domain, {})
    written: Sequence[Problem] = ()
    with report("generator: evaluation problems can be indexed"):
        index = OverlapIndex(domain, splits)
        written = domain.problems("train")  # by people: then there is an end to them
    with report("generator: it knows the skills of its problems"):
        # A skill that only the test split shows, as a new combination, cannot be generated.
        asked = {p.skill for problems in splits.values() for p in problems if p.slice != NEW_COMBINATION}
        require(asked <= set(generator.skills()), f"problems have {sorted(asked)}")
        require(bool(written) or asked == set(generator.skills()), f"problems have only {sorted(asked)}")
        require(not asked & set(generator.off_domain()), "a tested skill is called off the domain")
    with report("generator: it recognises the skill of every problem"):
        for p in (p for problems in splits.values() for p in problems if p.slice != NEW_COMBINATION):
            require(generator.infer_skill(p.prompt, p.images) == p.skill, f"not of {p.prompt[:80]!r}")
    with report("generator: none is written where none is asked for, and none of an unknown kind"):
        for skill in generator.skills():
            require(generator.fresh(skill, 0, 1) == [], f"0 examples of {skill} are some")
        try:
            made = generator.fresh("no such skill", 2, 1)
        except DgymError:
            made = []
        require(not made, "it writes 'no such skill'")
    with report("generator: any text has a skill or none"):
        for text in GARBAGE:
            found = generator.infer_skill(text)
            require(found is None or found in generator.skills(), f"{text[:20]!r} has {found!r}")
    for skill in generator.skills():
        fresh: list[Example] = []
        there = sum(p.skill == skill for p in written) if written else 2 * count + 1
        due = min(count, there)
        with report(f"generator: {skill}: fresh examples are as many as asked, and the same for the same seed"):
            fresh = generator.fresh(skill, count, 1)
            require(len(fresh) == due, f"{len(fresh)} of {due}")
            require(generator.fresh(skill, count, 1) == fresh, "they differ")
            require(there < 2 or generator.fresh(skill, count, 2) != fresh, "another seed gives the same")
        with report(f"generator: {skill}: fresh examples pass the gate"):
            rejected = [v for v in Gate(domain, index, Budget(count), verify=True).submit(fresh) if not v.kept]
            shown = f"{rejected[0].reason}: {rejected[0].example.prompt[:80]!r}" if rejected else ""
            require(not rejected, shown)
        with report(f"generator: {skill}: fresh examples are of this skill, by claim and by text"):
            for e in fresh:
                require(e.skill == skill == generator.infer_skill(e.prompt, e.images), f"{e.prompt[:80]!r}")
        with report(f"generator: {skill}: wrong answers are wrong"):
            for i, e in enumerate(fresh):
                wrong = generator.wrong_answer(e, i)
                require((wrong.prompt, wrong.images) == (e.prompt, e.images), "the problem changed")
                require(wrong.response != e.response, f"{wrong.response!r} to {e.prompt[:80]!r}")
                require(domain.check(wrong) is not True, f"{wrong.response!r} to {e.prompt[:80]!r}")
    for skill in generator.skills():
        for part in generator.subskills(skill):
            with report(f"generator: {part}: a refinement's examples are of its skill"):
                require(part.startswith(f"{skill}/"), f"it is not named {skill}/...")
                for e in generator.fresh(part, count, 1):
                    require(e.skill == part, f"{e.skill!r} is claimed")
                    require(generator.infer_skill(e.prompt, e.images) == skill, f"{e.prompt[:80]!r}")
    for skill in generator.off_domain():
        with report(f"generator: {skill}: off the domain, fresh examples are of no tested skill"):
            fresh = generator.fresh(skill, count, 1)
            require(len(fresh) == count, f"{len(fresh)} of {count}")
            for e in fresh:
                require(generator.infer_skill(e.prompt, e.images) is None, f"{e.prompt[:80]!r}")
