"""The domain math against reasoning-gym itself, problem by problem."""

import itertools
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import pytest
import reasoning_gym

from dgym.core import Budget, Example, Problem, derive_seed
from dgym.domains import math as module
from dgym.domains.math import KINDS, OFF_DOMAIN, MathDomain, parse
from dgym.domains.procedural import split_of
from dgym.episode import overlap_index
from dgym.errors import DomainError, UsageError
from dgym.gate import MAX_CHARACTERS, Gate

MATH = MathDomain()
SPLITS = ("feedback", "selection", "test")
INDEX = lru_cache(overlap_index)


@lru_cache
def library(skill, count=150):
    """The library's own data set of a skill, and its first entries."""
    data = reasoning_gym.create_dataset(skill, seed=77, size=100_000, **KINDS[skill].config)
    return data, [data[i] for i in range(count)]


def answer_to(prompt):
    found = parse(prompt)
    return None if found is None else found[1].answer


def grade(prompt, response):
    return MATH.grade(Problem("p", prompt, "", ""), response)


def test_there_are_at_least_ten_kinds():
    assert len(KINDS) >= 10
    assert not set(KINDS) & set(OFF_DOMAIN)


@pytest.mark.parametrize("skill", KINDS)
def test_parsing_agrees_with_the_library(skill):
    data, entries = library(skill)
    for entry in entries:
        found = parse(entry["question"].strip())
        assert found is not None, entry["question"]
        assert found[0] == skill
        assert found[1].answer == str(entry["answer"]).strip()
        assert data.score_answer(found[1].answer, entry) == 1.0


@pytest.mark.parametrize("skill", KINDS)
def test_grading_agrees_with_the_library_on_right_and_wrong_answers(skill):
    data, entries = library(skill)
    answers = [str(e["answer"]) for e in entries]
    for shift in (0, 1, 2, 3):
        for entry, answer in zip(entries, answers[shift:] + answers[:shift], strict=True):
            expected = data.score_answer(answer, entry) == 1.0
            assert MATH.check(Example(entry["question"], answer)) is expected
            assert grade(entry["question"], f" {answer}\n") == float(expected)


@pytest.mark.parametrize("skill", KINDS)
def test_there_are_more_than_5000_problems(skill):
    data = reasoning_gym.create_dataset(skill, seed=3, size=100_000, **KINDS[skill].config)
    seen = set()
    for index in range(20_000):
        seen.add(MATH.fingerprints(data[index]["question"].strip()))
        if len(seen) > 5_000:
            return
    pytest.fail(f"{len(seen)} in {index + 1}")


@pytest.mark.parametrize("split", SPLITS)
def test_splits_have_their_size_and_their_own_problems(split):
    problems = MATH.problems(split)
    assert Counter(p.skill for p in problems) == dict.fromkeys(KINDS, MathDomain.problems_per_skill[split])
    assert {split_of(MATH.fingerprints(p.prompt)[0]) for p in problems} == {split}
    # Neither place nor neighbours tell a skill.
    changes = sum(a.skill != b.skill for a, b in itertools.pairwise(problems))
    assert changes > 0.8 * len(problems)


def test_splits_are_as_large_as_the_issue_asks():
    assert MathDomain.problems_per_skill == {"feedback": 50, "selection": 50, "test": 100}
    assert MATH.problems("train") == ()


def test_fingerprints_are_shared_out_by_hash():
    shares = Counter(split_of(f"chain_sum|{i}") for i in range(10_000))
    assert shares["train"] == pytest.approx(7_000, abs=200)
    assert all(shares[s] == pytest.approx(1_000, abs=120) for s in SPLITS)


