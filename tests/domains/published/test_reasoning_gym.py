"""The domain reasoning-gym: our fixture, how the data set is computed, what is drawn afresh, and the whole of it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dgym.data
from dgym.checks import GARBAGE, check_domain
from dgym.core import Budget, Example, Problem
from dgym.data import pull, stored
from dgym.domains import make_domain
from dgym.domains.procedural import percentile
from dgym.domains.published import reasoning_gym as module
from dgym.domains.published.reasoning_gym import DATA, LEFT_OUT, ReasoningGym, part_of
from dgym.episode import overlap_index
from dgym.errors import DomainError, UsageError
from dgym.gate import Gate
from dgym.graders.reasoning_gym import draw_all, generators, score_all

FIXTURE = Path(dgym.data.__file__).parent / "fixtures" / "reasoning-gym"
SPLITS = ("feedback", "selection", "test")
FEW = ("gcd", "knights_knaves", "lcm", "mini_sudoku")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DGYM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = ReasoningGym(fixture=True)
        for split in SPLITS:
            made.problems(split)
        yield made


@pytest.fixture
def few(monkeypatch):
    """The data set with a few generators only."""
    monkeypatch.setattr(module, "generators", lambda: FEW)
    module._evaluation.cache_clear()
    yield replace(DATA, digest="")
    module._evaluation.cache_clear()


def rows(part):
    return [json.loads(line) for line in (FIXTURE / f"{part}.jsonl").open(encoding="utf-8")]


def test_it_is_a_domain():
    domain = make_domain("reasoning-gym:fixture")
    assert [finding for finding in check_domain(domain) if not finding.ok] == []


def test_the_fixture_is_what_the_library_draws():
    for part in ("validation", "test"):
        given_rows = rows(part)
        drawn = draw_all([(row["generator"], row["seed"], row["index"], 1) for row in given_rows])
        for row, (entry,) in zip(given_rows, drawn, strict=True):
            assert row == {name: getattr(entry, name) for name in row}
            assert entry.sound
            assert part_of(row["generator"], row["question"]) == part


def test_problems_are_the_rows(domain):
    given_rows = rows("validation") + rows("test")
    problems = [p for split in SPLITS for p in domain.problems(split)]
    assert {p.prompt: (p.reference, p.skill, p.slice) for p in problems} == {
        row["question"].strip(): (row["answer"].strip(), row["generator"], row["category"]) for row in given_rows
    }
    assert domain.problems("train") == ()
    for split in SPLITS:
        assert Counter(p.skill for p in domain.problems(split)) == dict.fromkeys(domain.skills(), 2)


def test_a_grade_is_the_score_with_partial_credit(domain):
    problem = next(p for p in domain.problems("test") if p.skill == "mini_sudoku")
    assert domain.grade(problem, f"  {problem.reference}\n") == 1.0
    changed = problem.reference[:-1] + str(int(problem.reference[-1]) % 4 + 1)
    assert 0.5 < domain.grade(problem, changed) < 1.0
    assert domain.check(Example(problem.prompt, changed)) is False
    assert domain.grade(problem, "no idea") == 0.0


def test_another_answer_that_holds_is_right(domain):
    """Where a puzzle has several solutions."""
    problem = next(p for p in domain.problems("test") if p.skill == "graph_color")
    colours = json.loads(problem.reference)
    renamed = {1: 2, 2: 3, 3: 1}
    other = json.dumps({vertex: renamed[colour] for vertex, colour in colours.items()})
    assert other != problem.reference
    assert domain.grade(problem, other) == 1.0


def test_grades_together_are_the_grades_one_by_one(domain):
    problems = [p for split in SPLITS for p in domain.problems(split)]
    responses = [p.reference if i % 3 else problems[i - 1].reference for i, p in enumerate(problems)]
    together = [score for score, _ in domain.grade_all(problems, responses)]
    assert together == [domain.grade(p, r) for p, r in zip(problems, responses, strict=True)]
    assert len({*together}) > 2


def test_a_problem_of_another_data_set_is_the_domains_error(domain):
    with pytest.raises(DomainError, match="is none of reasoning-gym:fixture"):
        domain.grade(Problem("id", "What is love?", "42", "gcd"), "42")
    assert domain.check(Example("What is love?", "42")) is None


def test_parts_are_shares_of_all_questions():
    shares = Counter(part_of("gcd", f"Question {i}\n") for i in range(10_000))
    assert shares["train"] == pytest.approx(5_000, abs=200)
    assert shares["validation"] == pytest.approx(2_000, abs=160)
    assert part_of("gcd", " Question 1\n") == part_of("gcd", "Question 1")


def test_the_data_set_is_computed(few):
    said: list[str] = []
    found = pull(few, report=said.append)
    assert said == ["Computing reasoning-gym, validation ...", "Computing reasoning-gym, test ..."]
    assert found.source == "computed"
    assert found.counts == {"validation": 20 * len(FEW), "test": 30 * len(FEW)}
    for part in ("validation", "test"):
        table = found.rows(part)
        assert len({row["question"] for row in table}) == len(table)
        assert {part_of(row["generator"], row["question"]) for row in table} == {part}
    again = pull(few, report=said.append)
    assert again.digest == found.digest
    domain = ReasoningGym()
    problems = {split: domain.problems(split) for split in SPLITS}
    assert {split: len(p) for split, p in problems.items()} == {"feedback": 40, "selection": 40, "test": 120}
    every = [p for split in SPLITS for p in problems[split]]
    assert [score for score, _ in domain.grade_all(every, [p.reference for p in every])] == [1.0] * len(every)


def test_another_release_is_an_error(few, monkeypatch):
    monkeypatch.setattr(module, "version", lambda _: "0.1.99")
    with pytest.raises(DomainError, match=r"those of reasoning-gym 0\.1\.25; 0\.1\.99 is installed"):
        pull(few, report=lambda _: None)


def test_without_it_the_command_is_named():
    with pytest.raises(UsageError, match="dgym data pull reasoning-gym"):
        ReasoningGym().problems("test")


def test_generators_and_families_can_be_chosen():
    domain = make_domain("reasoning-gym:fixture,generators=games+bf")
    assert domain.name == "reasoning-gym:fixture,generators=games+bf"
    assert domain.skills() == ("bf", "countdown", "mini_sudoku")
    assert {p.skill for split in SPLITS for p in domain.problems(split)} == {*domain.skills()}
    # What is not asked is known all the same, so that a copy of it is no copy of anything else.
    other = make_domain("reasoning-gym:fixture").problems("test")
    arc = next(p for p in other if p.skill == "arc_1d")
    assert domain.infer_skill(arc.prompt) is None
    assert not domain.fingerprints(arc.prompt)[0].startswith("text|")
    with pytest.raises(UsageError, match="Did you mean 'countdown'"):
        make_domain("reasoning-gym:fixture,generators=countdwon").problems("test")
    for name, why in LEFT_OUT.items():
        with pytest.raises(UsageError, match=f"'{name}' of reasoning-gym is not asked: {why}"):
            ReasoningGym(fixture=True, generators=name)
    for wrong in ("generators", "generators=gcd+"):
        with pytest.raises(UsageError, match="joined by"):
            make_domain(f"reasoning-gym:fixture,{wrong}")


def test_fresh_problems_are_of_the_train_share_and_none_twice(domain):
    for skill in ("gcd", "knights_knaves", "word_sorting"):
        fresh = domain.fresh(skill, 30, 1)
        assert len({e.prompt for e in fresh}) == 30
        assert {part_of(skill, e.prompt) for e in fresh} == {"train"}
        assert {domain.infer_skill(e.prompt) for e in fresh} == {skill}
        # In another process, or after other draws, they are the same.
        assert ReasoningGym(fixture=True).fresh(skill, 30, 1) == fresh
        assert len({e.prompt for e in domain.fresh(skill, 30, 2)} & {e.prompt for e in fresh}) < 20
    with pytest.raises(UsageError, match="Did you mean 'gcd'"):
        domain.fresh("gdc", 1, 1)


def test_fresh_answers_are_right(domain):
    for skill in domain.skills():
        for example in domain.fresh(skill, 3, 7):
            assert score_all([(domain._drawn[example.prompt], example.response)]) == [1.0]


def test_a_generator_without_more_problems_gives_what_it_has(domain, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "part_of", lambda _, question: "train" if percentile(question) == 7 else "test")
        few = domain.fresh("gcd", 200, 1)
        assert 10 < len(few) < 200
        assert few == domain.fresh("gcd", 200, 1)
        patch.setattr(module, "part_of", lambda *_: "test")
        with pytest.raises(DomainError, match="'gcd' has no problems to spare"):
            domain.fresh("gcd", 3, 1)
    assert domain.fresh("gcd", 0, 1) == []


def test_wrong_answers_are_answers_and_wrong(domain):
    for skill in domain.skills():
        example = domain.fresh(skill, 1, 3)[0]
        wrong = domain.wrong_answer(example, 1)
        assert wrong == domain.wrong_answer(example, 1)
        assert score_all([(domain._drawn[example.prompt], wrong.response)])[0] < 1.0
    unknown = domain.wrong_answer(Example("Who knows?", "me", "their skill"), 1)
    assert unknown.response != "me"
    assert unknown.skill == "their skill"


def test_what_was_drawn_does_not_change_a_verdict(domain):
    """The gate may run in another process than the engine."""
    example = domain.fresh("leg_counting", 1, 11)[0]
    other = ReasoningGym(fixture=True)
    for response in (example.response, "no"):
        asked = replace(example, response=response)
        assert domain.check(asked) is other.check(asked) is None
    assert domain.fingerprints(example.prompt) == other.fingerprints(example.prompt)


def test_a_copy_of_a_hidden_problem_is_found(domain):
    hidden = domain.problems("test")
    copies = [Example(f"\n{p.prompt.upper().replace(' ', '  ')}\t", p.reference) for p in hidden]
    # Without the sentence around it, a puzzle is compared as any other text.
    bare = [Example(" ".join(p.prompt.split()[-40:]), p.reference) for p in hidden if p.skill == "simple_geometry"]
    for examples in (copies, bare):
        verdicts = Gate(domain, overlap_index(domain), Budget(1_000), verify=True).submit(examples)
        assert Counter(v.reason for v in verdicts) == {"overlap-test": len(examples)}


def test_texts_of_no_generator_are_mere_texts(domain):
    for text in (*GARBAGE, "Mira has 48 muffins and gives 3 of them to a neighbour. How many are left?"):
        assert domain.infer_skill(text) is None
        assert domain.fingerprints(text)[0].startswith("text|")


def test_threads_may_use_it_at_a_time(domain):
    found: dict[int, list] = {}

    def draw(number):
        found[number] = domain.fresh("gcd", 5, number % 2)

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[2] == found[4] != found[1] == found[3] == found[5]


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_graded(domain, text):
    problems = list({p.skill: p for p in domain.problems("test")}.values())
    for score, measures in domain.grade_all(problems, [text] * len(problems)):
        assert 0.0 <= score <= 1.0
        assert not measures
    assert domain.fingerprints(text)
    assert domain.check(Example(text, text)) is None


def test_a_megabyte_is_graded(domain):
    for text in ("x" * 1_000_000, "1 " * 500_000):
        problems = domain.problems("test")
        assert {score for score, _ in domain.grade_all(problems, [text] * len(problems))} == {0.0}
        assert domain.fingerprints(text)


# The whole of it -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_data_set_is_the_known_one_and_a_domain():
    found = pull(DATA, report=lambda _: None)
    assert DATA.digest
    assert found.digest == stored(DATA).digest == DATA.digest
    asked = set(generators()) - set(LEFT_OUT)
    for part, each in (("validation", 20), ("test", 30)):
        assert Counter(row["generator"] for row in found.rows(part)) == dict.fromkeys(asked, each)
    domain = ReasoningGym()
    assert {split: len(domain.problems(split)) for split in SPLITS} == dict(ReasoningGym.sizes)
    assert [finding for finding in check_domain(domain) if not finding.ok] == []
