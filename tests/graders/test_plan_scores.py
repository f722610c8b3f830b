"""Plans of tools: how they are read, and m&m's scores, by hand and against m&m's own way through programs as text."""

from __future__ import annotations

import ast
import json
import keyword
import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgym.domains.published.mnms_tools import TOOLS, validate
from dgym.graders.plan_scores import best_match, compare, labels, pooled, precision_recall_f1, tools_of
from dgym.graders.plans import MAX_CALLS, MAX_CHARACTERS, read_nodes, read_plan, show_code, show_json

CAPTION = ("image_captioning", {"image": "1.jpg"})
SUMMARY = ("text_summarization", {"text": "<node-0>.text"})
POSTER = ("image_generation", {"text": "a poster of <node-1>.text"})
PLAN = [CAPTION, SUMMARY, POSTER]

# Reading -----------------------------------------------------------------------------------------------------------

PROGRAM = """def solve():
    output0 = image_captioning(image="1.jpg")
    output1 = text_summarization(text=output0['text'])
    output2 = image_generation(text=f"a poster of {output1['text']}")
    result = {0: output0, 1: output1, 2: output2}
    return result"""
NODES = [
    {"id": 0, "name": "image captioning", "args": {"image": "1.jpg"}},
    {"id": 1, "name": "text summarization", "args": {"text": "<node-0>.text"}},
    {"id": 2, "name": "image generation", "args": {"text": "a poster of <node-1>.text"}},
]


@pytest.mark.parametrize(
    "text",
    [
        PROGRAM,
        f"```python\n{PROGRAM}\n```",
        f"```\n{PROGRAM}\n```",
        f"Here is the program:\n\n```py\n{PROGRAM}\n```\nIt has three calls.",
        f"Sure, this does it:\n{PROGRAM}\nI hope it helps.",
        "\n".join(line.strip() for line in PROGRAM.split("\n")[1:4]),
        PROGRAM.replace('image="1.jpg"', '\n        image="1.jpg",\n    '),
        PROGRAM.replace("output0", "caption").replace("output1", "short"),
        PROGRAM.replace("output0['text']", "output0.text"),
        PROGRAM.replace("f\"a poster of {output1['text']}\"", '"a poster of " + output1["text"]'),
        PROGRAM.replace("_", "\\_"),
        PROGRAM.replace("    result", "    if True:\n        print(output0)\n    result"),
        json.dumps(NODES),
        json.dumps({"nodes": NODES}, indent=2),
        repr(NODES),
        f"# RESULT #: {json.dumps({'nodes': NODES})}",
        f"The [3] calls are\n```json\n{json.dumps(NODES)}\n```",
        json.dumps([{**node, "id": node["id"] + 5} for node in NODES])
        .replace("node-1", "node-6")
        .replace("node-0", "node-5"),
        json.dumps(NODES).replace("image captioning", "image_captioning"),
        show_code(PLAN),
        show_json(PLAN),
    ],
)
def test_a_plan_is_read_from_programs_and_json(text):
    assert read_plan(text) == PLAN


def test_numbers_stand_as_text_whatever_the_notation():
    plan = [("get_year_fact", {"year": "1969"})]
    assert read_plan('output0 = get_year_fact(year="1969")') == plan
    assert read_plan("output0 = get_year_fact(year=1969)") == plan
    assert read_plan('[{"id": 0, "name": "get year fact", "args": {"year": 1969}}]') == plan


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no plan",
        "```python\n```",
        "image_captioning(image='1.jpg')",  # nothing keeps its output, as m&m's evaluator has it
        "output0 = obj.image_captioning(image='1.jpg')",
        "output0 = 3",
        "[]",
        "{}",
        "[1, 2]",
        '{"nodes": []}',
        '{"nodes": 3}',
        '[{"name": 3}]',
        '[{"name": "count", "args": [1]}]',
        json.dumps(NODES)[:-30],  # what is left of a plan is not taken for a shorter one
        show_json([CAPTION] * (MAX_CALLS + 1)),
        "x" * (MAX_CHARACTERS + 1),
    ],
)
def test_anything_else_is_no_plan(text):
    assert read_plan(text) is None


def test_published_plans_are_read_as_json_or_python_literals():
    assert read_nodes(json.dumps(NODES)) == read_nodes(repr(NODES)) == PLAN
    assert read_nodes('[{"id": 0, "name": "count", "args": None}]') == [("count", {})]
    assert read_nodes("a plan") is None


NAMES = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda name: not name.endswith("_"))
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "<node-" not in text),
    st.builds(
        "{}<node-{}>.{}{}".format, st.text("ab {}\"'\\\n", max_size=5), st.just(0), NAMES, st.text(' {}"', max_size=5)
    ),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=3), min_size=1, max_size=4))
