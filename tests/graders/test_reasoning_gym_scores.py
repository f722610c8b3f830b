"""Scores of every generator against the library itself, which runs as it is in a process of its own."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgym.domains.published.reasoning_gym import LEFT_OUT
from dgym.domains.published.reasoning_gym import _usable as usable
from dgym.errors import DomainError
from dgym.graders import reasoning_gym as module
from dgym.graders.reasoning_gym import Entry, draw_all, from_json, generators, is_arithmetic, score_all, to_json

SEED = 20_250_530
ENTRIES = 2
GARBAGE = (
    "",
    "?",
    "I do not know, perhaps 3 or 4.",
    "No",
    "0",
    "-inf",
    "nan",
    "1/0",
    "[]",
    "{}",
    "null",
    "[[1, 2], [3",
    "{'a': [1,",
    "x**2 + C",
    "P ∧ (Q → ¬R)",
    "R U R' U'",
    "w,A1,B3",
    "[" * 3_000,
    "(" * 3_000,
    "9" * 5_000,
    "\0\ufffd\U0001f600",
    "a, b\nc: d = 1 | 2\t~",
)
NEEDS_CODE = (
    "binary_matrix",
    "countdown",
    "intermediate_integration",
    "n_queens",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
    "spiral_matrix",
    "string_insertion",
)
"""Generators whose scorers hand the answer to `eval` or to `parse_expr`."""

# Draws entries and scores answers without a line of ours. Hashes are fixed, as some generators follow them.
LIBRARY = """
import copy, json, random, sys
import numpy, reasoning_gym
names, seed, size, count, garbage = json.load(sys.stdin)
out = {}
for name in names:
    data = reasoning_gym.create_dataset(name, seed=seed, size=size)
    entries = []
    for index in range(count):
        random.seed(seed + index)
        numpy.random.seed(seed + index)
        entries.append(data[index])
    answers = [*[e["answer"] for e in entries], *garbage, None]
    answers = [a if a is None else str(a).strip() for a in answers]
    scores = []
    for entry in entries:
        row = []
        for answer in answers:
            try:
                row.append(float(data.score_answer(answer, copy.deepcopy(entry))))
            except Exception:
                row.append(None)
        scores.append(row)
    out[name] = {"questions": [e["question"] for e in entries], "answers": answers, "scores": scores}
