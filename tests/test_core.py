"""The vocabulary: seeds, digests, token counts, and the way of every record through JSON."""

import dataclasses
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dgym import core
from dgym.core import count_tokens, derive_seed, digest, from_json, to_json

PNG = b"\x89PNG\r\n\x00\xff"
PROBLEM = core.Problem("p", "What is 1 + 1?", "2", "sum", (PNG,), "new-combination", "g1")
ATTEMPT = core.Attempt(PROBLEM, "3", 0.5, {"precision": 0.25})
FEEDBACK = core.Feedback("feedback", (ATTEMPT,))
EXAMPLE = core.Example("a prompt", "a response", "sum", 3, (PNG,), "a worse response")
SEEN = core.Observation("a prompt", "3", "2", False, (PNG, PNG))
REPORT = core.SkillReport("sum", 0.25, 4, (SEEN,), 2.0, 5)
PROBE = core.Probe("sum", 0.75, 8)
BUDGET = core.Budget(7, 20, 300, 30)
ITEM = core.PlanItem(3, "write", "sum", (SEEN,), 2**62)
LEAF = core.Subskill("sum/carry", 5, 3, 0.5)
TREE = core.SkillTree("sum", (LEAF,), True)
ACTION = core.Action("sum", "exploit", ("sum/carry",), 4, {"sum/carry": -2}, "too easy", False)
TURN = core.Turn(1, {"sum": 0.5}, (ACTION,), {"sum": -0.25}, {"sum/carry": 3})
PAST = core.Past(2, FEEDBACK, (ACTION,), {"sum/carry": 3})
PLAN = core.Plan((ITEM, ITEM), {"kept": [1, None, "é"]}, (ACTION,), True)
VERDICT = core.Verdict(EXAMPLE, False, "incorrect", False, 2, True, ("5e1f",))
CALL = core.Call("write", "openai:x", "refused", 9, 8, 7, 2, True, 0.5, 1.5, 3, 1)
KNOWN = {"asked": 4, "known": 1}
RECORDS = [
    PROBLEM,
    ATTEMPT,
    FEEDBACK,
    EXAMPLE,
    SEEN,
    REPORT,
    PROBE,
    BUDGET,
    ITEM,
    LEAF,
    TREE,
    ACTION,
    TURN,
    PAST,
    PLAN,
    VERDICT,
    core.Message("user", "What is this?", (PNG,)),
    core.Curriculum(("sum",), ("angle",), {"sum": 2.0}, {"sum": 9}, ("sum",)),
    core.Rules(5, BUDGET, "continue", 2, "paper", False, False, True, 0.5, 3, 4, {"test": 5}),
    core.Brief(
        "d",
        "e",
        "text",
        "form",
        {"type": "object"},
        BUDGET,
        5,
        {"verify": True},
        ({"name": "tool"},),
        {"sum": ("a",)},
        (EXAMPLE,),
        "a scene",
    ),
    CALL,
    core.State(
        "e", 1, 2**62, 0.5, (SEEN,), (REPORT,), (TREE,), (TURN,), (PROBE,), {"duplicate": 2}, 9, KNOWN, 3, {"a": [1]}
    ),
    core.StateContext(1, 2**62, (PAST,), (PROBE,), {"duplicate": 2}, 9, KNOWN, 3, [1]),
    core.Step(
        1,
        FEEDBACK,
        FEEDBACK,
        None,
        (PLAN,),
        (VERDICT,),
        4,
        True,
        {"plan": 0.5},
        {"loss": 1.5},
        (PROBE,),
        (CALL,),
        "spent",
    ),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_seeds_are_the_same_on_every_machine_and_in_range():
    assert derive_seed("item", 1, "math", "open-ended", 0) == 1550901926095579551
    assert derive_seed("a", "b") != derive_seed("ab")
    assert len({derive_seed("x", i) for i in range(1000)}) == 1000


@given(st.lists(st.integers() | st.text(st.characters(codec="utf-8"))))
def test_a_seed_has_63_bits(parts):
    assert 0 <= derive_seed(*parts) < 2**63


@given(st.dictionaries(st.text(), JSON, min_size=2), st.randoms())
def test_a_digest_does_not_depend_on_the_order_of_keys(value, rng: random.Random):
    keys = list(value)
    rng.shuffle(keys)
    assert digest({k: value[k] for k in keys}) == digest(value)


def test_digests_are_the_same_on_every_machine():
    assert digest({"b": [1, "é"], "a": None}) == "a56edd4bae1914c1a12dbd3956f84c13"
    assert digest([1, 2]) != digest([12])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), (" \n", 0), ("two words", 2), ("3/4", 3), ("-12.5", 4), ("['9', '83']", 9), ("αβγ δ", 2), ("a_b", 3)],
)
def test_tokens_are_words_and_single_symbols(text, tokens):
    assert count_tokens(text) == tokens


@given(st.text(), st.text())
def test_tokens_add_up_over_white_space(left, right):
    assert count_tokens(f"{left} {right}") == count_tokens(left) + count_tokens(right)
    assert count_tokens(left) <= len(left)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_a_record_survives_json(record):
    defaults = [f.name for f in dataclasses.fields(record) if getattr(record, f.name) == f.default]
    assert defaults in ([], ["test"]), "a default would not show that the field is carried"
    assert from_json(type(record), json.loads(json.dumps(to_json(record)))) == record


def test_no_record_is_missing_above():
    # A teacher acts, and what was written may hold an error: neither crosses a pipe as JSON.
    kinds = {k for k in vars(core).values() if dataclasses.is_dataclass(k)} - {core.Teacher, core.Written}
    assert kinds == {type(r) for r in RECORDS}


@given(st.builds(core.Example, st.text(), st.text(), st.none() | st.text(), st.integers()))
def test_any_text_survives_json(example):
    assert from_json(core.Example, json.loads(json.dumps(to_json(example)))) == example


@pytest.mark.parametrize("kind", [core.Rules, core.Budget])
def test_a_misspelt_rule_is_an_error(kind):
    with pytest.raises(ValidationError):
        from_json(kind, {"iteratoins": 3})


@pytest.mark.parametrize("wrong", [{"iterations": -1}, {"generations": 0}, {"share": 0.0}, {"share": 1.1}])
def test_impossible_rules_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        core.Rules(**wrong)


def test_feedback_scores_and_groups():
    other = core.Attempt(dataclasses.replace(PROBLEM, id="q", skill="angle"), "2", 1.0)
    feedback = core.Feedback("feedback", (ATTEMPT, other))
    assert feedback.score == 0.75
    assert list(feedback.by_skill()) == ["angle", "sum"]
    assert (ATTEMPT.correct, other.correct) == (False, True)
    assert core.Feedback("test", ()).score == 0
