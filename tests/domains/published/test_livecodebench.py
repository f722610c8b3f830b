"""The domain livecodebench: our fixture with its solutions, releases and dates, and packed tests."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgym.checks import check_domain
from dgym.core import Attempt, Example, Problem
from dgym.data import pull
from dgym.domains import make_domain
from dgym.domains.published import livecodebench
from dgym.domains.published.livecodebench import DATA, LATER, LiveCodeBench, cases_of, releases_of, unpacked
from dgym.errors import DomainError, UsageError
from tests.domains.published.code_problems import CONTESTS, contests, files, packed

SPLITS = ("feedback", "selection", "test")
BY_CONTENT = {c.content: c for c in CONTESTS}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def every(domain):
    return [p for split in SPLITS for p in domain.problems(split)]


def contest_of(domain, problem):
    return BY_CONTENT[domain.bare(problem.prompt).partition("\n\n### Format:")[0]]


def titles(domain, *splits):
    return {contest_of(domain, p).title for split in splits for p in domain.problems(split)}


def own(*releases):
    return {c.title for c in CONTESTS if c.release in releases}


@pytest.mark.parametrize("options", ["", "release=release_v6", "since=2024-08-01,until=2025-02-15"])
def test_it_is_a_domain(options):
    name = "livecodebench:fixture" + (f",{options}" if options else "")
    domain = make_domain(name)
    assert domain.name == name
    assert [finding for finding in check_domain(domain) if not finding.ok] == []


def test_the_fixture_is_what_our_problems_give():
    """Packed tests are compared unpacked: other versions of zlib pack otherwise."""

    def plain(text):
        rows = [json.loads(line) for line in text.splitlines()]
        return [row | {"private_test_cases": unpacked(row["private_test_cases"])} for row in rows]

    for path, text in files().items():
        if path.parent.name != "humaneval":
            assert plain(path.read_text()) == plain(text)
    packings = {row["private_test_cases"][:1] == "[" for row in contests("v1")}
    assert packings == {True, False}


def test_skills_are_platforms_and_difficulties():
    domain = LiveCodeBench(fixture=True)
    names = {f"{a} {b}" for a in ("leetcode", "atcoder", "codeforces") for b in ("easy", "medium", "hard")}
    assert {p.skill for p in domain.problems("test")} == {p.skill for p in every(domain)} == names
    assert min(Counter(p.skill for p in every(domain)).values()) == 3
    assert all(p.slice == p.skill.split()[1] and p.reference == "" for p in every(domain))


def test_a_problem_is_asked_in_upstreams_words():
    domain = LiveCodeBench(fixture=True)
    asked = {contest_of(domain, p).title: p.prompt for p in every(domain)}
    assert asked["Same Ends"].startswith("### Question:\nYou are given a string S.")
    assert asked["Same Ends"].endswith(
        "Yes\n\n### Format: Read the inputs from stdin solve the problem and write the answer to stdout (do not "
        "directly test on the sample inputs). Enclose your code within delimiters as follows.\n"
        "```python\n# YOUR CODE HERE\n```\n\n### Answer: (use the provided format with backticks)\n\n"
    )
    assert asked["Even Sum"].endswith(
        "even.\n\n### Format: You will use the following starter code to write the solution to the problem and enclose "
        "your code within delimiters.\n```python\nclass Solution:\n    def evenSum(self, nums: List[int]) -> bool:\n"
        "        \n```\n\n### Answer: (use the provided format with backticks)\n\n"
    )
    for problem in every(domain):
        assert domain.frame(problem.prompt) == problem.prompt == domain.frame(domain.bare(problem.prompt))
        question = contest_of(domain, problem).content
        assert domain.fingerprints(question) == domain.fingerprints(problem.prompt)
        assert domain.frame(question) == problem.prompt or "class Solution" in problem.prompt


@pytest.mark.parametrize("form", ["{}", "```python\n{}\n```", "Let me think.\n\n```python\n{}\n```\nIt is fast."])
def test_solutions_are_right_and_others_wrong(form):
    domain = LiveCodeBench(fixture=True, release="release_v6")
    problems = every(domain)
    assert len(problems) == len(CONTESTS)
    solutions = [contest_of(domain, p).solution for p in problems]
    graded = domain.grade_all(problems, [form.format(solution) for solution in solutions])
    assert graded == [(1.0, {"compiles": 1.0, "tests": 1.0})] * len(problems)
    others = domain.grade_all(problems, [form.format(solution) for solution in solutions[1:] + solutions[:1]])
    assert [score for score, _ in others] == [0.0] * len(problems)
    assert all(measures["compiles"] == 1.0 and measures["tests"] < 1.0 for _, measures in others)


def test_what_the_harness_imports_is_there():
    domain = LiveCodeBench(fixture=True)
    problem = next(p for p in domain.problems("test") if contest_of(domain, p).title == "Same Ends")
    answer = (
        "def deep(n: int) -> int:\n    return n and deep(n - 1)\n"
        "s = deque(input())\nassert sqrt(4) == 2 and pow(2, 3, 5) == 3 and deep(5_000) == bisect.bisect([], 1) == 0\n"
        "x: List[int] = list(accumulate([1]))\nsys.stdout.write('Yes' if s[0] == s[-1] else 'No')"
    )
    assert domain.grade(problem, answer) == 1.0


def test_numbers_are_compared_as_numbers():
    domain = LiveCodeBench(fixture=True)
    problem = next(p for p in domain.problems("test") if contest_of(domain, p).title == "Average Speed")
    graded = [
        domain.grade_all([problem], [f"d, t = map(int, input().split())\nprint({value})"])[0]
        for value in ("f'{d / t}0'", "d / t + 1e-9", "' ', d / t, ' '", "round(d / t, 2)")
    ]
    assert [score for score, _ in graded] == [1.0, 0.0, 1.0, 0.0]
    assert graded[-1][1]["tests"] == pytest.approx(2 / 3)


def test_an_example_is_checked_as_far_as_it_can_be():
    domain = LiveCodeBench(fixture=True)
    for problem in domain.problems("feedback"):
        assert domain.check(Example(problem.prompt, contest_of(domain, problem).solution)) is True
        assert domain.check(Example(problem.prompt, "pass")) is False
    assert domain.check(Example("Print 5.", "```python\nprint(5)\n```")) is None
    assert domain.check(Example("Print 5.", "```python\nprint(5\n```")) is False
    assert domain.check(Example("Print 5.", "Five it is.")) is False
    code = "class Solution:\n    def add(self, x: int) -> int:\n        "
    begun = f"Add one.\n\n### Format: Use this.\n```python\n{code}\n```"
    assert domain.check(Example(begun, "        return x + 1")) is None
    assert domain.check(Example(domain.frame(begun), "return x + 1")) is None
    assert domain.check(Example(begun, "        return x +")) is False


def test_pass_at_k_is_reported():
    domain = LiveCodeBench(fixture=True)
    attempts = [Attempt(p, "", score) for p in domain.problems("test") for score in (1.0, 0.0, 0.0)]
    assert domain.summary(attempts) == pytest.approx({"pass@1": 1 / 3, "pass@2": 2 / 3})


def test_a_foreign_problem_is_an_error():
    with pytest.raises(DomainError, match="no problem 'x'"):
        LiveCodeBench(fixture=True).grade(Problem("x", "", "", ""), "")


# Releases and dates ---------------------------------------------------------------------------------------------------


def test_by_default_the_splits_are_those_of_the_paper():
    domain = LiveCodeBench(fixture=True)
    assert titles(domain, "test") == own("v1")
    assert titles(domain, "feedback", "selection") == own("v2")
    assert domain.contents == domain.source.digest
    assert [part.rows for part in DATA.parts] == [400, 400, 111, 111]
    assert sum(p.rows for data in (DATA, *LATER.values()) for p in data.parts if not p.name.endswith("-tests")) == 1055


@pytest.mark.parametrize(
    ("options", "test", "validation"),
    [
        ({"release": "v5"}, own("v5"), own("v2")),
        ({"release": "v4_v5"}, own("v4", "v5"), own("v2")),
        ({"release": "release_v2"}, own("v1"), own("v2")),
        ({"release": "release_v3"}, own("v1", "v3"), own("v2")),
        ({"release": "release_latest"}, own("v1", "v3", "v4", "v5", "v6"), own("v2")),
        ({"release": "v2"}, own("v2"), None),
        ({"since": "2024-08-11", "until": "2024-11-16"}, {"B. Odd Products", "Third Letter", "Climbing"}, own("v2")),
        ({"since": "2024-08-12", "until": "2024-11-15"}, {"Third Letter"}, own("v2")),
        ({"since": "2024-08-01", "release": "release_v5"}, own("v4", "v5"), own("v2")),
        ({"until": "2023-05-20"}, {"Same Ends", "Count Long Words"}, own("v2")),
        ({"since": "2024-05-12", "until": "2024-05-31"}, {"Longest Even Stretch", "E. Subset Below"}, None),
    ],
)
def test_options_choose_the_test(options, test, validation):
    domain = LiveCodeBench(fixture=True, **options)
    assert titles(domain, "test") == test
    left = titles(domain, "feedback", "selection")
    assert not left & test
    if validation is None:  # filled up from release_v1
        assert own("v2") - test <= left <= own("v1", "v2") - test
        assert len(left) == len(own("v2"))
    else:
        assert left == validation
    assert domain.name == "livecodebench:fixture," + ",".join(
        f"{key}={options[key]}" for key in ("release", "since", "until") if key in options
    )


def test_options_show_in_the_digest_of_the_contents():
    digests = [LiveCodeBench(fixture=True, release=r).contents for r in ("release_v2", "v5", "v6", "v5_v6", "v5")]
    assert len(set(digests)) == 4
    assert digests[1] == digests[4]


def test_wrong_options_are_said():
    with pytest.raises(UsageError, match="no LiveCodeBench release named 'v7'"):
        make_domain("livecodebench:fixture,release=v7")
    with pytest.raises(UsageError, match=r"since is '2024-13'; it takes a date such as"):
        make_domain("livecodebench:since=2024-13")
    with pytest.raises(UsageError, match="until is True"):
        make_domain("livecodebench:until")
    with pytest.raises(UsageError, match="no problems"):
        LiveCodeBench(fixture=True, since="2030-01-01").problems("test")
    with pytest.raises(UsageError, match="leaves none for validation"):
        LiveCodeBench(fixture=True, until="2024-12-31").problems("feedback")
    assert releases_of("v2_v4") == ("v2", "v3", "v4")
    assert releases_of("release_v1") == ("v1",)


# From upstream's files ------------------------------------------------------------------------------------------------


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """A folder with upstream's files, of our problems, and an empty cache."""
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))
    for path, text in files().items():
        (tmp_path / path.name).write_text(text)
    return tmp_path


