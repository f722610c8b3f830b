r"""Plans as texts: calls whose arguments may be outputs of earlier calls, as m&m's writes them.

As JSON, `{"nodes": [{"id": 0, "name": "image_captioning", "args": {"image": "1.jpg"}}, ...]}`, or as a program:

    def solve():
        output0 = image_captioning(image="1.jpg")
        output1 = text_generation(text=f"a story about {output0['text']}")
        result = {0: output0, 1: output1}
        return result

Either may stand in a fence or among other text. Of a program, the calls count whose output is assigned to a name, by
their named arguments, as m&m's evaluator has it (Ma et al. 2024). The output of call k, from 0, stands in a value as
`<node-k>.text`, whatever number or name it was given; numbers stand as text.

What this module does not know: tools, and what is right.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from dgym.graders.plan_scores import Plan

MAX_CHARACTERS: Final = 20_000
"""A longer text is no plan."""

MAX_CALLS: Final = 50
"""A text with more calls is no plan."""

NODE: Final = re.compile(r"<node-(\w{1,9})>")
"""An output within a value."""

_SOURCE: Final = "<plan>"
# A plan's invalid escapes are no concern of whoever reads the terminal.
warnings.filterwarnings("ignore", category=SyntaxWarning, module=_SOURCE)
warnings.filterwarnings("ignore", category=DeprecationWarning, module=_SOURCE)

_FENCE: Final = re.compile(r"```[^\n`]*+\n?(.*?)```", re.DOTALL)
_OPENING: Final = re.compile(r"[\[{]")
_TRIES: Final = 20
_UNREADABLE: Final = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)

# Writing ---------------------------------------------------------------------------------------------------------


def show_json(plan: Plan) -> str:
    """Writes a plan as JSON."""
    nodes = [{"id": number, "name": tool, "args": dict(arguments)} for number, (tool, arguments) in enumerate(plan)]
    return json.dumps({"nodes": nodes}, ensure_ascii=False)


def show_code(plan: Plan) -> str:
    """Writes a plan as a program in Python."""
    lines = ["def solve():"]
    for number, (tool, arguments) in enumerate(plan):
        given = ", ".join(f"{name}={_literal(value)}" for name, value in arguments.items())
        lines.append(f"    output{number} = {tool}({given})")
    outputs = ", ".join(f"{number}: output{number}" for number in range(len(plan)))
    return "\n".join([*lines, f"    result = {{{outputs}}}", "    return result"])


_OUTPUT: Final = re.compile(r"<node-(\d+)>\.(\w+)")


def _literal(value: str) -> str:
    whole = _OUTPUT.fullmatch(value)
    if whole:
        return f"output{whole[1]}['{whole[2]}']"
    if not _OUTPUT.search(value):
        return json.dumps(value, ensure_ascii=False)
    parts, place = [], 0
    for found in _OUTPUT.finditer(value):
        parts += [_escaped(value[place : found.start()]), f"{{output{found[1]}['{found[2]}']}}"]
        place = found.end()
    return f'f"{"".join(parts)}{_escaped(value[place:])}"'


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("{", "{{").replace("}", "}}")


# Reading ---------------------------------------------------------------------------------------------------------


def read_plan(text: str) -> Plan | None:
    """Reads a plan as JSON or as a program; `None` for a text that is none."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.replace("\\_", "_")  # as models write names for Markdown
    fenced = [found[1] for found in islice(_FENCE.finditer(text), _TRIES)]
    for part in (*fenced, text):
        for read in (_from_json, _from_code):
            plan = read(part)
            if plan:
                return plan if len(plan) <= MAX_CALLS else None
    return None


def read_nodes(text: str) -> Plan | None:
    """Reads nothing but a list of nodes, as JSON or as Python writes it; `None` for anything else."""
    for read in (json.loads, _python_literal):
        try:
            return _from_nodes(read(text))
        except _UNREADABLE:
            continue
    return None


def _python_literal(text: str) -> Any:
    return ast.literal_eval(compile(text.strip(), _SOURCE, "eval", ast.PyCF_ONLY_AST, dont_inherit=True))


def _from_json(text: str) -> Plan | None:
    decoder = json.JSONDecoder()
    place = 0
    for number in range(_TRIES):
        found = _OPENING.search(text, place)
        if found is None:
            return None
        start = found.start()
        try:
            value, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            place = start + 1
            if number:
                continue
            closing = max(text.rfind("]"), text.rfind("}"))
            plan = read_nodes(text[start : closing + 1])
        else:
            # A node by itself is a plan, unless it is what is left of a longer one.
            plan = _from_nodes(value) if isinstance(value, list) or "nodes" in value or not number else None
        if plan:
            return plan
    return None


def _from_nodes(value: Any) -> Plan | None:
    nodes = value.get("nodes", [value]) if isinstance(value, dict) else value
    if not isinstance(nodes, list):
        return None
    numbers: dict[str, int] = {}
    for number, node in enumerate(nodes):
        if not isinstance(node, dict) or not isinstance(node.get("name"), str):
            return None
        if not isinstance(node.get("args") or {}, dict):
            return None
        numbers[str(node.get("id", number))] = number

    def text(given: Any) -> str:
        return NODE.sub(lambda found: f"<node-{numbers.get(found[1], '?')}>", str(given))

    try:
        return [
            (node["name"].strip().replace(" ", "_"), {str(k): text(v) for k, v in (node.get("args") or {}).items()})
            for node in nodes
        ]
    except RecursionError:
        return None


def _from_code(text: str) -> Plan | None:
    try:
        statements = [*_assignments(text)]
    except _UNREADABLE:
        # Line by line, as m&m's evaluator reads all programs.
        statements = []
        for line in text.split("\n"):
            try:
                statements += islice(_assignments(line.strip()), 1)
            except _UNREADABLE:
                continue
    numbers: dict[str, int] = {}
    plan: list[Any] = []
    for name, call in statements:
        tool: Any = call.func
        try:
            arguments = {k.arg: _value(k.value, numbers) for k in call.keywords if k.arg is not None}
        except _UNREADABLE:
            return None
        numbers[name] = len(plan)
        plan.append((tool.id, arguments))
    return plan or None


def _assignments(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Yields the names to which outputs of calls are assigned, with the calls, in the order of the text.

    Raises:
        SyntaxError: If it is no Python.
    """
    tree = compile(source.strip("\n"), _SOURCE, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    for node in sorted(found, key=lambda node: (node.lineno, node.col_offset)):
        match node:
            case ast.Assign(targets=[ast.Name(id=name), *_], value=ast.Call(func=ast.Name()) as call):
                yield name, call


def _value(node: ast.expr, numbers: Mapping[str, int]) -> str:
    match node:
        case ast.Constant(value=value):
            return str(value)
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(field))) if name in numbers:
            return f"<node-{numbers[name]}>.{field}"
        case ast.Attribute(value=ast.Name(id=name), attr=field) if name in numbers:
            return f"<node-{numbers[name]}>.{field}"
        case ast.Name(id=name) if name in numbers:
            return f"<node-{numbers[name]}>"
        case ast.JoinedStr(values=parts):
            return "".join([_value(part, numbers) for part in parts])
        case ast.FormattedValue(value=value):
            return _value(value, numbers)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, numbers) + _value(right, numbers)
    return ast.unparse(node)
