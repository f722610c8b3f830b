"""The domain gsm8k: our fixture, and rows as they lie on the hub."""

from __future__ import annotations

import json

import pytest

from dgym.checks import check_domain
from dgym.core import Example, Problem
from dgym.data import pull
from dgym.domains import make_domain
from dgym.domains.published.gsm8k import DATA, Gsm8k
from dgym.errors import DomainError

SPLITS = ("train", "feedback", "selection", "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def domain(cache):
    return Gsm8k(fixture=True)


def row(number, answer="", steps=1):
    lines = "\n".join(f"Step {n}: {number} + {n} = <<{number}+{n}={number + n}>>{number + n}." for n in range(steps))
    return {"question": f"Ana has {number} nuts. How many?", "answer": f"{lines}\n#### {answer or number}"}


@pytest.fixture
def pulled(tmp_path, monkeypatch):
    """Makes the domain from rows in a folder."""

    def make(train, test):
        monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
        for name, rows in (("train", train), ("test", test)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        pull(DATA, place=tmp_path, report=lambda _: None)
        return Gsm8k()

    return make


def test_all_that_a_domain_must_do(cache):
    made = make_domain("gsm8k:fixture")
    assert made.name == "gsm8k:fixture"
    assert [f for f in check_domain(made) if not f.ok] == []


def test_the_splits_of_the_fixture(domain):
    assert [len(domain.problems(split)) for split in SPLITS] == [40, 10, 10, 18]
    for split in SPLITS:
        assert {p.skill for p in domain.problems(split)} == {"1 or 2 steps", "3 or 4 steps", "5 or more steps"}
    assert [part.rows for part in DATA.parts] == [7_473, 1_319]


def test_the_fixture_has_negative_numbers_decimals_and_thousands(domain):
    ends = [row["answer"].rpartition("#### ")[2] for part in ("train", "test") for row in domain.rows(part)]
    assert any(end.startswith("-") for end in ends)
    assert any("." in end for end in ends)
    assert any("," in end for end in ends)


@pytest.mark.parametrize(
    ("end", "number"),
    [("72", "72"), ("1,200", "1200"), (" -5 ", "-5"), ("12.50", "12.50"), ("1,234,567", "1234567"), ("$18", "18")],
)
def test_the_published_answer(pulled, end, number):
    (problem,) = pulled([row(1), row(2), row(3)], [row(9, end, steps=4)]).problems("test")
    assert problem.reference.endswith(f"\nThe final answer is {number}.")
    assert "<<" not in problem.reference
    assert problem.reference.startswith("Step 0: 9 + 0 = 9.\n")
    assert problem.skill == "3 or 4 steps"


def test_numbers_are_compared_as_numbers(domain):
    def grade(number, response):
        return domain.grade(Problem("p", "", f"The final answer is {number}.", ""), response)

    for number, response in [
        ("1200", "She has 1,200."),
        ("1200", "The final answer is 1200"),
        ("1200", "#### 1,200"),
        ("1200", "The final answer is $1,200.00."),
        ("1200", r"\boxed{1{,}200}"),
        ("-5", "It is now -5 degrees."),
        ("-5", "The final answer is -5."),
        ("12.5", "It takes 12.50 hours."),
        ("0.5", "The final answer is 1/2."),
        ("42", "The final answer is 42 apples."),
    ]:
        assert grade(number, response) == 1.0, response
    for number, response in [
        ("1200", "The final answer is 1,2000."),
        ("1200", "The final answer is 120."),
        ("-5", "The final answer is 5."),
        ("5", "The final answer is -5."),
        ("12.5", "The final answer is 125."),
        ("42", "forty-two"),
        ("42", "First 42, then 7."),
        ("42", ""),
    ]:
        assert grade(number, response) == 0.0, response


def test_an_example_needs_a_number_for_an_answer(domain):
    known = domain.problems("train")[0]
    assert domain.check(Example(known.prompt, known.reference)) is True
    assert domain.check(Example(known.prompt, "The final answer is 123456.")) is False
    assert domain.check(Example("How many legs have 2 cats?", "2 * 4 = 8\nThe final answer is 8.")) is None
    assert domain.check(Example("How many legs have 2 cats?", "2 * 4 = 8")) is False
    assert domain.check(Example("How many legs have 2 cats?", "The final answer is eight.")) is False


def test_rows_from_a_folder(pulled):
    train = [row(n) for n in range(12)] + [row(3), row(101)]
    domain = pulled(train, [row(n) for n in range(100, 104)])
    ids = [p.id for split in SPLITS for p in domain.problems(split)]
    assert len(ids) == len({*ids}) == 12 + 4
    assert [len(domain.problems(split)) for split in SPLITS] == [8, 2, 2, 4]


def test_of_many_rows_a_thousand_validate(pulled):
    domain = pulled([row(n) for n in range(3_010)], [row(n) for n in range(9_000, 9_003)])
    assert [len(domain.problems(split)) for split in SPLITS] == [2_010, 500, 500, 3]


@pytest.mark.parametrize("answer", ["The answer is 5.", "Some steps\n####", "Some steps\n#### five"])
def test_upstream_has_changed(pulled, answer):
    with pytest.raises(DomainError, match="'#### 42' was expected"):
        pulled([row(1), row(2), row(3)], [row(9) | {"answer": answer}]).problems("test")


def test_a_column_is_gone(pulled):
    with pytest.raises(DomainError, match=r"no column 'question' any more"):
        pulled([row(1)], [{"problem": "How many?", "answer": "#### 3"}])