def test_ten_thousand_fresh_honest_examples_lose_less_than_one_percent():
    each = -(-10_000 // len(KINDS))
    fresh = [e for skill in KINDS for e in MATH.fresh(skill, each, 123)]
    assert len(fresh) >= 10_000
    verdicts = Gate(MATH, INDEX(MATH), Budget(len(fresh)), verify=True).submit(fresh)
    reasons = Counter(v.reason for v in verdicts)
    assert len(fresh) - reasons[""] < 0.01 * len(fresh), reasons


def test_off_domain_examples_pass_the_gate():
    fresh = [e for skill in OFF_DOMAIN for e in MATH.fresh(skill, 100, 5)]
    verdicts = Gate(MATH, INDEX(MATH), Budget(len(fresh)), verify=True).submit(fresh)
    assert Counter(v.reason for v in verdicts)[""] > 0.99 * len(fresh)


def test_fresh_knows_its_limits(monkeypatch):
    with pytest.raises(UsageError, match="Did you mean 'gcd'"):
        MATH.fresh("gdc", 1, 1)
    few = {**KINDS["gcd"].config, "min_value": 2, "max_value": 5}
    monkeypatch.setitem(KINDS, "gcd", replace(KINDS["gcd"], config=few))
    with pytest.raises(DomainError, match="has no 20 distinct problems"):
        MATH.fresh("gcd", 20, 1)


def near_misses(skill, prompt, answer):
    if skill == "number_filtering":
        items = eval(answer)
        yield str([*items, "100"])
        yield str(items[1:]) if items else "['1']"
        if len(items) > 1 and items != items[::-1]:
            yield str(items[::-1])
    elif skill == "time_intervals":
        hours, minutes = map(int, answer.split(":"))
        yield f"{hours + 1:02d}:{minutes:02d}"
        yield f"{hours:02d}:{(minutes + 1) % 60:02d}"
    elif skill == "fraction_simplification":
        top, bottom = answer.split("/")
        yield f"{bottom}/{top}"
        yield f"{int(top) + 1}/{bottom}"
        yield f"{2 * int(top)}/{2 * int(bottom)}"
    elif skill == "decimal_chain_sum":
        yield f"{float(answer) + 0.1:.1f}"
        yield f"{float(answer) + 10:.1f}"
    else:
        yield str(int(answer) + 1)
        yield str(int(answer) - 10)
        yield answer + "0" if answer != "0" else "100"
        if answer != "0":
            yield str(-int(answer))
    yield f"{answer} or so"
    yield f"I do not know, {answer} perhaps"


@pytest.mark.parametrize("skill", KINDS)
def test_near_misses_are_wrong(skill):
    for entry in library(skill)[1][:40]:
        answer = str(entry["answer"])
        for miss in near_misses(skill, entry["question"], answer):
            assert grade(entry["question"], miss) == 0.0, (entry["question"], answer, miss)


def test_an_exception_in_the_scorer_is_a_wrong_answer(monkeypatch):
    class Raising:
        def score_answer(self, answer, entry):
            raise RecursionError

    monkeypatch.setattr(module, "_scorer", lambda skill: Raising())
    problem = MATH.problems("feedback")[0]
    assert MATH.grade(problem, problem.reference) == 0.0
    assert MATH.check(Example(problem.prompt, problem.reference)) is False


def test_an_unknown_problem_is_the_domains_error():
    with pytest.raises(DomainError, match="of no known kind"):
        grade("What is love?", "42")
    assert MATH.check(Example("What is love?", "42")) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("arithmetic problem: 42 + 25 =", "arithmetic problem: 25 + 42 =", True),
        ("arithmetic problem: 42 - 25 =", "arithmetic problem: 25 - 42 =", False),
        ("arithmetic problem: 4.8 + 1.7 =", "arithmetic problem: 1.7 + 4.8 =", True),
        ("Solve for e: e + 33 = 117", "Find the value of h in the equation: 33 + h = 117", True),
        ("Solve for e: e - 33 = 117", "Solve for e: 33 - e = 117", False),
        (
            "Greatest Common Divisor (GCD) of these numbers: 12, 8.",
            "Greatest Common Divisor (GCD) of these numbers: 8, 12.",
            True,
        ),
        (
            "legs are there in total if you have 3 chickens, 5 beetles?",
            "legs are there in total if you have 5 beetles, 3 chickens?",
            True,
        ),
        (
            "A convex polygon has 3 sides. The interior angles are: 75.0°, 40.0°.",
            "Consider a convex 3-gon whose angles are: 40°, 75°.",
            True,
        ),
    ],
)
def test_a_fingerprint_is_the_problem_without_its_template(one, other, same):
    assert (MATH.fingerprints(one) == MATH.fingerprints(other)) is same
    assert not MATH.fingerprints(one)[0].startswith("text|")


@pytest.mark.parametrize(
    ("skill", "tell"),
    [
        (
            "chain_sum",
            lambda p: p.rpartition(":")[2].strip(" =").replace("-", "minus").replace("+", "plus") + ", please",
        ),
        ("gcd", lambda p: "Which number divides both " + " and ".join(p.partition(": ")[2].split(".")[0].split(", "))),
    ],
)
def test_a_hidden_problem_told_in_other_words_is_found(skill, tell):
    hidden = [p for p in MATH.problems("test") if p.skill == skill][:20]
    told = [Example(tell(p.prompt), p.reference) for p in hidden]
    verdicts = Gate(MATH, INDEX(MATH), Budget(100), verify=True).submit(told)
    assert {v.reason for v in verdicts} <= {"overlap-test", "overlap-feedback", "overlap-selection"}


def test_wrong_answers_stay_plausible():
    for skill in KINDS:
        example = MATH.fresh(skill, 1, 9)[0]
        wrong = MATH.wrong_answer(example, 1)
        assert wrong == MATH.wrong_answer(example, 1)
        assert MATH.check(wrong) is False


NEARLY = (
    "12:34 HH:MM.",
    "Solve for x: 1",
    "a convex 3-gon ",
    "legs are there in total if you have 3 ",
    "these numbers: 1, 2",
    "Keep all numbers larger than 3 in this list: [",
    "1.",
)


@pytest.mark.parametrize("part", NEARLY)
def test_a_long_text_that_nearly_matches_has_a_fingerprint(part):
    assert MATH.fingerprints((part * MAX_CHARACTERS)[:MAX_CHARACTERS])


def test_no_pattern_takes_cubic_time():
    # Milliseconds, or half a day where a pattern has two open wildcards: no limit in between is a close one.
    code = "from dgym.domains.math import parse; assert parse('12:34 ' * 40_000) is None"
    subprocess.run([sys.executable, "-c", code], timeout=100, check=True)


@pytest.mark.parametrize(
    "prompt",
    [
        f"prime numbers there are between {10**30} and {10**30 + 5} (inclusive)",
        "prime numbers there are between 1 and 90000000 (inclusive)",
        "fraction 3/0 to its lowest terms",
        "A shift from 99:99 to 12:00. HH:MM.",
        f"arithmetic problem: {'9' * 10_000} + 1 =",
        f"fraction {'9' * 10_000}/3 to its lowest terms",
        "legs are there in total if you have 3 unicorns?",
        "Keep all numbers larger than 1.2.3 in this list: ['1']",
    ],
)
def test_impossible_problems_are_read_as_mere_text_or_answered(prompt):
    assert MATH.fingerprints(prompt)
    assert MATH.check(Example(prompt, "1")) in (None, False)


def test_fresh_seeds_are_independent_of_the_data_sets_own():
    one, other = MATH.fresh("gcd", 50, derive_seed("a")), MATH.fresh("gcd", 50, derive_seed("b"))
    assert len({e.prompt for e in one} & {e.prompt for e in other}) < 10
