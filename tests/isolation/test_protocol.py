"""The protocol: records come back as they were, and nothing else gets through."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgym import core
from dgym.core import Action, Brief, Budget, Example, Observation, Plan, PlanItem, SkillReport, State
from dgym.isolation.protocol import MAX_DEPTH, ProtocolError, decode, encode, from_line, to_line

SEEN = Observation("what?", "this", "that", False, (b"\x89PNG\x00",))
BRIEF = Brief(
    "math", "skill-tree", "sums", "a number", {"type": "object"}, Budget(10, None, 300), 3,
    {"verify": True}, ({"name": "tool"},), {"add": ("add/carry",)}, (Example("1 + 1", "2", images=(b"x",)),),
)  # fmt: skip
STATE = State(
    "skill-tree", 2, 7, 0.5, (SEEN,), (SkillReport("add", 0.5, 4, (SEEN,), 1.0, 3),),
    (core.SkillTree("add", (core.Subskill("add/carry", 5, 3, None),)),),
    (core.Turn(0, {"add": 0.1}, (Action("add", "explore", ("carry",), 5),), {"add": 0.4}, {"add": 3}),),
    (core.Probe("add", 0.25, 4),), {"incorrect": 2}, 8, {"asked": 2, "known": 1}, 5, {"any": [1, None, "thing"]},
)  # fmt: skip
PLAN = Plan(
    (PlanItem(3, "sums", "add", (SEEN,), 2**63 - 1),),
    {"kept": [1]},
    (Action("add", "exploit", shift={"carry": -1}),),
    True,
)


@pytest.mark.parametrize("record", [BRIEF, STATE, PLAN, Example("p", "r", rejected="q", images=(b"\xff",))])
def test_records_come_back_as_they_were(record):
    line = to_line({"record": encode(record)})
    assert line.count(b"\n") == 1
    assert decode(type(record), from_line(line)["record"]) == record


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"items": [{"count": 1.5}]}, r"plan.items\[0\].count must be a whole number"),
        ({"items": [{"count": True}]}, r"count must be a whole number"),
        ({"items": [{}]}, r"plan.items\[0\] lacks 'count'"),
        ({"items": {"count": 1}}, r"plan.items must be a list"),
        ({"items": [[1]]}, r"plan.items\[0\] must be an object"),
        ({"item": []}, r"plan has no field 'item'; it has items, memory, actions, ask_known"),
        ({"actions": [{"skill": "a", "kind": "expand"}]}, r"kind must be one of explore, exploit"),
        ({"actions": [{"skill": "a", "kind": "exploit", "shift": {"b": "1"}}]}, r"shift.b must be a whole number"),
        ({"items": [{"count": 1, "like": [{"prompt": "p", "response": "r", "reference": "s", "correct": True,
                                           "images": ["?"]}]}]}, r"images\[0\] is no base64"),
        ({"ask_known": 1}, r"ask_known must be true or false"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, words):
    with pytest.raises(ProtocolError, match=words):
        decode(Plan, encode(Plan()) | change)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"garbage\n", b"[]\n", b"1\n", b'{"a": NaN}\n', b'{"a": Infinity}\n', b"\xff\xfe\n", b'{"a": 1\n',
        b'{"a": ' + b"9" * 5000 + b"}\n",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"a": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}\n",
    ],
    ids=lambda line: repr(line[:12]),
)  # fmt: skip
def test_what_is_no_message_is_refused(line):
    with pytest.raises(ProtocolError):
        from_line(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["items", "memory", "actions", "ask_known", "x"]), JSON),
    st.sampled_from([Plan, Example, State]),
)
def test_any_value_is_a_record_or_an_error(value, kind):
    with contextlib.suppress(ProtocolError):
        assert isinstance(decode(kind, value), kind)


def test_what_is_no_json_is_not_sent():
    for value in (float("nan"), object(), "\ud800", b"raw"):
        with pytest.raises(ProtocolError):
            to_line({"a": value})
