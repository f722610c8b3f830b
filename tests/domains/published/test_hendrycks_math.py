"""The domain hendrycks-math: our fixture, and rows as they lie on the hub."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from dgym.checks import check_domain
from dgym.core import Example
from dgym.data import pull
from dgym.domains import make_domain
from dgym.domains.published.hendrycks_math import DATA, HendrycksMath
from dgym.errors import DomainError, UsageError

SUBJECTS = {
    "Algebra",
    "Counting & Probability",
    "Geometry",
    "Intermediate Algebra",
    "Number Theory",
    "Prealgebra",
    "Precalculus",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def domain(cache):
    return HendrycksMath(fixture=True)


def row(number, level="Level 1", subject="Algebra", **changed):
    return {
        "problem": f"What is ${number} + {number}$?",
        "level": level,
        "solution": rf"It is $\boxed{{{2 * number}}}$.",
        "type": subject,
    } | changed


TRAIN = [
    *(row(n) for n in range(60)),
    *(row(n, "Level 5", "Geometry") for n in range(100, 103)),
    row(200, "Level ?", "Geometry"),
    row(201, solution="There is no box here, and 3 numbers."),
    row(202, solution=r"It is $\boxed{}$."),
    row(7),
    row(301),
]
TEST = [row(n) for n in range(300, 305)] + [row(300), row(400, "Level 3", "Precalculus")]


def write(folder, train=TRAIN, test=TEST):
    for name, rows in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


@pytest.fixture
def pulled(tmp_path, monkeypatch):
    """Makes the domain from rows in a folder."""

    def make(name="rows", **rows):
        monkeypatch.setenv("DGYM_CACHE", str(tmp_path / name / "cache"))
        (tmp_path / name).mkdir()
        pull(DATA, place=write(tmp_path / name, **rows), report=lambda _: None)
        return HendrycksMath()

    return make


@pytest.mark.parametrize("name", ["hendrycks-math:fixture", "hendrycks-math:fixture,grader=minerva"])
def test_all_that_a_domain_must_do(cache, name):
    made = make_domain(name)
    assert made.name == name
    assert [f for f in check_domain(made) if not f.ok] == []


def test_each_subject_and_level_is_validated_and_tested(domain):
    validation = [*domain.problems("feedback"), *domain.problems("selection")]
    levels = {f"level {n}" for n in range(1, 6)}
    assert Counter((p.skill, p.slice) for p in validation) == {(s, level): 2 for s in SUBJECTS for level in levels}
    assert {(p.skill, p.slice) for p in domain.problems("test")} == {(s, level) for s in SUBJECTS for level in levels}
    for split in ("feedback", "selection"):
        assert {p.skill for p in domain.problems(split)} == SUBJECTS
    assert {p.slice for p in domain.problems("train")} == {*levels, "level ?"}
    assert set(domain.skills()) == SUBJECTS


def test_the_fixture_has_the_columns_of_upstream(domain):
    for part in DATA.parts:
        assert {*part.columns} == {"problem", "level", "type", "solution"}
    assert [len(domain.rows(part.name)) for part in DATA.parts] == [141, 35]
    assert [part.rows for part in DATA.parts] == [7_500, 5_000]


def test_names_say_the_grader(cache):
    assert HendrycksMath().name == "hendrycks-math"
    assert HendrycksMath(grader="math-verify").name == "hendrycks-math"
    assert HendrycksMath(grader="minerva").name == "hendrycks-math:grader=minerva"
    assert make_domain("hendrycks-math:grader=minerva").name == "hendrycks-math:grader=minerva"
    with pytest.raises(UsageError, match="Did you mean 'minerva'"):
        make_domain("hendrycks-math:grader=minervas")
    with pytest.raises(UsageError, match="grader"):
        make_domain("hendrycks-math:grader")


def test_the_two_graders_differ(domain):
    problem = next(p for p in domain.problems("test") if r"\boxed{\frac{3}{2}}" in p.reference)
    minerva = HendrycksMath(fixture=True, grader="minerva")
    for response, by_library, by_minerva in [
        (r"\boxed{\frac{3}{2}}", 1, 1),
        (r"\boxed{1.5}", 1, 1),
        (r"\boxed{1\frac{1}{2}}", 1, 0),
        ("It is 3/2", 1, 0),
        ("The final answer is $3/2$.", 1, 1),
        (r"\boxed{\frac{2}{3}}", 0, 0),
        ("", 0, 0),
    ]:
        assert domain.grade(problem, response) == by_library, response
        assert minerva.grade(problem, response) == by_minerva, response


def test_many_are_graded_in_order(domain):
    problems = domain.problems("test")
    responses = [p.reference if i % 3 else "?" for i, p in enumerate(problems)]
    assert domain.grade_all(problems, responses) == [(float(i % 3 > 0), {}) for i in range(len(problems))]


def test_an_example_needs_a_final_answer(domain):
    known = domain.problems("train")[0]
    assert domain.check(Example(known.prompt, known.reference)) is True
    assert domain.check(Example(domain.bare(known.prompt), known.reference)) is True
    assert domain.check(Example(known.prompt, r"\boxed{123456}")) is False
    assert domain.check(Example("What is 1 + 1?", r"It is $\boxed{3}$.")) is None
    assert domain.check(Example("What is 1 + 1?", "The final answer is $2$.")) is None
    assert domain.check(Example("What is 1 + 1?", "1 + 1 makes 2")) is False
    assert domain.check(Example("What is 1 + 1?", r"\boxed{2")) is False
    assert domain.check(Example("What is 1 + 1?", "")) is False


def test_rows_from_a_folder(pulled):
    domain = pulled()
    validation = [*domain.problems("feedback"), *domain.problems("selection")]
    assert Counter((p.skill, p.slice) for p in validation) == {("Algebra", "level 1"): 50, ("Geometry", "level 5"): 3}
    # Left are ten of the sixty, and the one without a level; no copies, nor rows without an answer.
    assert Counter(p.slice for p in domain.problems("train")) == {"level 1": 10, "level ?": 1}
    test = domain.problems("test")
    assert len(test) == len({p.id for p in test}) == 7
    assert test[0].reference == r"It is $\boxed{600}$."
    assert test[0].prompt == "Put the final answer in \\boxed{}.\n\nWhat is $300 + 300$?"


def test_the_order_of_rows_changes_nothing(pulled):
    mixed = random.Random(3)
    first = pulled("first")
    splits = {s: {p.id: p for p in first.problems(s)} for s in ("train", "feedback", "selection", "test")}
    second = pulled("second", train=mixed.sample(TRAIN, len(TRAIN)), test=mixed.sample(TEST, len(TEST)))
    assert {s: {p.id: p for p in second.problems(s)} for s in splits} == splits


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"level": 3}, "column 'level' holds int"),
        ({"solution": None}, "column 'solution' holds NoneType"),
        ({"level": "3"}, "has '3' for a level"),
        ({"type": " "}, "'' for a type of 'What is"),
    ],
)
def test_upstream_has_changed(pulled, changed, message):
    with pytest.raises(DomainError, match=message):
        pulled(train=[row(1), row(2, **changed)]).problems("train")


def test_a_column_is_gone(pulled):
    with pytest.raises(DomainError, match=r"no column 'type' any more; it has .*'subject'"):
        pulled(test=[{"subject" if k == "type" else k: v for k, v in row(1).items()}])
