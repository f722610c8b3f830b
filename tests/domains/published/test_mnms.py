"""The domain mnms: its fixture, its prompts, what is known of examples, and rows from a folder as upstream has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgym.checks import check_domain
from dgym.core import Attempt, Example, Measures, Problem, Summarises
from dgym.data import pull
from dgym.domains import make_domain
from dgym.domains.published.mnms import DATA, Mnms
from dgym.domains.published.mnms_tools import TOOLS
from dgym.errors import DomainError, UsageError
from dgym.graders.plans import read_plan, show_code, show_json

EVALUATION = ("feedback", "selection", "test")
FIXTURES = Path(__file__).parents[3] / "dgym" / "data" / "fixtures" / "mnms"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def domain() -> Mnms:
    return Mnms(fixture=True)


def every(domain):
    return [problem for split in EVALUATION for problem in domain.problems(split)]


# Problems ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", ",format=json", ",alt_plans", ",format=json,alt_plans"])
def test_it_is_a_domain(options):
    domain = make_domain(f"mnms:fixture{options}")
    assert domain.name == f"mnms:fixture{options}"
    assert [finding for finding in check_domain(domain) if not finding.ok] == []
    assert isinstance(domain, Measures)
    assert isinstance(domain, Summarises)


def test_an_unknown_format_is_said():
    with pytest.raises(UsageError, match="Known: code, json"):
        make_domain("mnms:fixture,format=yaml")


def test_a_skill_is_the_tuple_of_tools_and_a_slice_their_number(domain):
    problems = every(domain)
    assert len(problems) == 42
    assert {p.slice for p in problems} == {"1 tool", "2 tools", "3 tools"}
    for problem in problems:
        tools = problem.skill.split("+")
        assert [tool for tool, _ in read_plan(problem.reference)] == tools
        assert set(tools) <= set(TOOLS)
        assert problem.slice[0] == str(len(tools))
    assert {p.skill for p in domain.problems("feedback")} == {p.skill for p in domain.problems("selection")}
    assert domain.problems("train") == ()


def test_the_two_formats_ask_for_the_same_plans():
    code, other = every(Mnms(fixture=True)), every(Mnms(fixture=True, format="json"))
    assert [p.id for p in code] == [p.id for p in other]
    for one, two in zip(code, other, strict=True):
        assert one.reference.startswith("```python\ndef solve():\n")
        assert json.loads(two.reference)["nodes"][0]["id"] == 0
        assert read_plan(one.reference) == read_plan(two.reference)
    assert "```python" in code[0].prompt
    assert '{"nodes": ' in other[0].prompt


@pytest.mark.parametrize("format_", ["code", "json"])
def test_a_prompt_has_all_tools_and_a_teacher_writes_requests(format_):
    domain = Mnms(fixture=True, format=format_)
    problem = domain.problems("feedback")[0]
    for tool in TOOLS.values():
        assert f"\n{tool.signature}: {tool.description}\n" in problem.prompt
    request = domain.bare(problem.prompt)
    assert len(request) < 120
    assert domain.frame(request) == domain.frame(problem.prompt) == problem.prompt
    assert domain.bare(domain.frame("Make a picture of a lamp.")) == "Make a picture of a lamp."
    assert [tool["name"] for tool in domain.tools] == list(TOOLS)


# Grades and scores -------------------------------------------------------------------------------------------------


def graded(domain, *nodes):
    problem = next(p for p in domain.problems("test") if "71220.jpg" in p.prompt)
    plan = [(name, dict(arguments)) for name, arguments in nodes]
    return problem, show_code(plan)


def test_the_tools_in_order_are_the_grade(domain):
    problem, right = graded(domain, ("image_captioning", {"image": "another.jpg"}))
    assert domain.grade(problem, right) == 1
    assert domain.measures(problem, right)["tool_f1"] == 1
    assert domain.measures(problem, right)["argument_name_f1"] == 1
    assert domain.measures(problem, right)["argument_value_f1"] == 0
    for wrong in (
        "",
        "image captioning",
        show_code([("count", {})]),
        right.replace("    result", "    x = tag()\n    result"),
    ):
        assert domain.grade(problem, wrong) == 0


def test_both_notations_are_read_whatever_was_asked_for():
    for format_ in ("code", "json"):
        domain = Mnms(fixture=True, format=format_)
        for problem in every(domain):
            plan = read_plan(problem.reference)
            assert domain.grade(problem, show_json(plan)) == domain.grade(problem, show_code(plan)) == 1
            assert set(domain.measures(problem, show_json(plan)).values()) == {1}


def test_alternatives_count_if_they_are_asked_for(domain):
    problem, other = graded(
        domain, ("visual_question_answering", {"image": "71220.jpg", "question": "What is in the photograph?"})
    )
    assert domain.grade(problem, other) == 0
    with_others = Mnms(fixture=True, alt_plans=True)
    assert with_others.grade(problem, other) == 1
    assert with_others.measures(problem, other)["argument_value_f1"] == 1
    assert with_others.grade(problem, problem.reference) == 1
    assert with_others.grade(problem, "no plan") == 0
    assert with_others.summary([Attempt(problem, other, 1.0)])["plan_argvalue_accuracy"] == 1
    assert domain.summary([Attempt(problem, other, 0.0)])["plan_argvalue_accuracy"] == 0


def test_a_split_is_summed_up_as_mnms_does(domain):
    problems = domain.problems("test")
    attempts = [Attempt(p, p.reference if i % 2 else "?", float(i % 2)) for i, p in enumerate(problems)]
    summary = domain.summary(attempts)
    assert summary["plan_tool_accuracy"] == sum(a.score for a in attempts) / len(attempts) == 0.5
    assert summary["argname_precision"] == summary["edge_precision"] == 1
    assert 0.3 < summary["argname_recall"] < 0.7
    assert summary["tool_normalized_edit_distance"] == 0.5
    assert domain.summary([]) == {}


def test_a_problem_from_elsewhere_is_graded_by_its_reference(domain):
    problem = Problem(
        "other", domain.frame("Count what you detect on 'q.jpg'."), "x = object_detection()\ny = count()", ""
    )
    assert domain.grade(problem, "a = object_detection(image='q.jpg')\nb = count(objects=a['objects'])") == 1
    with pytest.raises(DomainError, match="no plan"):
        domain.grade(Problem("other", "", "no plan", ""), "x = count()")


# Examples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ('output0 = image_captioning(image="q.jpg")', None),
        ('[{"id": 0, "name": "image captioning", "args": {"image": "q.jpg"}}]', None),
        ("It shows a lamp.", False),
        ('output0 = image_poetry(image="q.jpg")', False),
        ('output0 = image_captioning(image="q.jpg", length="short")', False),
        ("output0 = image_captioning()", False),
        ('output0 = image_captioning(image="q.jpg")\noutput1 = count(objects=output0["objects"])', False),
        ('[{"id": 0, "name": "count", "args": {"objects": "<node-1>.objects"}}]', False),
    ],
)
def test_an_example_must_be_a_plan_that_could_be_carried_out(domain, response, verdict):
    for prompt in ("What is on 'q.jpg'?", domain.frame("What is on 'q.jpg'?")):
        assert domain.check(Example(prompt, response)) is verdict


def test_known_requests_are_graded_as_examples(domain):
    problem = domain.problems("feedback")[0]
    for prompt in (problem.prompt, domain.bare(problem.prompt)):
        assert domain.check(Example(prompt, problem.reference)) is True
        assert domain.check(Example(prompt, 'output0 = text_generation(text="x")')) is False


# Rows --------------------------------------------------------------------------------------------------------------


def rows_of(part):
    return [json.loads(line) for line in (FIXTURES / f"{part}.jsonl").read_text().splitlines()]


@pytest.fixture
def pulled(tmp_path, monkeypatch):
    """Pulls a folder with changed rows, as upstream names its files, and returns the domain over it."""

    def go(change=lambda part, rows: rows):
        monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
        for part in DATA.parts:
            rows = change(part.name, rows_of(part.name))
            (tmp_path / part.files[0]).write_text("\n".join(json.dumps(row) for row in rows))
        pull(DATA, place=tmp_path, report=lambda _: None)
        return Mnms()

    return go


def test_validation_is_what_the_test_has_not(pulled, domain):
    ours = pulled()
    assert ours.name == "mnms"
    for split in EVALUATION:
        assert [p.id for p in ours.problems(split)] == [p.id for p in domain.problems(split)]
    tested = {row["user_request"] for row in rows_of("test_human_verified_filtered")}
    validation = {ours.bare(p.prompt) for split in ("feedback", "selection") for p in ours.problems(split)}
    assert len(validation) == 24
    assert not validation & tested


def test_a_request_of_the_test_is_in_no_other_split_and_in_none_twice(pulled):
    def change(part, rows):
        if part == "test_human_verified":
            again = {**rows[3], "id": 9_001, "user_request": rows[3]["user_request"].upper() + " "}
            return [*rows, again, {**rows[0], "id": 9_002}]
        return rows

    domain = pulled(change)
    assert len(every(domain)) == 42
    assert [finding for finding in check_domain(domain) if not finding.ok] == []


def test_the_order_of_rows_makes_no_difference(pulled, domain):
    assert {p.id for p in pulled(lambda part, rows: rows[::-1]).problems("feedback")} == {
        p.id for p in domain.problems("feedback")
    }


def test_plans_may_be_python_literals_and_alternatives_missing(pulled):
    def change(part, rows):
        for row in rows:
            row["plan_str"] = repr(json.loads(row["plan_str"]))
            row["alt_plans_str"] = row["alt_plans_str"] and repr(json.loads(row["alt_plans_str"]))
            if row["id"] % 2:
                del row["alt_plans_str"]
        return rows

    domain = pulled(change)
    other = Mnms(alt_plans=True)
    assert [finding for finding in check_domain(other) if not finding.ok] == []
    assert len(every(domain)) == 42


def test_what_cannot_be_written_as_a_program_stands_as_json(pulled):
    def change(part, rows):
        rows[0]["plan_str"] = '[{"id": 0, "name": "image captioning", "args": {"the image": "1.jpg"}}]'
        return rows

    domain = pulled(change)
    odd = [p for p in every(domain) if not p.reference.startswith("```")]
    assert odd
    assert all(domain.grade(p, p.reference) == 1 for p in odd)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part, rows: [{"plan": row.pop("plan_str"), **row} for row in rows], "no column 'plan_str'"),
        (lambda part, rows: [{**row, "user_request": None} for row in rows], "where text was expected"),
    ],
)
def test_moved_columns_are_said(pulled, change, message):
    with pytest.raises(DomainError, match=message):
        pulled(change)


def test_a_plan_in_another_notation_is_said(pulled):
    domain = pulled(lambda part, rows: [{**row, "plan_str": "image captioning, then count"} for row in rows])
    with pytest.raises(DomainError, match="is no list of calls"):
        domain.problems("test")