print(json.dumps(out), file=sys.stderr)
"""


@cache
def names():
    return tuple(name for name in generators() if name not in LEFT_OUT)


@cache
def library(count=ENTRIES, seed=SEED):
    asked = json.dumps([names(), seed, module.CHUNK, count, GARBAGE])
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIBRARY],
        input=asked,
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return json.loads(done.stderr.splitlines()[-1])


@cache
def entries(count=ENTRIES, seed=SEED):
    drawn = draw_all([(name, seed, 0, count) for name in names()])
    return dict(zip(names(), drawn, strict=True))


def test_every_generator_is_known_or_left_out():
    assert set(LEFT_OUT) <= set(generators())
    assert len(names()) == 100


def agrees(count, seed):
    """Compares all scores; returns, by generator, the largest part of its problems that one answer solves."""
    solved = {}
    for name in names():
        theirs = library(count, seed)[name]
        ours = entries(count, seed)[name]
        assert [e.question for e in ours] == theirs["questions"], name
        answers = theirs["answers"]
        scores = iter(score_all([(entry, answer or "") for entry in ours for answer in answers]))
        for entry, row in zip(ours, theirs["scores"], strict=True):
            for answer, theirs_score in zip(answers, row, strict=True):
                score = next(scores)
                # No answer at all, programs that tell the time, and integrals that are not done: not asked or read.
                if answer is None or (name == "codeio" and not usable(entry)) or "Integral(" in answer:
                    continue
                if name == "complex_arithmetic" and answer == "nan":
                    continue
                # What the scorer cannot bear is 0 here.
                expected = 0.0 if theirs_score is None else min(1.0, max(0.0, theirs_score))
                assert score == expected, (name, answer[:80])
        right = [[(score or 0.0) >= 1.0 for score in row] for row in theirs["scores"]]
        right = [[r and a != "nan" for r, a in zip(row, answers, strict=True)] for row in right]
        solved[name] = max(map(sum, zip(*right, strict=True))) / count
    return solved


def test_scores_are_the_librarys_of_its_own_answers_of_others_and_of_garbage():
    agrees(ENTRIES, SEED)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1_000_000, 2_000_000])
def test_scores_are_the_librarys_of_many_and_no_answer_solves_all(seed):
    solved = agrees(25, seed)
    assert {name: share for name, share in solved.items() if share > 0.9} == {}


def test_the_answers_given_are_right_and_nothing_is_not():
    for name, drawn in entries().items():
        sound = [entry for entry in drawn if entry.sound]
        # An integral that sympy cannot do, a program that ends up empty, a conclusion that says nothing: not asked.
        assert len(sound) == len(drawn) or name in ("intermediate_integration", "ab", "propositional_logic")
        assert score_all([(e, f"\n {e.answer}\n") for e in sound]) == [1.0] * len(sound), name
        assert max(score_all([(e, "") for e in sound]), default=0.0) < 1.0, name


def test_what_takes_any_answer_is_not_sound():
    assert not any(e.sound for e in draw_all([("game_of_life_halting", 1, 0, 5)])[0])
    for name in ("boxnet", "rush_hour"):
        assert not any(e.sound or e.answer for e in draw_all([(name, 1, 0, 5)])[0])
    one, other = draw_all([("puzzle24", 1, 0, 2)])[0]
    assert score_all([(one, other.answer)]) == [1.0]
    flips = [e for e in draw_all([("coin_flip", 1, 0, 20)])[0] if e.answer.startswith("0.")]
    assert score_all([(e, "0") for e in flips]) == [1.0] * len(flips)


def test_what_is_drawn_does_not_depend_on_the_day(monkeypatch):
    """Else the known rows could be computed on the day they were pinned only."""
    known = module.serve({"draw": ["time_intervals", 809202710, 0, 40]})
    assert sum("2026-11-25" in entry[6]["start_time"] for entry in known) > 10

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 2, 3, tzinfo=tz)

    class Day(datetime.date):
        @classmethod
        def today(cls):
            return cls(2031, 2, 3)

    monkeypatch.setattr(datetime, "datetime", Later)
    monkeypatch.setattr(datetime, "date", Day)
    assert module.serve({"draw": ["time_intervals", 809202710, 0, 40]}) == known


def test_no_number_is_every_number():
    entry = draw_all([("complex_arithmetic", 1, 0, 1)])[0][0]
    assert score_all([(entry, answer) for answer in ("nan", "NaN", "-nan", "nan+nanj")]) == [0.0] * 4


def test_a_draw_follows_from_its_address_alone():
    """Whatever was drawn before, and in whichever process."""
    asked = [(name, SEED, index, 1) for name in names() for index in (1, 0)]
    again = draw_all(asked)
    for (name, _, index, _), drawn in zip(asked, again, strict=True):
        assert drawn == [entries()[name][index]], name


def test_fewer_are_drawn_at_the_end_of_a_seed():
    assert len(draw_all([("gcd", 1, module.CHUNK - 2, 5)])[0]) == 2
    assert draw_all([("gcd", 1, module.CHUNK, 5)])[0] == []


def test_a_generator_that_does_not_exist_is_an_error():
    with pytest.raises(DomainError, match="cannot draw 'gdc' from seed 1"):
        draw_all([("gdc", 1, 0, 1)])


@pytest.mark.parametrize("generator", NEEDS_CODE)
def test_no_answer_is_run_as_code(generator, tmp_path):
    trace = tmp_path / "trace"
    touch = f"open({str(trace)!r}, 'w').close()"
    attacks = [
        touch,
        f"[{touch}]",
        f"exec({touch!r})",
        f"(lambda: {touch})()",
        f"__import__('pathlib').Path({str(trace)!r}).touch()",
        f"S({touch!r})",
        f"sympify({touch!r})",
        "+".join(f"chr({ord(c)})" for c in touch),
        "eval(" + "+".join(f"chr({ord(c)})" for c in touch) + ")",
        "().__class__",
        "x.diff(x)",
    ]
    entry = draw_all([(generator, SEED, 0, 1)])[0][0]
    assert max(score_all([(entry, attack) for attack in attacks])) < 0.1
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("1 + 2 * (3 - 4) / 5", True),
        ("x**2/2 + 3.5*x^3 - .5e-3*exp(-x) + C", True),
        ("x*log(x)/2 - asinh(x) + Const", True),
        ("a_b + K1", True),
        ("5!", True),
        ("", True),
        ("x.real", False),
        ("(1).real", False),
        ("1 .real", False),
        ("exit()", False),
        ("print(1)", False),
        ("lambda", False),
        ("x if y else z", False),
        ("'a'", False),
        ("x[0]", False),
        ("a: 1", False),
        ("x; y", False),
        ("__class__", False),
        ("Integral(x, x)", False),
        ("symbols(x)", False),
        ("x # comment", False),
        ("ｅｘｉｔ()", False),
    ],
)
def test_arithmetic_is_told_from_code(text, fits):
    assert is_arithmetic(text) is fits


def test_an_answer_that_takes_for_ever_is_wrong(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 1.0)
    for name in ("countdown", "simple_integration"):
        entry = entries()[name][0]
        assert score_all([(entry, "9**9**9**9**9"), (entry, entry.answer)]) == [0.0, 1.0]


@pytest.mark.parametrize("text", ["9" * 1_000_000, "[" * 1_000_000, "yes " * 250_000, "1,\n" * 300_000])
def test_a_megabyte_is_wrong_and_soon_so(text):
    asked = [(drawn[0], text) for drawn in entries().values()]
    assert score_all(asked) == [0.0] * len(asked)


def test_the_longest_answers_that_are_scored_are_scored():
    text = "1 2," * (module.MAX_CHARACTERS // 4)
    scores = score_all([(drawn[0], text) for drawn in entries().values()])
    assert all(0.0 <= score < 1.0 for score in scores)


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=100))
def test_any_text_has_a_score(text):
    scores = score_all([(drawn[0], text) for drawn in entries().values()])
    assert all(0.0 <= score <= 1.0 for score in scores)


KEYS = st.text(max_size=5) | st.integers() | st.tuples(st.integers(), st.integers())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_metadata_survive_json(value):
    restored = from_json(json.loads(json.dumps(to_json(value))))
    assert restored == value
    assert repr(restored) == repr(value)


def test_other_values_become_numbers_and_texts():
    from fractions import Fraction

    import numpy as np

    assert to_json({"a": np.int64(3), "b": np.float64(0.5), "c": np.str_("x"), "d": Fraction(1, 2)}) == {
        "a": 3,
        "b": 0.5,
        "c": "x",
        "d": "1/2",
    }


def test_nothing_of_an_entry_is_lost():
    for name, drawn in entries().items():
        for entry in drawn:
            assert isinstance(entry, Entry)
            assert json.loads(json.dumps(entry.metadata)) == entry.metadata, name
            assert entry.category