def test_only_what_is_needed_has_to_be_fetched(upstream):
    with pytest.raises(UsageError, match="`dgym data pull livecodebench`"):
        LiveCodeBench().problems("test")
    assert [data.name for data in LiveCodeBench().needs()] == ["livecodebench"]
    pull(LATER["v6"], place=upstream, report=lambda _: None)
    alone = LiveCodeBench(release="v6")
    assert [data.name for data in alone.needs()] == ["livecodebench-v6", "livecodebench"]
    solutions = [contest_of(alone, p).solution for p in alone.problems("test")]
    assert [score for score, _ in alone.grade_all(alone.problems("test"), solutions)] == [1.0] * len(own("v6"))
    with pytest.raises(UsageError, match="`dgym data pull livecodebench`"):
        alone.problems("feedback")
    pull(DATA, place=upstream, report=lambda _: None)
    domain = LiveCodeBench()
    assert titles(domain, *SPLITS) == own("v1", "v2")
    problems = every(domain)
    solutions = [contest_of(domain, p).solution for p in problems]
    assert [score for score, _ in domain.grade_all(problems, solutions)] == [1.0] * len(problems)
    with pytest.raises(UsageError, match="`dgym data pull livecodebench-v4 livecodebench-v5`"):
        LiveCodeBench(release="v4_v5").problems("test")
    for name in ("v4", "v5"):
        pull(LATER[name], place=upstream, report=lambda _: None)
    assert titles(LiveCodeBench(release="v4_v5"), "test") == own("v4", "v5")