def test_what_is_written_is_read(arguments):
    plan = [("tool", {} if not i else given) for i, given in enumerate([{}, *arguments])]
    assert read_plan(show_json(plan)) == plan
    if not any(keyword.iskeyword(name) for given in arguments for name in given):
        assert read_plan(show_code(plan)) == plan


PIECES = [
    "output0 = ",
    "f(",
    "x=",
    "'a'",
    ")",
    "\n",
    "[",
    "{",
    '"name": "f"',
    ",",
    "]",
    "}",
    "```",
    "python",
    "<node-0>.text",
    ":",
]


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)))
def test_reading_and_scoring_never_raise(text):
    plan = read_plan(text)
    assert set(compare(PLAN, plan)) == {
        f"{k}_{n}" for k in ("tool", "argument_name", "argument_value", "edge") for n in ("precision", "recall", "f1")
    }
    assert all(0 <= score <= 1 for score in compare(PLAN, plan).values())
    assert all(0 <= score <= 1 for score in pooled([(PLAN, plan)], tuple(TOOLS)).values())
    if plan is not None:
        validate(plan)


@pytest.mark.parametrize(
    "unit", ["[", "{", "(", "a(b=", "[{", '{"a":', "-", "a.", "f'{", "x = f(a=", "```", "1+", "not ", "\n", "'"]
)
def test_deep_and_long_texts_are_no_plans(unit):
    for text in (
        unit * 10**6,
        unit * (MAX_CHARACTERS // len(unit)),
        f"x = f(a={unit * 90}",
        f"x = f(a={unit * 1_900}1)",
    ):
        plan = read_plan(text)
        assert plan is None or compare(PLAN, plan)["tool_f1"] == 0


# Scores by hand ----------------------------------------------------------------------------------------------------


def test_labels_are_those_of_mnms():
    plan = [
        ("love_calculator", {"second_name": "Ulf", "first_name": "Ada"}),
        ("get_math_fact", {"number": "<node-0>.number"}),
    ]
    assert labels(plan, "tool") == [("love_calculator",), ("get_math_fact",)]
    assert labels(plan, "argument_name")[0] == ("love_calculator", "first_name", "second_name")
    assert labels(plan, "argument_value")[0] == ("love_calculator", "first_name=ada", "second_name=ulf")
    assert labels(plan, "edge") == [("love_calculator", "get_math_fact")]


def test_one_plan_is_compared_by_sets():
    # Two of three tools, one of two arguments right, one of two edges.
    plan = [CAPTION, ("text_summarization", {"text": "<node-0>.image"}), CAPTION]
    scores = compare(PLAN, plan)
    assert (scores["tool_precision"], scores["tool_recall"]) == (1, pytest.approx(2 / 3))
    assert scores["tool_f1"] == pytest.approx(0.8)
    assert scores["argument_name_precision"] == 1
    assert (scores["argument_value_precision"], scores["argument_value_recall"]) == (0.5, pytest.approx(1 / 3))
    assert (scores["edge_precision"], scores["edge_recall"]) == (0.5, 0.5)


def test_no_plan_has_nothing_and_one_call_has_no_edges():
    assert set(compare(PLAN, None).values()) == {0}
    assert set(compare([CAPTION], [CAPTION]).values()) == {1}
    assert compare([CAPTION], None)["edge_f1"] == 0
    assert precision_recall_f1(0, 0, 3) == (0, 0, 0)


def test_many_plans_are_pooled():
    pairs = [(PLAN, PLAN), ([CAPTION], [CAPTION, SUMMARY]), ([SUMMARY], None), ([CAPTION], [("unknown", {})])]
    scores = pooled(pairs, ("image_captioning", "text_summarization", "image_generation", "count"))
    # Captions: 2 of 2 given are right, 2 of 3 wanted; summaries: 1 of 2, 1 of 2; images: 1 of 1; count: none.
    assert scores["tool_macro_precision"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert scores["tool_macro_recall"] == pytest.approx((2 / 3 + 0.5 + 1 + 0) / 4)
    assert scores["tool_macro_f1"] == pytest.approx((0.8 + 0.5 + 1 + 0) / 4)
    # Four labels right of six given and six wanted.
    assert scores["argname_precision"] == scores["argname_recall"] == pytest.approx(4 / 6)
    assert scores["argvalue_f1"] == pytest.approx(4 / 6)
    assert (scores["edge_precision"], scores["edge_recall"]) == (pytest.approx(2 / 3), 1)
    assert scores["plan_tool_accuracy"] == scores["plan_argvalue_accuracy"] == 0.25
    # 1, 2·1/3, 0 and 0 of what is common.
    assert scores["tool_normalized_edit_distance"] == pytest.approx(1 - (1 + 2 / 3) / 4)
    assert pooled([], ("count",)) == {}


def test_the_nearest_alternative_is_the_first_with_the_highest_f1():
    near, far = [CAPTION, SUMMARY], [SUMMARY]
    assert best_match([far, near, PLAN], [CAPTION]) is near
    assert best_match([far, near], None) is far
    assert best_match([[CAPTION], [CAPTION, CAPTION]], [CAPTION]) == [CAPTION]


def test_plans_that_cannot_be_carried_out_are_told():
    assert validate(PLAN) == []
    faults = [
        ([], "no call"),
        ([("fly", {})], "no tool 'fly'"),
        ([("count", {})], "'objects' is missing"),
        ([("count", {"objects": "x", "image": "y"})], "no argument 'image'"),
        ([SUMMARY], "no earlier call"),
        ([CAPTION, ("count", {"objects": "<node-0>.objects"})], "no such output"),
        ([CAPTION, ("count", {"objects": "<node-?>.objects"})], "no earlier call"),
    ]
    for plan, text in faults:
        assert text in "; ".join(validate(plan))
    assert len(TOOLS) == 33
    assert sorted({tool.group for tool in TOOLS.values()}) == ["image", "model", "service"]


# Scores in m&m's own way -------------------------------------------------------------------------------------------
# A program is made of the nodes as text, parsed line by line, and labels are texts; then come scikit-learn's averages.


def as_program(nodes):
    lines = []
    for node in nodes:
        arguments = []
        for name, value in node["args"].items():
            if isinstance(value, str) and value.startswith("<node-") and " " not in value:
                number, field = re.fullmatch(r"<node-(\d+)>\.(.*)", value).groups()
                arguments.append(f"{name}=output{number}['{field}']")
            elif isinstance(value, str) and "<node-" in value:
                text = re.sub(r"<node-(\d+)>\.(\w+)", r"output\1['\2']", value).replace('"', '\\"')
                arguments.append(f'{name}=f"{text}"')
            else:
                text = value.replace('"', '\\"') if isinstance(value, str) else value
                arguments.append(f'{name}="{text}"')
        lines.append(f"output{node['id']} = {node['name'].replace(' ', '_')}({', '.join(arguments)})")
    return "\n".join(lines)


def calls_in(program):
    out = []
    for line in program.split("\n"):
        try:
            tree = ast.parse(line.strip())
        except SyntaxError:
            continue
        node = next((n for n in ast.walk(tree) if isinstance(n, ast.Assign)), None)
        if node is not None and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            out.append((node.value.func.id, {k.arg: ast.unparse(k.value) for k in node.value.keywords}))
    return out


def text_labels(program, kind):
    calls = calls_in(program)
    if kind == "edge":
        return [f"{a}--{b}" for (a, _), (b, _) in pairwise(calls)]
    out = []
    for name, arguments in calls:
        parts = [name]
        for argument in sorted(arguments):
            if kind == "argname":
                parts.append(argument)
            elif kind == "argvalue":
                parts.append(f"{argument}={arguments[argument].lower()}")
        out.append("--".join(parts))
    return out


def scores_of(truths, predictions, labels_):
    """Precision, recall and F1 of each label among two lists of labels, as scikit-learn counts them."""
    out = []
    for label in labels_:
        both = sum(t == p == label for t, p in zip(truths, predictions, strict=True))
        precision = both / predictions.count(label) if label in predictions else 0.0
        recall = both / truths.count(label) if label in truths else 0.0
        out.append((precision, recall, 2 * precision * recall / (precision + recall) if both else 0.0))
    return out


def indel_ratio(one, other):
    rows = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, rows[0] = rows[0], i
        for j, b in enumerate(other, 1):
            last, rows[j] = rows[j], last if a == b else 1 + min(rows[j], rows[j - 1])
    total = len(one) + len(other)
    return 1 - rows[-1] / total if total else 1.0


def as_mnms_evaluates(pairs):
    """Scores pairs of programs."""
    out = {}
    tools = list(TOOLS)
    for metric, kind in (("tool_macro", "tool"), ("argname", "argname"), ("argvalue", "argvalue"), ("edge", "edge")):
        truths, predictions = [], []
        for wanted, read in ((text_labels(a, kind), text_labels(b, kind)) for a, b in pairs):
            for label in {*wanted, *read}:
                number = (tools.index(label) + 1 if label in tools else 0) if metric == "tool_macro" else 1
                truths.append(number if label in wanted else 0)
                predictions.append(number if label in read else 0)
        found = scores_of(truths, predictions, range(1, 34) if metric == "tool_macro" else (1,))
        for index, name in enumerate(("precision", "recall", "f1")):
            out[f"{metric}_{name}"] = sum(scores[index] for scores in found) / len(found)
    for metric, kind in (("plan_tool", "tool"), ("plan_argname", "argname"), ("plan_argvalue", "argvalue")):
        out[f"{metric}_accuracy"] = sum(text_labels(a, kind) == text_labels(b, kind) for a, b in pairs) / len(pairs)
    numbers = [
        [[tools.index(t) + 1 if t in tools else 0 for t in text_labels(p, "tool")] for p in pair] for pair in pairs
    ]
    out["tool_normalized_edit_distance"] = 1 - sum(indel_ratio(b, a) for a, b in numbers) / len(numbers)
    return out


def drawn_nodes(rng):
    nodes = []
    for number in range(rng.choice((1, 2, 2, 3, 3, 3, 4))):
        tool = rng.choice([*TOOLS.values(), *list(TOOLS.values())[:6] * 3])
        arguments = {}
        for name in tool.inputs:
            sources = [(n["id"], o) for n in nodes for o in TOOLS[n["name"].replace(" ", "_")].outputs]
            plain = rng.choice(
                ["12.jpg", "A Fox at Dawn", 'the "old" mill', "it's 7 o'clock", 1999, "two, three", 3.5, True]
            )
            arguments[name] = plain
            if sources and rng.random() < 0.6:
                source, output = rng.choice(sources)
                arguments[name] = (
                    f"<node-{source}>.{output}" if rng.random() < 0.7 else f"a view of <node-{source}>.{output} now"
                )
        nodes.append({"id": number, "name": tool.name.replace("_", " "), "args": arguments})
    return nodes


def changed_nodes(nodes, rng):
    """Returns a plan that is the same, a little wrong or another one."""
    nodes = json.loads(json.dumps(nodes))
    change = rng.randrange(9)
    node = rng.choice(nodes)
    if change == 1:
        node["name"] = rng.choice([*TOOLS, "made up tool", "another made up tool"]).replace("_", " ")
    elif change == 2 and node["args"]:
        node["args"][rng.choice(list(node["args"]))] = rng.choice(
            ["other", "A FOX AT DAWN", 7, "<node-0>.text", "12.JPG"]
        )
    elif change == 3:
        node["args"]["extra"] = "x"
    elif change == 4 and node["args"]:
        node["args"].pop(rng.choice(list(node["args"])))
    elif change == 5 and len(nodes) > 1:
        nodes = [{**n, "id": i} for i, n in enumerate(nodes[:-1])]
    elif change == 6:
        nodes.append({"id": len(nodes), "name": "count", "args": {"objects": f"<node-{len(nodes) - 1}>.objects"}})
    elif change == 7:
        nodes = drawn_nodes(rng)
    elif change == 8:
        first, second = rng.randrange(len(nodes)), rng.randrange(len(nodes))
        nodes[first]["name"], nodes[second]["name"] = nodes[second]["name"], nodes[first]["name"]
    return nodes


@pytest.mark.parametrize("seed", range(5))
def test_the_scores_are_those_of_mnms_on_random_plans(seed):
    rng = random.Random(seed)
    wanted = [drawn_nodes(rng) for _ in range(200)]
    given = [changed_nodes(nodes, rng) if rng.random() < 0.95 else None for nodes in wanted]
    read = [
        (read_plan(json.dumps(a)), read_plan(json.dumps(b) if b else "no plan"))
        for a, b in zip(wanted, given, strict=True)
    ]
    theirs = as_mnms_evaluates([(as_program(a), as_program(b or [])) for a, b in zip(wanted, given, strict=True)])
    ours = pooled(read, tuple(TOOLS))
    assert ours == pytest.approx(theirs)
    assert 0.2 < ours["plan_tool_accuracy"] < 0.9
    for (reference, plan), a, b in zip(read, wanted, given, strict=True):
        single = compare(reference, plan)
        apart = as_mnms_evaluates([(as_program(a), as_program(b or []))])
        assert single["argument_value_f1"] == pytest.approx(apart["argvalue_f1"])
        assert (tools_of(reference) == tools_of(plan or ())) == bool(apart["plan_tool_accuracy"])


def test_programs_score_as_their_nodes_do():
    rng = random.Random(9)
    wanted = [drawn_nodes(rng) for _ in range(150)]
    programs = [as_program(changed_nodes(nodes, rng)) for nodes in wanted]
    theirs = as_mnms_evaluates([(as_program(a), b) for a, b in zip(wanted, programs, strict=True)])
    read = [
        (read_plan(json.dumps(a)), read_plan(f"```python\ndef solve():\n{indented(b)}\n```"))
        for a, b in zip(wanted, programs, strict=True)
    ]
    ours = pooled(read, tuple(TOOLS))
    # Of an output within a text, a program as m&m's writes it keeps no more than the letters.
    apart = {name for name in ours if not name.startswith(("argvalue", "plan_argvalue"))}
    assert {n: ours[n] for n in apart} == pytest.approx({n: theirs[n] for n in apart})


def indented(text):
    return "\n".join(f"    {line}" for line in text.split("\n"))
