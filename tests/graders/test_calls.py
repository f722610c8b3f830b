"""Function calls: reading and comparing, case by case, and on answers of any kind; `bfcl_reference.py` has the rest."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgym.graders.calls import MAX_CHARACTERS, answer, decode, language_of, matches, right
from dgym.graders.foreign_calls import MAX_FOREIGN, java_value, javascript_value, readable

foreign = pytest.mark.skipif(
    not (readable("java") and readable("javascript")), reason="calls in Java and JavaScript are read with tree-sitter"
)


def function(name="f", required=(), **types):
    """Describes a function whose parameters have types such as `"array of string"`."""
    properties = {}
    for parameter, kind in types.items():
        outer, _, inner = kind.partition(" of ")
        properties[parameter] = {"type": outer} | ({"items": {"type": inner}} if inner else {})
    return {"name": name, "description": "", "parameters": {"properties": properties, "required": list(required)}}


# Reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f(a=1)]", [("f", {"a": 1})]),
        ("f(a=1)", [("f", {"a": 1})]),
        ("f(a=1), g(b='x')", [("f", {"a": 1}), ("g", {"b": "x"})]),
        ("```[f(a=1)]```", [("f", {"a": 1})]),
        ("[\n  a.b.c(d=[1, (2, 3)], e={'k': None})\n]", [("a.b.c", {"d": [1, (2, 3)], "e": {"k": None}})]),
        ("[f(a=-5, b=x, c=x[0], d=True)]", [("f", {"a": -5, "b": "x", "c": "x[0]", "d": True})]),
        ("[f(a=1 + 2 * 3, b='x' * 2, c=[1] + [2], d=2 ** 10)]", [("f", {"a": 7, "b": "xx", "c": [1, 2], "d": 1024})]),
        ("[f(a=g(1), b=g(c=2))]", [("f", {"a": "g(1)", "b": {"g": {"c": 2}}})]),
        ("[]", []),
        ("", []),
        ("[f(1, 2)]", [("f", {})]),  # as the leaderboard: arguments by position are ignored
        ("[f(a=+5, b=not True)]", [("f", {"a": -5, "b": -1})]),  # and any sign is a minus
        ("[f(a=...)]", [("f", {"a": "..."})]),
    ],
)
def test_calls_are_read(text, calls):
    assert decode(text) == calls


@pytest.mark.parametrize(
    "text",
    [
        "None of the functions can be used.",
        "I call f(a=1).",
        "```python\n[f(a=1)]\n```",
        "[f(a=1)",  # no: brackets may be missing at the ends, not within
        "[f(a=1), 3]",
        "[f(a=b.c)]",
        "[f(a={1, 2})]",
        "[f(a={[]: 1})]",
        "[f(a=1 / 0)]",
        "[f(a=9 ** 9 ** 9)]",
        "[f(a=1 << 10 ** 9)]",
        "[f(a='x' * 10 ** 9)]",
        "[f(a=[[0] * 9999] * 9999)]",
        "[f(a='%999999999d' % 1)]",
        "[f(a=print('run') + 1)]",
        "[f(a=__import__('os').system('false') + 1)]",
        "[f(a=lambda: 1)]",
        "[f(a=f'{b}')]",
        "[f(**x)]" * 2,
        "\x00",
        "[f(a='\ud800')]",
        "[f(a=" + "9" * 5_000 + ")]",
        "f(a=1), " * MAX_CHARACTERS,
    ],
)
def test_other_texts_are_no_calls(text):
    if text == "[f(a=1)":
        assert decode(text) == [("f", {"a": 1})]
    else:
        assert decode(text) is None


PIECES = (
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    "f",
    "(a=",
    "=",
    "'",
    '"',
    ",",
    "1",
    "-",
    "**",
    "x.y",
    ":",
    "\n",
    "\\",
    "lambda ",
    "new int[]",
    "é",
)
POSSIBLE = [{"f": {"a": [1, "x", ""], "b": [["x"], ""], "c": [{"k": [1]}, ""]}}]
FUNCTION = [function("f", a="integer", b="array of string", c="dict")]


@settings(deadline=None, max_examples=400)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=25).map("".join)))
def test_grading_never_raises(text):
    for category in ("simple_python", "multiple", "parallel", "irrelevance", "live_relevance"):
        assert right(category, text, FUNCTION, POSSIBLE) in (True, False)
    if readable("java") and readable("javascript"):
        for category in ("simple_java", "simple_javascript"):
            assert right(category, text, FUNCTION, POSSIBLE) in (True, False)


UNITS = (
    "(",
    "[",
    "{",
    "f(",
    "f(a=",
    "-",
    "not ",
    "lambda:",
    "1+",
    "a.",
    "{a:",
    "f'{",
    "'",
    "\\",
    "f(a=1),",
    "\n",
    "a if b else ",
    "[a for a in ",
    "x:=(",
    "await ",
    "~,",
    "new ",
)


@pytest.mark.parametrize("unit", UNITS)
def test_deep_and_long_answers_are_read_or_refused(unit):
    languages = ["python", *(name for name in ("java", "javascript") if readable(name))]
    for language in languages:
        limit = MAX_CHARACTERS if language == "python" else MAX_FOREIGN
        for text in (
            unit * 10**6,
            unit * (limit // len(unit)),
            f"[f(a={unit * 60})]",
            f"[f(a={unit * ((limit - 20) // len(unit))}77)]",
            f"[f(a={unit * 25}77{')' * 25})]",
        ):
            calls = decode(text, language)
            assert calls is None or not matches("simple_python", calls, FUNCTION, POSSIBLE)


def test_deep_answers_are_read_in_threads_too():
    # A thread's stack is smaller than the main one.
    found = []
    texts = [f"[f(a={'[' * n}{']' * n})]" for n in (10, 90, 150, 1_000, 9_000)] + [f"[f(a={'-' * 9_000}1)]"]
    worker = threading.Thread(target=lambda: found.extend(decode(text) for text in texts))
    worker.start()
    worker.join()
    assert [calls is not None for calls in found[:3]] == [True, True, True]
    assert found[3:] == [None, None, None]


# Comparing ---------------------------------------------------------------------------------------------------------


def accepts(kind, values, text, required=("a",)):
    described = [function("f", required, a=kind, z="string")]
    return right("simple_python", f"[f({text})]", described, [{"f": {"a": values}}])


@pytest.mark.parametrize(
    ("kind", "values", "good", "bad"),
    [
        ("integer", [5], ["a=5", "a=2 + 3"], ["a=5.0", "a='5'", "a=6", "a=True", "", "a=5, z='x'", "b=5"]),
        ("float", [5.0], ["a=5", "a=5.0", "a=5e0"], ["a='5.0'", "a=5.1", "a=True"]),
        ("boolean", [True], ["a=True"], ["a=1", "a='True'", "a=False", "a=true"]),
        (
            "string",
            ["April 1, 2024"],
            ["a='april 1 2024'", "a='APRIL-1/2024.'", "a='A p*r_i^l 1,2024'"],
            ["a='April 2, 2024'", "a=2024", "a='April 1; 2024'"],
        ),
        ("string", ["it's"], ["a='it\"s'", 'a="IT\'S"'], ["a='its'"]),
        (
            "array of string",
            [["x", "y"]],
            ["a=['x', 'y']", "a=['X', ' y.']"],
            ["a=['y', 'x']", "a=['x']", "a=('x', 'y')", "a=[1, 2]", "a='x'"],
        ),
        ("array of integer", [[1, 2], [2]], ["a=[1, 2]", "a=[2]"], ["a=[1]", "a=[1.0, 2.0]", "a=[True, 2]"]),
        ("tuple of float", [[1.5, 2.0]], ["a=(1.5, 2.0)", "a=[1.5, 2.0]"], ["a=(1.5, 2)", "a=(2.0, 1.5)", "a=1.5"]),
        (
            "dict",
            [{"k": ["x", "y"], "n": [1, ""]}],
            ["a={'k': 'x', 'n': 1}", "a={'k': 'Y.'}"],
            ["a={'n': 1}", "a={'k': 'z'}", "a={'k': 'x', 'm': 1}", "a={}", "a=[]"],
        ),
        (
            "array of dict",
            [[{"k": ["x"]}, {"k": ["y"]}]],
            ["a=[{'k': 'x'}, {'k': 'y'}]"],
            ["a=[{'k': 'y'}, {'k': 'x'}]", "a=[{'k': 'x'}]", "a=[]", "a=['x', 'y']"],
        ),
        ("any", ["x"], ["a='X'", "a=x"], ["a=1", "a=['x']"]),
        # Where the answers have a text for what is no text, a variable is meant, and each letter counts.
        ("integer", ["count"], ["a='count'", "a=count"], ["a='Count'", "a=3"]),
    ],
)
def test_values_are_compared_by_type(kind, values, good, bad):
    assert [text for text in good if not accepts(kind, values, text)] == []
    assert [text for text in bad if accepts(kind, values, text)] == []


def test_optional_arguments_may_be_left_out_and_no_others():
    assert accepts("integer", [5, ""], "", required=())
    assert accepts("integer", [5, ""], "a=5", required=())
    assert not accepts("integer", [5, ""], "a=6", required=())
    assert not accepts("integer", [5, ""], "")
    assert not accepts("integer", [5], "", required=())


def test_parallel_calls_are_right_in_any_order_and_others_are_one():
    functions = [function("f", ["a"], a="integer"), function("g", ["b"], b="string")]
    possible = [{"f": {"a": [1]}}, {"g": {"b": ["x"]}}, {"f": {"a": [2]}}]
    for text in ("f(a=1), g(b='x'), f(a=2)", "[f(a=2), f(a=1), g(b='X')]"):
        assert right("live_parallel_multiple", text, functions, possible)
    for text in (
        "f(a=1), g(b='x')",
        "f(a=1), f(a=1), g(b='x')",
        "f(a=1), g(b='x'), f(a=2), f(a=2)",
        "f(a=1), g(b='x'), h(a=2)",
    ):
        assert not right("live_parallel_multiple", text, functions, possible)
    assert right("multiple", "g(b='x')", functions, possible[1:2])
    assert not right("multiple", "f(a=1)", functions, possible[1:2])
    assert not right("multiple", "g(b='x'), g(b='x')", functions, possible[1:2])
    assert not right("multiple", "h()", functions, [{"h": {}}])


def test_relevance_asks_for_any_call_and_irrelevance_for_none():
    for text in ("", "[]", "None fits.", "[3]", "f(", "x" * 10**6):
        assert right("irrelevance", text, [], [])
        assert not right("live_relevance", text, [], [])
    for text in ("f()", "[made.up(a=1)]"):
        assert not right("live_irrelevance", text, [], [])
        assert right("live_relevance", text, [], [])


def test_languages_follow_from_categories():
    assert [language_of(name) for name in ("simple_java", "simple_javascript", "live_simple")] == [
        "java",
        "javascript",
        "python",
    ]


# Writing -----------------------------------------------------------------------------------------------------------


def test_an_answer_has_the_first_value_that_is_right():
    functions = [function("f", ["a", "b"], a="integer", b="string", c="array of dict", d="float")]
    possible = [{"f": {"a": ["", 7], "b": [""], "c": ["", [{"k": ["x", "y"], "n": ["", 1]}]], "d": [2.5, ""]}}]
    assert answer("simple_python", functions, possible) == "[f(a=7, b='', d=2.5)]"
    possible[0]["f"]["c"].reverse()
    assert answer("simple_python", functions, possible) == "[f(a=7, b='', c=[{'k': 'x'}], d=2.5)]"


@pytest.mark.parametrize("values", [[], ["x"], [None]])
def test_where_no_value_is_right_there_is_no_answer(values):
    assert (
        answer("simple_python", [function("f", ["a"], a="array of integer")], [{"f": {"a": values, "b": [1]}}]) is None
    )


@foreign
@pytest.mark.parametrize(
    ("category", "kind", "values", "text"),
    [
        ("simple_java", "boolean", [True], "flag=true"),
        ("simple_java", "long", [5], "flag=5L"),
        ("simple_java", "float", [1.5], "flag=1.5f"),
        ("simple_java", "String", ["a b"], 'flag="a b"'),
        ("simple_java", "Array of integer", [[1, 2]], "flag=new int[]{1, 2}"),
        ("simple_java", "ArrayList of String", [["a", "b"]], 'flag=new ArrayList<>(Arrays.asList("a", "b"))'),
        ("simple_java", "HashMap", [{}], "flag=new HashMap<>()"),
        ("simple_javascript", "Boolean", [False], "flag=false"),
        ("simple_javascript", "Bigint", [5], "flag=5n"),
        ("simple_javascript", "array of String", [["a", "b"]], 'flag=["a", "b"]'),
        ("simple_javascript", "dict", [{"k": [1], "m": ["x"]}], 'flag={k: 1, m: "x"}'),
    ],
)
def test_answers_in_java_and_javascript(category, kind, values, text):
    functions, possible = [function("Owner.method", ["flag"], flag=kind)], [{"Owner.method": {"flag": values}}]
    assert answer(category, functions, possible) == f"[Owner.method({text})]"
    assert right(category, f"Owner.method({text})", functions, possible)
    assert not right(category, f"Owner.method({text}, extra=1)", functions, possible)
    assert not right(category, "Owner.method(flag=other)", functions, possible)
    assert not right(category, f"Owner.method(flag={text}", functions, possible)


@foreign
def test_a_java_text_is_cut_by_bytes_as_the_leaderboard_cuts_it():
    assert decode('[Owner.method(first="é", second="x")]', "java")[0][1] != {"first": "é", "second": "x"}
    assert decode('[Owner.method(first="é", second="x")]', "javascript") == [
        ("Owner.method", {"first": "é", "second": "x"})
    ]
    assert decode("[f(a=1, a=2)]", "javascript") is None


# Values of Java and JavaScript -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "items", "value"),
    [
        ("12", "integer", None, 12),
        ("1.5", "integer", None, "1.5"),
        ("-3.5F", "float", None, -3.5),
        ("3.5", "float", None, "3.5"),
        ("2e3", "double", None, 2000.0),
        ("5l", "long", None, 5),
        ("true", "boolean", None, True),
        ("TRUE", "boolean", None, "TRUE"),
        ("new int[]{1, 2}", "Array", "integer", [1, 2]),
        ("new Object[]{1, true, \"x\", 2.5}", "Array", None, [1, True, "x", 2.5]),
        ("{1, 2}", "Array", "integer", "{1, 2}"),
        ('new ArrayList<String>() {{ add("a"); add("b"); }}', "ArrayList", "String", ["a", "b"]),
        ("new ArrayList<>(Arrays.asList(1L, 2L))", "ArrayList", "long", [1, 2]),
        ("new ArrayList<>() {{}}}", "ArrayList", None, []),
        ("new ArrayList<>()", "ArrayList", None, []),
        ('new HashMap<String, Integer>() {{ put("a", 1); put("b", true); }}', "HashMap", None, {"a": 1, "b": True}),
        ("new HashMap<>() { }", "HashMap", None, {}),
        ("new HashMap<>(", "HashMap", None, "new HashMap<>("),
    ],
)  # fmt: skip
def test_java_values(text, kind, items, value):
    assert java_value(text, kind, items) == value
    assert type(java_value(text, kind, items)) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "items", "value"),
    [
        ("12", "integer", None, 12),
        ("12n", "Bigint", None, 12),
        ("1.5", "float", None, 1.5),
        ("false", "Boolean", None, False),
        ("'x'", "String", None, "x"),
        ("[1, 'two', true]", "array", None, [1, "two", True]),
        ("[1, 2]", "array", "float", [1.0, 2.0]),
        ("new Array(1, 2)", "array", None, [1, 2]),
        ("[[1, 2], [ 3]]", "array", "array", [[1, 2], [3]]),
        ("[[1], [2]", "array", None, ["[1"]),
        ("{'k': 1, m: [1, 2], n: {o: 'x'}}", "dict", None, {"k": 1, "m": [1, 2], "n": "{o: 'x"}),
        ("{}", "dict", None, {}),
        ("name", "dict", None, "name"),
    ],
)  # fmt: skip
def test_javascript_values(text, kind, items, value):
    assert javascript_value(text, kind, items) == value
    assert type(javascript_value(text, kind, items)) is type(value)


def test_types_without_values_are_refused():
    for kind in ("Set", "Queue", "string"):
        with pytest.raises(ValueError, match=kind):
            java_value("x", kind)
    with pytest.raises(ValueError, match="string"):
        javascript_value("x", "string")


HARD = (
    "new HashMap<>(){",
    "new HashMap<",
    ">(){",
    'put("',
    '",',
    " ",
    "new ArrayList<>(){{",
    "new ArrayList<>(Arrays.asList(",
    "add(",
    "new int[]{",
    "[[",
    "],[",
    "],",
    ",[",
    "new Array([",
    "{a:",
    "a:",
    ", ",
    "1,",
    "\n",
    "}",
    "]",
)


@pytest.mark.parametrize("unit", HARD)
def test_hard_texts_are_converted(unit):
    for head in ("", "new HashMap<>(){{", "new ArrayList<>(){{", "[[", "[", "{", 'new HashMap<>(){{ put("a",'):
        text = (head + unit * MAX_FOREIGN)[:MAX_FOREIGN]
        for tail in ("", "x", "}}", "]"):
            for kind in ("Array", "ArrayList", "HashMap"):
                java_value(text + tail, kind, None)
            for kind in ("array", "dict"):
                javascript_value(text + tail, kind, None)


def test_an_answer_need_not_be_hashable_or_json():
    possible = json.loads('[{"f": {"a": [[1, [2]], ""]}}]')
    assert not right("simple_python", "[f(a={'b': [1j, b'x', ...]})]", [function("f", a="array of integer")], possible)