def test_hidden_tests_are_found_whatever_the_row_groups(upstream):
    """Files of gigabytes come in several."""
    stored = pull(DATA, place=upstream, report=lambda _: None)
    file = stored.folder / "v1-tests.parquet"
    pq.write_table(pq.read_table(file), file, row_group_size=5)
    assert pq.ParquetFile(file).num_row_groups == 4
    domain = LiveCodeBench()
    problems = domain.problems("test")
    solutions = [contest_of(domain, p).solution for p in problems]
    assert [score for score, _ in domain.grade_all(problems, solutions)] == [1.0] * len(problems)


def test_a_column_that_moved_is_said(upstream):
    rows = [json.loads(line) for line in (upstream / "test2.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k != "private_test_cases"} for row in rows]
    (upstream / "test2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DomainError, match=r"part 'v2-tests'.*no column 'private_test_cases' any more"):
        pull(DATA, place=upstream, report=lambda _: None)


class Bomb:
    """What a pickle may hold that runs code when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch /tmp/dgym-was-here",)


def pickled(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def test_packed_tests_are_texts_and_nothing_else(monkeypatch):
    tests = [{"input": "1", "output": "2", "testtype": "stdin"}]
    assert unpacked(json.dumps(tests)) == unpacked(packed(json.dumps(tests))) == tests
    assert unpacked(pickled(pickle.dumps(tests))) == tests
    ran = []
    bombs = [pickled(pickle.dumps(Bomb(), protocol)) for protocol in range(5)]
    monkeypatch.setattr(os, "system", lambda *a: ran.append(a))
    for protocol in range(5):
        with pytest.raises(ValueError, match="it names "):
            unpacked(bombs[protocol])
    assert not ran
    for text in (
        "",
        "x",
        "!!!",
        base64.b64encode(b"x").decode(),
        pickled(b""),
        pickled(b"]r\xff\xff\xff\xff"),
        pickled(b"c"),
    ):
        with pytest.raises(ValueError, match=r"."):
            unpacked(text)
    monkeypatch.setattr(livecodebench, "MAX_TESTS", 1_000)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        unpacked(packed(json.dumps(["x" * 2_000])))


@given(st.binary(max_size=60))
def test_any_bytes_are_tests_or_an_error(data):
    for text in (pickled(data), base64.b64encode(data).decode(), data.decode("latin-1")):
        try:
            unpacked(text)
        except ValueError:
            continue


@pytest.mark.parametrize(
    "changes",
    [
        {"public_test_cases": "[]", "private_test_cases": "[]"},
        {"public_test_cases": "["},
        {"public_test_cases": '[{"input": "1"}]'},
        {"public_test_cases": '[{"input": 1, "output": "2"}]'},
        {"public_test_cases": "5"},
        {"private_test_cases": "eJw="},
        {"private_test_cases": '[{"input": "[1", "output": "true"}]'},
        {"metadata": "[]"},
        {"metadata": "x"},
    ],
)
def test_tests_that_cannot_be_read_are_an_error_of_the_data(changes):
    row = next(r for r in contests("v1") if r["starter_code"]) | changes
    with pytest.raises(DomainError, match=row["question_id"]):
        cases_of(row, row["private_test_cases"])


def test_public_tests_come_first():
    row = contests("v1")[0]
    cases = cases_of(row, row["private_test_cases"])
    assert len(cases) == 3
    assert cases[0].given == json.loads(row["public_test_cases"])[0]["input"]
    assert replace(cases[0], given="") != cases[0]
