"""The domain bfcl: its fixture, its prompts, what is known of examples, and rows from a folder as upstream has them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from dgym.checks import check_domain
from dgym.core import Example, Problem
from dgym.data import pull
from dgym.domains import make_domain
from dgym.domains.published.bfcl import COLLECTIONS, COUNTS, DATA, DEFAULT, Bfcl
from dgym.episode import overlap_index
from dgym.errors import DomainError, UsageError
from dgym.gate import Budget, Gate
from dgym.graders.foreign_calls import readable

EVALUATION = ("feedback", "selection", "test")
FIXTURES = Path(__file__).parents[3] / "dgym" / "data" / "fixtures" / "bfcl"
foreign = pytest.mark.skipif(
    not (readable("java") and readable("javascript")), reason="calls in Java and JavaScript are read with tree-sitter"
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def domain() -> Bfcl:
    return Bfcl(fixture=True)


def every(domain):
    return [problem for split in EVALUATION for problem in domain.problems(split)]


# Problems ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", ",categories=live_simple+parallel", ",categories=live_relevance"])
def test_it_is_a_domain(options):
    domain = make_domain(f"bfcl:fixture{options}")
    assert domain.name == f"bfcl:fixture{options}"
    assert [finding for finding in check_domain(domain) if not finding.ok] == []


def test_where_nothing_is_to_be_called_an_empty_answer_is_right():
    # As on the leaderboard; no other finding of the public checks fails.
    failed = [f for f in check_domain(make_domain("bfcl:fixture,categories=python")) if not f.ok]
    assert [finding.name for finding in failed] == ["an empty response is no right answer"]


@foreign
def test_all_categories_have_problems_with_right_references():
    domain = Bfcl(fixture=True, categories="single_turn")
    problems = every(domain)
    assert set(Counter(p.skill for p in problems)) == set(COUNTS)
    assert {p.skill for p in domain.problems("test")} == {p.skill for p in domain.problems("feedback")} == set(COUNTS)
    assert {(p.slice, p.skill.startswith("live")) for p in problems} == {("live", True), ("non-live", False)}
    assert all(domain.grade(p, p.reference) == 1 for p in problems)
    assert len({p.id for p in problems}) == len(problems) == 52


def test_collections_and_categories_are_named():
    assert sum(COUNTS.values()) == 3_641
    assert sum(COUNTS[name] for name in DEFAULT) == 2_351
    assert Bfcl(fixture=True, categories="live").categories == COLLECTIONS["live"]
    assert Bfcl(fixture=True, categories="parallel+simple_python").categories == ("simple_python", "parallel")
    with pytest.raises(UsageError, match="Did you mean 'parallel'"):
        make_domain("bfcl:fixture,categories=paralel")


def test_a_language_that_cannot_be_read_is_said(monkeypatch):
    monkeypatch.setattr("dgym.domains.published.bfcl.readable", lambda language: language != "java")
    with pytest.raises(UsageError, match="tree-sitter-java"):
        Bfcl(fixture=True, categories="non_python")
    Bfcl(fixture=True, categories="simple_javascript")


def test_a_prompt_has_functions_and_request(domain):
    problem = next(p for p in every(domain) if "glass bin" in p.prompt)
    head, _, rest = problem.prompt.partition("that you can invoke.\n")
    assert head.startswith("You are an expert in composing functions.")
    functions, end = json.JSONDecoder().raw_decode(rest)
    assert [f["name"] for f in functions] == ["bin_collection"]
    assert functions[0]["description"].endswith(" Note that the provided function is in Python 3 syntax.")
    assert rest[end:] == (
        "\n\n\nYou are the assistant of a town. Answer with calls only.\n\nwhen is the glass bin picked up in QX4 7TB?"
    )
    assert domain.frame(rest) == domain.frame(problem.prompt) == problem.prompt


def test_turns_of_an_assistant_are_marked():
    problem = next(p for p in every(Bfcl(fixture=True, categories="live_irrelevance")) if "riddle" in p.prompt)
    assert problem.prompt.endswith(
        "user: hello, are you there?\n\nassistant: I am. What can I do?\n\nuser: tell me a riddle about snow"
    )


@foreign
def test_types_of_other_languages_are_described():
    problems = every(Bfcl(fixture=True, categories="non_python"))
    shown = "\n".join(p.prompt for p in problems)
    assert "This is Java Array type parameter in string representation." in shown
    assert "This parameter can be of any type of JavaScript object in string representation." in shown
    assert '"modal": ' not in shown  # the schema of a dictionary stands within its description
    assert '\\"modal\\": ' in shown


def test_the_split_does_not_depend_on_the_categories(domain):
    alone = Bfcl(fixture=True, categories="parallel")
    assert {p.id for p in alone.problems("test")} == {p.id for p in domain.problems("test") if p.skill == "parallel"}
    assert {p.id for p in every(alone)} == {p.id for p in every(domain) if p.skill == "parallel"}


# Examples ----------------------------------------------------------------------------------------------------------

SHELF = {
    "name": "shelf.add",
    "description": "Puts a jar on a shelf.",
    "parameters": {
        "type": "dict",
        "properties": {
            "jar": {"type": "string", "description": "What."},
            "row": {"type": "integer", "description": "Where."},
        },
        "required": ["jar"],
    },
}
ASKED = f"{json.dumps([SHELF])}\n\nPlease put the plum jam on row 3."


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("[shelf.add(jar='plum jam', row=3)]", None),
        ("[shelf.add(jar='plum jam')]", None),
        ("shelf.add(jar='plum jam'), shelf.add(jar='pickles')", None),
        ("[shelf.add(row=3)]", False),
        ("[shelf.add(jar='plum jam', colour='red')]", False),
        ("[shelf.remove(jar='plum jam')]", False),
        ("[shelf.add(jar='plum jam'), shelf.remove(jar='pickles')]", False),
        ("I put it there.", False),
        ("", False),
        ("[]", False),
    ],
)
def test_an_example_must_call_what_its_prompt_describes(domain, response, verdict):
    for prompt in (ASKED, domain.frame(ASKED)):
        assert domain.check(Example(prompt, response)) is verdict


def test_without_functions_no_call_is_right(domain):
    assert domain.check(Example("Put the jam away.", "[shelf.add(jar='jam')]")) is False
    assert domain.check(Example("[1, 2] Put the jam away [].", "[shelf.add(jar='jam')]")) is False


def test_where_nothing_may_be_due_an_answer_without_calls_may_be_right():
    domain = Bfcl(fixture=True, categories="simple_python+irrelevance")
    assert domain.check(Example(ASKED, "No function fits.")) is None
    assert domain.check(Example(ASKED, "[jump()]")) is False


def test_known_problems_are_graded_as_examples(domain):
    problem = domain.problems("feedback")[0]
    for prompt in (problem.prompt, domain.bare(problem.prompt)):
        assert domain.check(Example(prompt, problem.reference)) is True
        assert domain.check(Example(prompt, problem.reference.replace("25", "24"))) is False


def test_other_problems_are_compared_with_their_reference(domain):
    problem = Problem("other", domain.frame(ASKED), "[shelf.add(jar='plum jam', row=3)]", "simple_python")
    assert domain.grade(problem, "shelf.add(row=3, jar='plum jam')") == 1
    assert domain.grade(problem, "shelf.add(row=4, jar='plum jam')") == 0


def test_a_copy_is_known_by_its_contents(domain):
    problem = domain.problems("test")[0]
    index = overlap_index(domain)
    functions, end = json.JSONDecoder().raw_decode(domain.bare(problem.prompt))
    request = domain.bare(problem.prompt)[end:].strip()
    call = problem.reference
    copies = [
        problem.prompt,
        f"{json.dumps(functions)}\n{request.upper()}",
        f"{json.dumps([dict(reversed(f.items())) for f in functions])} {request}",
        f"{json.dumps([SHELF, *functions])}\n\n{request}",
    ]
    for copy in copies:
        assert Gate(domain, index, Budget(20), verify=True).submit([Example(copy, call)])[0].reason == "overlap-test"
    other = Example(ASKED, "[shelf.add(jar='plum jam', row=3)]")
    assert Gate(domain, index, Budget(20), verify=True).submit([other])[0].reason == ""


def test_another_request_of_the_functions_of_a_problem_is_another_problem(domain):
    gate = Gate(domain, overlap_index(domain), Budget(20), verify=False)
    problem = domain.problems("test")[0]
    functions, _ = json.JSONDecoder().raw_decode(domain.bare(problem.prompt))
    request = "Whatever you do, begin with what my aunt told you on the phone last night, will you?"
    asked = f"{json.dumps(functions)}\n\n{request}"
    assert gate.submit([Example(asked, problem.reference)])[0].reason == ""


@pytest.mark.parametrize(
    "text", ["", "[", "[" * 10_000, '[{"' * 3_000, '[{"name": 3}]', "[]", '[{"name": "f"}]', "\x00", "[[1]]"]
)
def test_any_text_may_be_an_example(domain, text):
    for prompt in (text, domain.frame(text), f"{text} and more"):
        assert domain.fingerprints(prompt)
        assert domain.check(Example(prompt, text)) is False
        assert domain.check(Example(prompt, "[f(a=1)]")) is False


# Rows --------------------------------------------------------------------------------------------------------------


def unpacked(folder, **changes):
    """Writes the fixture's rows as the package has them; changes replace all rows of a part."""
    for part in DATA.parts:
        file = folder / part.files[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [json.loads(line) for line in (FIXTURES / f"{part.name}.jsonl").read_text().splitlines()]
        file.write_text("\n".join(json.dumps(row) for row in changes.get(part.name, rows)))
    return folder


def question(name, text, functions=(SHELF,)):
    return {"id": name, "question": [[{"role": "user", "content": text}]], "function": list(functions)}


@pytest.fixture
def pulled(tmp_path, monkeypatch):
    """Pulls a folder and returns the domain over it."""

    def go(categories="", **changes):
        monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
        pull(DATA, place=unpacked(tmp_path / "wheel", **changes), report=lambda _: None)
        return Bfcl(categories=categories)

    return go


def test_rows_come_from_an_unpacked_package(pulled, domain):
    assert {p.id for p in every(pulled())} == {p.id for p in every(domain)}
    assert pulled().name == "bfcl"


def test_a_quarter_of_the_requests_is_the_validation(pulled):
    rows = [question(f"simple_python_{i}", f"Put jar number {i} on the shelf.") for i in range(40)]
    answers = [
        {"id": r["id"], "ground_truth": [{"shelf.add": {"jar": [f"jar {i}"], "row": [""]}}]} for i, r in enumerate(rows)
    ]
    domain = pulled("simple_python", simple_python=rows, simple_python_answers=answers)
    assert [len(domain.problems(split)) for split in EVALUATION] == [5, 5, 30]


def test_a_shared_request_is_on_one_side_everywhere(pulled):
    rows = [question(f"simple_python_{i}", f"Put jar number {i} on the shelf.") for i in range(60)]
    # By itself, the second category would choose two of its nine requests, whatever the first one chose.
    twins = [
        question(f"multiple_{i}", rows[i]["question"][0][0]["content"], [SHELF, {**SHELF, "name": "other"}])
        for i in range(9)
    ]
    answers = [{"id": r["id"], "ground_truth": [{"shelf.add": {"jar": ["jar"], "row": [""]}}]} for r in rows]
    answered = [{"id": r["id"], "ground_truth": answers[0]["ground_truth"]} for r in twins]
    domain = pulled(simple_python=rows, simple_python_answers=answers, multiple=twins, multiple_answers=answered)

    def requests(skill, *splits):
        return {p.prompt.rpartition("\n")[2] for s in splits for p in domain.problems(s) if p.skill == skill}

    assert requests("multiple", *EVALUATION) <= requests("simple_python", *EVALUATION)
    assert not requests("multiple", "test") & requests("simple_python", "feedback", "selection")
    assert not requests("simple_python", "test") & requests("multiple", "feedback", "selection")


def test_rows_that_no_answer_meets_and_rows_that_come_twice_are_left_out(pulled):
    rows = [question(f"simple_python_{i}", f"Put jar {i} on it.") for i in (0, 1, 2, 3, 4, 4)]
    for i, row in enumerate(rows):
        row["id"] = f"simple_python_{i}"
    answers = [{"id": r["id"], "ground_truth": [{"shelf.add": {"jar": ["jar"], "row": [""]}}]} for r in rows]
    answers[2]["ground_truth"] = [{"shelf.add": {"jar": ["jar"], "colour": ["red"]}}]
    domain = pulled("simple_python", simple_python=rows, simple_python_answers=answers)
    assert len(every(domain)) == 4
    assert not any("jar 2" in p.prompt for p in every(domain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parallel": [{"id": "parallel_0", "question": []}]}, "no column 'function'"),
        ({"parallel_answers": [{"id": 3, "ground_truth": []}]}, "where text was expected"),
    ],
)
def test_moved_columns_are_said(pulled, change, message):
    with pytest.raises(DomainError, match=message):
        pulled(**change)
