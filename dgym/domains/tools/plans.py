r"""Plans: how they are written down, read, checked against a catalogue and compared.

    weather(city=Oslo, day=Monday); translate(text=$1, language=French)

Calls are separated by `"; "` and numbered from 1 in their order; `$k` is the output of call k. A value of
letters, digits and `. : - _` stands bare, any other in double quotes, with `\"` and `\\` inside. Readers are more
tolerant: see `parse_plan`.

What this module does not know: requests, prompts, splits.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dgym.domains.tools.catalogue import ACCEPTS, CATALOGUE, Tool, fits
from dgym.graders.plan_scores import precision_recall_f1

MAX_CHARACTERS: Final = 20_000
"""A longer response is no plan."""

MAX_CALLS: Final = 50
"""A response with more calls is no plan."""


@dataclass(frozen=True, slots=True)
class Ref:
    """The output of another call.

    Attributes:
        call: The call's number, from 1; 0 or less where a response names a call that it does not have.
    """

    call: int


@dataclass(frozen=True, slots=True)
class Call:
    """One use of a tool.

    Attributes:
        tool: The tool's name, which need not be in any catalogue.
        arguments: Names and values, in the order given.
    """

    tool: str
    arguments: tuple[tuple[str, str | Ref], ...]


Plan = tuple[Call, ...]
"""Calls in order."""

_BARE = re.compile(r"[\w.:-]+")


def show(plan: Plan) -> str:
    """Writes a plan in the notation of this module."""
    return "; ".join(f"{c.tool}({', '.join([f'{n}={_show(v)}' for n, v in c.arguments])})" for c in plan)


def _show(value: str | Ref) -> str:
    if isinstance(value, Ref):
        return f"${value.call}"
    if _BARE.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# Reading ---------------------------------------------------------------------------------------------------------

# Possessive quantifiers throughout: no text takes more than linear time.
_SPACE = re.compile(r"[\s;]*+")
_FENCE = re.compile(r"```\w*+\n(.*?)```", re.DOTALL)
_HEAD = re.compile(r"(?:\d{1,3}+[.)]\s++)?+(?:\$?(\w++)\s*+=\s*+)?+([A-Za-z_]\w*+)\s*+\(\s*+")
_NAME = re.compile(r"([A-Za-z_]\w*+)\s*+[=:]\s*+")
_VALUE = re.compile(
    r'"((?:[^"\\]++|\\.)*+)"' r"|'((?:[^'\\]++|\\.)*+)'" r"|(<node-\d{1,9}+>(?:\.\w++)?+)" r"|([^,;()\"'=<>\n]++)",
    re.DOTALL,
)
_AFTER = re.compile(r"\s*+(,|\))\s*+")
_NODE = re.compile(r"<node-(\d{1,9})>(?:\.\w+)?")
_OUTPUT = re.compile(r"\$(\d{1,9})(?:\.\w+)?")


def parse_plan(text: str, catalogue: Mapping[str, Tool] = CATALOGUE) -> Plan | None:
    r"""Reads a plan; `None` for a text that is none.

    Beside the notation of this module it takes calls on lines of their own, numbered lines, values in single
    quotes, arguments by position, assignments whose names later calls use (`r1 = weather(city=Oslo)`), a fence of
    three backticks around all, and m&m's lists in JSON (Ma et al. 2024): `[{"id": 0, "name": "weather", "args":
    {"city": "Oslo"}}, ...]` with references such as `"<node-0>.text"`.

    Args:
        text: Anything that a student may have written.
        catalogue: Gives the names of arguments by position.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    fence = _FENCE.search(text)
    text = (fence[1] if fence else text).strip()
    if text.startswith(("[", "{")):
        return _from_json(text)
    return _from_calls(text, catalogue)


def _from_calls(text: str, catalogue: Mapping[str, Tool]) -> Plan | None:
    numbers: dict[str, int] = {}
    calls: list[tuple[str, list[tuple[str, str, bool]]]] = []
    place = 0
    while place < len(text):
        head = _HEAD.match(text, place)
        if head is None or len(calls) == MAX_CALLS:
            return None
        found = _arguments(text, head.end(), list(catalogue[head[2]].parameters) if head[2] in catalogue else [])
        if found is None:
            return None
        arguments, end = found
        calls.append((head[2], arguments))
        if head[1] is not None:
            numbers[head[1]] = len(calls)
        space = _SPACE.match(text, end)
        place = space.end() if space else end

    def value(given: str, bare: bool) -> str | Ref:
        output = _OUTPUT.fullmatch(given)
        if output is not None:
            return Ref(int(output[1]))
        node = _NODE.fullmatch(given)
        if node is not None:
            return Ref(int(node[1]) + 1)
        # Before a name counts as a file's, `r1.text` may be a field of a call's output.
        name = given.partition(".")[0]
        return Ref(numbers[name]) if bare and name in numbers else given

    return tuple(Call(tool, tuple((n, value(v, bare)) for n, v, bare in given)) for tool, given in calls) or None


def _arguments(text: str, place: int, parameters: Sequence[str]) -> tuple[list[tuple[str, str, bool]], int] | None:
    """Returns names and values, each with whether it stood bare, and where the call ends."""
    out: list[tuple[str, str, bool]] = []
    if text.startswith(")", place):
        return out, place + 1
    while len(out) < MAX_CALLS:
        name = _NAME.match(text, place)
        value = _VALUE.match(text, name.end() if name else place)
        after = value and _AFTER.match(text, value.end())
        if value is None or not after:
            return None
        given = name[1] if name else parameters[len(out)] if len(out) < len(parameters) else f"argument{len(out) + 1}"
        quoted = value[1] if value[1] is not None else value[2]
        if quoted is not None:
            out.append((given, re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL), False))
        else:
            out.append((given, (value[3] or value[4]).strip(), True))
        place = after.end()
        if after[1] == ")":
            return out, place
    return None


def _from_json(text: str) -> Plan | None:
    try:
        nodes = json.loads(text)
        return _from_nodes(nodes.get("nodes", [nodes]) if isinstance(nodes, dict) else nodes)
    except (ValueError, RecursionError):
        return None


def _from_nodes(nodes: Any) -> Plan | None:
    if not isinstance(nodes, list) or not 0 < len(nodes) <= MAX_CALLS:
        return None
    numbers: dict[str, int] = {}
    for number, node in enumerate(nodes, 1):
        if not isinstance(node, dict) or not isinstance(node.get("name"), str):
            return None
        if not isinstance(node.get("args", {}), dict):
            return None
        numbers[str(node.get("id", number - 1))] = number

    def value(given: Any) -> str | Ref:
        if not isinstance(given, str):
            return json.dumps(given)
        reference = _NODE.fullmatch(given)
        if reference is not None:
            return Ref(numbers.get(reference[1], 0))
        output = _OUTPUT.fullmatch(given)
        return Ref(int(output[1])) if output is not None else given

    return tuple(Call(n["name"], tuple((k, value(v)) for k, v in n.get("args", {}).items())) for n in nodes)


# Checking --------------------------------------------------------------------------------------------------------


def validate(plan: Plan, catalogue: Mapping[str, Tool] = CATALOGUE) -> list[str]:
    """Returns what is wrong with a plan, in words: nothing where it could be carried out.

    Tools must be known, required arguments given, no others but optional ones, each once; a given value must fit
    its parameter's type, and a reference must point back to an output of a fitting type.
    """
    out = [] if plan else ["the plan has no call"]
    for number, call in enumerate(plan, 1):
        tool = catalogue.get(call.tool)
        if tool is None:
            out.append(f"call {number}: there is no tool {call.tool!r}")
            continue
        where = f"call {number} ({call.tool})"
        given = Counter(name for name, _ in call.arguments)
        out += [f"{where}: the argument {name!r} is missing" for name in tool.required if name not in given]
        out += [f"{where}: the argument {name!r} is given {count} times" for name, count in given.items() if count > 1]
        for name, value in call.arguments:
            kind = tool.parameters.get(name)
            if kind is None:
                out.append(f"{where}: it takes no argument {name!r}")
            elif not isinstance(value, Ref):
                if not fits(value, kind):
                    out.append(f"{where}: {name}={value[:40]!r} is no {kind}")
            elif not 0 < value.call < number:
                out.append(f"{where}: {name} refers to ${value.call}, which is no earlier call")
            else:
                source = catalogue.get(plan[value.call - 1].tool)
                if source is not None and source.returns not in ACCEPTS.get(kind, {kind}):
                    out.append(f"{where}: {name} needs {kind}, and ${value.call} is {source.returns}")
    return out


# Comparing -------------------------------------------------------------------------------------------------------


def tools_of(plan: Plan) -> tuple[str, ...]:
    """Returns the names of the tools, in order."""
    return tuple(call.tool for call in plan)


def normal(value: str | Ref) -> str:
    """Returns a value without what makes no difference: case, outer space, zeros in front of numbers and times."""
    if isinstance(value, Ref):
        return f"${value.call}"
    text = " ".join(value.split()).casefold()
    if re.fullmatch(r"\d{1,15}", text):
        return str(int(text))
    if re.fullmatch(r"\d{1,15}\.\d{1,15}", text):
        return text.lstrip("0").rstrip("0").rstrip(".") or "0"
    return f"0{text}" if re.fullmatch(r"\d:\d\d", text) else text


def same(one: Plan, other: Plan) -> bool:
    """Whether two plans make the same calls with the same arguments; the order of arguments makes no difference."""
    return _normal(one) == _normal(other)


def _normal(plan: Plan) -> list[tuple[str, list[tuple[str, str]]]]:
    return [(c.tool, sorted((name, normal(value)) for name, value in c.arguments)) for c in plan]


def _labels(plan: Plan) -> Iterator[tuple[str, Counter[tuple[str, ...]]]]:
    arguments = [(c.tool, name, value) for c in plan for name, value in c.arguments]
    yield "tool", Counter((c.tool,) for c in plan)
    yield "argument_name", Counter((tool, name) for tool, name, _ in arguments)
    yield "argument_value", Counter((tool, name, normal(value)) for tool, name, value in arguments)
    ends = [(plan[v.call - 1].tool, t) for t, _, v in arguments if isinstance(v, Ref) and 0 < v.call <= len(plan)]
    yield "edge", Counter(ends)


def compare(reference: Plan, plan: Plan | None) -> dict[str, float]:
    """Measures a plan against the reference, by name, each in [0, 1].

    Precision, recall and F1 of `tool`, `argument_name`, `argument_value` and `edge`, as in m&m's (Ma et al. 2024,
    "m&m's: A Benchmark to Evaluate Tool-Use for multi-step multi-modal Tasks"), and `plan_exact`. Differences
    from m&m's own evaluator: the labels of one plan are compared with their multiplicity, where it pools the sets of
    all plans; a label is one (tool, argument) pair or one (tool, argument, value) triple, where it takes
    all arguments of a call together; an edge joins a tool with one that consumes its output, where it
    joins neighbours in the plan. A reference as a value is the number of the call.

    Where neither plan has labels of a kind, precision, recall and F1 are 1. No plan at all has 0 everywhere.
    """
    out: dict[str, float] = {}
    for (kind, wanted), (_, given) in zip(_labels(reference), _labels(plan or ()), strict=True):
        hits = (wanted & given).total()
        empty = float(plan is not None and not wanted and not given)
        precision, recall, f1 = precision_recall_f1(hits, given.total(), wanted.total(), empty)
        out[f"{kind}_precision"], out[f"{kind}_recall"], out[f"{kind}_f1"] = precision, recall, f1
    out["plan_exact"] = float(plan is not None and same(reference, plan))
    return out
