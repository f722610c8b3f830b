"""The gate: every reason, the budget, and the search for copies of evaluation problems."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgym.core import Budget, Example, Problem
from dgym.fakes import FakeDomain
from dgym.gate import MAX_CHARACTERS, REASONS, Gate, told
from dgym.overlap import OverlapIndex

RIGHT = Example("add 1 2", "3")
WRONG = Example("add 1 2", "4")


class FreeText(FakeDomain):
    """A domain that recognises no text."""

    def fingerprints(self, prompt, images=()):
        return ("text|" + prompt,)

    def check(self, example):
        return None


def gate(budget=100, *, verify=True, domain=None, splits=None):
    domain = domain or FakeDomain()
    budget = Budget(budget) if isinstance(budget, int) else budget
    return Gate(domain, OverlapIndex(domain, splits or {}), budget, verify=verify)


def reasons(verdicts):
    return [v.reason for v in verdicts]


def words(start, count):
    return [f"w{i}" for i in range(start, start + count)]


def hidden(*texts, split="test"):
    return {split: [Problem(f"p{i}", t, "x", "s") for i, t in enumerate(texts)]}


def find(prompt, splits):
    return reasons(gate(domain=FreeText(), splits=splits).submit([Example(prompt, "x")]))[0]


@pytest.mark.parametrize(
    "given",
    [
        "text",
        None,
        {"prompt": "add 1 2", "response": "3"},
        Example("", "3"),
        Example("add 1 2", " \n"),
        Example(None, "3"),
        Example("add 1 2", 3),
        Example("add 1 2", "3", skill=["add"]),
        Example("a" * (MAX_CHARACTERS + 1), "3"),
        Example("add 1 2", "3" * (MAX_CHARACTERS + 1)),
        Example("add 1 2 \ud800", "3"),
        Example("add 1 2", "3", skill="\udfff"),
    ],
    ids=lambda g: repr(g)[:40],
)
def test_malformed(given):
    (verdict,) = gate().submit([given])
    assert (verdict.kept, verdict.reason) == (False, "malformed")
    # What is stored of it is short, and fits a table.
    verdict.example.prompt.encode()
    assert len(verdict.example.prompt) <= 200
    assert len(verdict.example.response) <= 200


def test_duplicates_are_found_across_submissions_and_iterations():
    judge = gate()
    assert reasons(judge.submit([RIGHT, Example("add 1 2 ", "3")])) == ["", "duplicate"]
    judge.next_iteration()
    assert reasons(judge.submit([RIGHT])) == ["duplicate"]


def test_a_rejected_example_makes_no_duplicate():
    assert reasons(gate().submit([WRONG, RIGHT])) == ["incorrect", ""]


def test_verification_records_always_and_filters_on_demand():
    unknown = Example("sing a song", "la")
    for verify, kept in ((True, [False, True]), (False, [True, True])):
        verdicts = gate(verify=verify).submit([WRONG, unknown])
        assert [v.kept for v in verdicts] == kept
        assert [v.correct for v in verdicts] == [False, None]


@pytest.mark.parametrize("split", ["feedback", "selection", "test"])
def test_overlap_by_fingerprint(split):
    domain = FakeDomain()
    problem = domain.problems(split)[0]
    judge = gate(splits={s: domain.problems(s) for s in ("feedback", "selection", "test")})
    assert reasons(judge.submit([Example(problem.prompt, problem.reference)])) == [f"overlap-{split}"]


def test_the_first_reason_in_order_counts():
    judge = gate(4, splits={"test": [Problem("p", "add 1 2", "3", "add")]})
    assert reasons(judge.submit([WRONG, RIGHT, WRONG, 5, 5])) == [
        "incorrect", "overlap-test", "duplicate", "malformed", "over-budget",
    ]  # fmt: skip
    assert set(REASONS) > {"overlap-test", "malformed", "over-budget", "incorrect", "duplicate"}


def test_hidden_overlaps_are_not_told():
    splits = {s: [Problem(s, f"add 1 {i}", "x", "add")] for i, s in enumerate(("feedback", "selection", "test"))}
    verdicts = gate(5, splits=splits).submit([*(Example(f"add 1 {i}", str(1 + i)) for i in range(3)), 1, 2, 3])
    assert told(verdicts) == {"malformed": 2, "over-budget": 1, "overlap-feedback": 1}


@pytest.mark.parametrize("answer", ["3", "4"])
@pytest.mark.parametrize("split", ["selection", "test"])
def test_what_is_told_of_a_hidden_problem_is_told_of_any_other(split, answer):
    """Right or wrong, once or again: else submitting a problem would find out whether it is hidden."""
    example = Example("add 1 2", answer)
    heard = [
        [told(judge.submit([example])) for _ in range(3)]
        for judge in (gate(), gate(splits={split: [Problem("p", "add 1 2", "3", "add")]}))
    ]
    assert heard[0] == heard[1]


def test_what_is_rejected_counts_against_the_budget(unique):
    judge = gate(Budget(3, 5))
    assert reasons(judge.submit([WRONG, 7, unique(), unique()])) == ["incorrect", "malformed", "", "over-budget"]
    assert judge.examples_left == 0
    judge.next_iteration()
    assert judge.examples_left == 2, "the episode's own limit"
    assert reasons(judge.submit([unique() for _ in range(3)])) == ["", "", "over-budget"]
    judge.next_iteration()
    assert judge.examples_left == 0


def test_the_budget_counts_response_tokens(unique):
    judge = gate(Budget(10, None, 10))
    # The second would go beyond; a shorter one still fits; then nothing is left.
    verdicts = judge.submit([unique("a b c d e f"), unique("a b c d e"), unique("a b c d"), unique("a")])
    assert reasons(verdicts) == ["", "over-budget", "", "over-budget"]
    assert [v.tokens for v in verdicts] == [6, 0, 4, 0]
    judge.next_iteration()
    assert judge.examples_left == 0


TEXT = words(0, 40)


def test_thirteen_words_in_a_row_are_a_copy():
    splits = hidden(" ".join(TEXT))
    assert find(" ".join([*words(100, 30), *TEXT[5:18], *words(200, 30)]), splits) == "overlap-test"
    assert find(" ".join([*words(100, 30), *TEXT[5:17], *words(200, 30)]), splits) == ""


def test_case_and_punctuation_hide_no_copy():
    assert find(", ".join(w.upper() for w in TEXT) + "!", hidden(" ".join(TEXT))) == "overlap-test"


def test_a_short_text_with_a_word_added_is_a_near_duplicate():
    short = words(0, 12)  # too short for a 13-gram
    splits = hidden(" ".join(short), split="selection")
    assert find(" ".join([*short, "more"]), splits) == "overlap-selection"
    assert find(" ".join([*short[:6], *words(50, 6)]), splits) == ""


@pytest.mark.parametrize(("problems", "reason"), [(3, "overlap-test"), (4, "")])
def test_what_more_than_three_problems_share_is_template(problems, reason):
    template = words(0, 30)
    splits = hidden(*(" ".join([*template, *words(1000 + 10 * i, 5)]) for i in range(problems)))
    assert find(" ".join([*template, *words(5000, 5)]), splits) == reason


def test_a_copy_within_a_template_is_still_found():
    template = words(0, 30)
    texts = [" ".join([*template, *words(1000 + 20 * i, 20)]) for i in range(6)]
    assert find(f"{texts[3]} please", hidden(*texts)) == "overlap-test"


ANYTHING = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=5),
    st.builds(Example, st.text(st.characters(), max_size=5), st.text(st.characters(), max_size=5)),
    st.builds(lambda a, b, c: Example(f"add {a} {b}", str(c)), *[st.integers(0, 3)] * 3),
)


@given(st.lists(st.lists(ANYTHING, max_size=12), max_size=4), st.booleans())
def test_whatever_is_submitted_gets_one_verdict_within_the_budget(rounds, verify):
    judge, kept = gate(Budget(6, 15, 40), verify=verify), []
    counted = 0
    for submitted in rounds:
        verdicts = judge.submit(submitted)
        assert len(verdicts) == len(submitted)
        assert all(v.kept == (v.reason == "") for v in verdicts)
        within = sum(v.reason != "over-budget" for v in verdicts)
        assert within <= 6
        counted += within
        kept += [v for v in verdicts if v.kept]
        judge.next_iteration()
    assert counted <= 15
    assert sum(v.tokens for v in kept) <= 40
    assert len({FakeDomain().fingerprints(v.example.prompt)[0] for v in kept}) == len(kept)
    if verify:
        assert not any(v.correct is False for v in kept)


def test_the_order_of_problems_does_not_matter():
    texts = [" ".join(words(50 * i, 30)) for i in range(20)]
    shuffled = random.Random(1).sample(texts, len(texts))
    for text in (" ".join(words(50 * 7, 20)), "something else entirely"):
        assert find(text, hidden(*texts)) == find(text, hidden(*shuffled))


def test_a_pair_must_reject_a_wrong_response_and_pays_for_both():
    domain = FakeDomain()
    index = OverlapIndex(domain, {})
    gate = Gate(domain, index, Budget(10), verify=True)
    good, bad, odd, long = gate.submit(
        [
            Example("add 1 2", "3", rejected="4"),
            Example("add 1 3", "4", rejected="4"),
            Example("add 1 4", "5", rejected=6),
            Example("add 1 5", "6", rejected="x" * 30_000),
        ]
    )
    assert (good.kept, good.tokens) == (True, 2)
    assert (bad.kept, bad.reason, bad.correct) == (False, "incorrect", False)
    assert odd.reason == long.reason == "malformed"


class Framed(FakeDomain):
    """Problems that stand in many words, all the same."""

    BEFORE = "Please solve the following small problem with great care and answer with nothing but a number: "

    def frame(self, prompt):
        return prompt if prompt.startswith(self.BEFORE) else self.BEFORE + prompt

    def bare(self, prompt):
        return prompt.removeprefix(self.BEFORE)

    def fingerprints(self, prompt, images=()):
        return (f"text|{self.bare(prompt)}",)


def test_the_words_around_every_problem_make_no_overlap():
    domain = Framed()
    hidden = Problem("a", domain.frame("How many apples has Ann who had two and bought three more?"), "5", "")
    index = OverlapIndex(domain, {"test": [hidden]})
    other = domain.frame("How tall is a house of four floors?")
    assert index.find(Example(other, "4"), domain.fingerprints(other)) is None
    for copied in (hidden.prompt, domain.bare(hidden.prompt)):
        assert index.find(Example(copied, "5"), domain.fingerprints(copied)).split == "test"
    assert index.find(Example(f"{domain.bare(hidden.prompt)} Think.", "5"), ("text|else",)).split == "test"
