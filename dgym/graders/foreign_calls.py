"""Calls in Java and JavaScript: how they are read, and what their arguments are worth in Python.

As the Berkeley Function-Calling Leaderboard has it (package `bfcl-eval` 2026.3.23, Apache-2.0), written anew: its
parsers on top of tree-sitter, and its type converters. Its slower regular expressions are replaced by others that match
the same in a short time; what is odd there is odd here, such as that Java texts are cut by bytes.

Reading needs the packages `tree-sitter`, `tree-sitter-java` and `tree-sitter-javascript`; see `readable`.

What this module does not know: functions, what is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Final

MAX_FOREIGN: Final = 3_000
"""A longer answer in these languages has no calls."""

JAVA_TYPES: Final[Mapping[str, type]] = {
    "byte": int,
    "short": int,
    "integer": int,
    "float": float,
    "double": float,
    "long": int,
    "boolean": bool,
    "char": str,
    "Array": list,
    "ArrayList": list,
    "Set": set,
    "HashMap": dict,
    "Hashtable": dict,
    "Queue": list,
    "Stack": list,
    "String": str,
    "any": str,
}
"""The type in Python of a Java value, by what a function's description calls it."""

JAVASCRIPT_TYPES: Final[Mapping[str, type]] = {
    "String": str,
    "integer": int,
    "float": float,
    "Bigint": int,
    "Boolean": bool,
    "dict": dict,
    "array": list,
    "any": str,
}
"""The type in Python of a JavaScript value."""

# Reading ---------------------------------------------------------------------------------------------------------


def readable(language: str) -> bool:
    """Whether the packages are installed that reading calls of a language needs; Python needs none."""
    return language == "python" or all(find_spec(name) for name in ("tree_sitter", f"tree_sitter_{language}"))


@lru_cache(maxsize=2)
def _grammar(language: str) -> Any:
    import tree_sitter

    if language == "java":
        import tree_sitter_java

        return tree_sitter.Language(tree_sitter_java.language())
    import tree_sitter_javascript

    return tree_sitter.Language(tree_sitter_javascript.language())


def read_foreign(source: str, language: str) -> list[tuple[str, dict[str | None, Any]]] | None:
    """Reads the first call of a text, such as `Parser.read(file="a.txt", strict=true)`.

    Returns:
        A list with the call, all values as text; `None` where there is none.

    Raises:
        ValueError: If the text is not of the language, or an argument is given twice.
        RecursionError: If it is nested too deeply.
    """
    import tree_sitter

    if len(source) > MAX_FOREIGN:
        raise ValueError("too long")
    # A parser is made for each text: it may serve one thread only.
    root = tree_sitter.Parser(_grammar(language)).parse(source.encode()).root_node
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if node.is_error:
            raise ValueError(f"not {language}")
        nodes += node.children
    return _java_call(root, source) if language == "java" else _javascript_call(root)


def _java_call(root: Any, source: str) -> list[tuple[str, dict[str | None, Any]]] | None:
    def text(node: Any) -> str:
        return source[node.start_byte : node.end_byte]

    def written(node: Any, nested: bool) -> str:
        if node.type in ("string_literal", "character_literal"):
            return text(node) if nested else text(node)[1:-1]
        if node.type in ("identifier", "class_literal", "type_identifier", "method_invocation"):
            return text(node)
        if node.type == "array_creation_expression":
            kind, value = node.child_by_field_name("type"), node.child_by_field_name("value")
            return f"new {written(kind, True)}[]{written(value, True)}"
        if node.type == "object_creation_expression":
            kind, given = node.child_by_field_name("type"), node.child_by_field_name("arguments")
            parts = [written(child, True) for child in given.children if child.type not in (",", "(", ")")]
            return f"new {written(kind, True)}({', '.join(parts)})"
        if node.child_count:
            return "".join([written(child, True) for child in node.children])
        return text(node)

    def first(node: Any) -> list[tuple[str, dict[str | None, Any]]] | None:
        if node.type == "method_invocation":
            name, owner = text(node.child_by_field_name("name")), node.child_by_field_name("object")
            arguments: dict[str | None, Any] = {}
            for child in node.child_by_field_name("arguments").children:
                if child.type == "assignment_expression":
                    _add(arguments, text(child.children[0]), written(child.children[2], False))
                elif child.type in ("identifier", "class_literal"):
                    _add(arguments, None, written(child, False))
            return [(f"{text(owner)}.{name}" if owner else name, arguments)]
        for child in node.children:
            found = first(child)
            if found:
                return found
        return None

    return first(root)


def _javascript_call(root: Any) -> list[tuple[str, dict[str | None, Any]]] | None:
    for statement in root.children:
        for node in statement.children if statement.type == "expression_statement" else ():
            if node.type != "call_expression":
                continue
            arguments: dict[str | None, Any] = {}
            for child in node.children[1].children:
                if child.type == "assignment_expression":
                    value = child.children[2].text.decode()
                    quoted = any(value.startswith(mark) and value.endswith(mark) for mark in ('"', "'"))
                    _add(arguments, child.children[0].text.decode(), value[1:-1] if quoted else value)
                elif child.type in ("identifier", "true"):
                    _add(arguments, None, child.text.decode())
            return [(node.children[0].text.decode(), arguments)]
    return None


def _add(arguments: dict[str | None, Any], name: str | None, value: str) -> None:
    if name in arguments:
        raise ValueError("an argument is given twice")
    arguments[name] = value


# Java values -----------------------------------------------------------------------------------------------------

_JAVA_FLOAT = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?[fF]$")
_JAVA_DOUBLE = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$")
_JAVA_LONG = re.compile(r"-?\d+[lL]$")
_WHOLE = re.compile(r"-?\d+$")
_AS_LIST = re.compile(r"new\s++ArrayList<\w*+>\(Arrays\.asList\((.+?)\)\)")
_LIST_WITH_BODY = re.compile(r"new\s++ArrayList<\w*+>\(\)\s*+\{\{")
_LIST = re.compile(r"new\s++ArrayList<\w*+>\(\)")
_ADD = re.compile(r"add\((.+?)\)")
_ARRAY = re.compile(r"new\s++\w++\[\]\s*+\{(.*?)\}")
_MAP = re.compile(r"new\s++HashMap<")
_MAP_BODY = re.compile(r">\s*+\(\)\s*+\{\s*+\{?+\s*+")
_MAP_EMPTY = re.compile(r">\s*+\(\)")
_PUT = re.compile(r'put\("(.*?)",\s*+(.*?)\)')


def java_value(value: str, kind: str, items: str | None = None) -> Any:
    """Returns what a Java text of a type is worth; the text itself where it is not of that type.

    Args:
        value: Such as `new int[]{1, 2}`.
        kind: A key of `JAVA_TYPES`.
        items: The type of the items of a list.

    Raises:
        ValueError: If there is no such type, or nothing is known of how its values are written.
    """
    if kind in ("byte", "short", "integer"):
        return int(value) if _WHOLE.match(value) else value
    if kind == "float":
        return float(value.rstrip("\n")[:-1]) if _JAVA_FLOAT.match(value) else value
    if kind == "double":
        return float(value) if _JAVA_DOUBLE.match(value) else value
    if kind == "long":
        return int(value.rstrip("\n")[:-1]) if _JAVA_LONG.match(value) else value
    if kind == "boolean":
        return value == "true" if value in ("true", "false") else value
    if kind in ("char", "String", "any"):
        return value
    if kind == "ArrayList":
        return _java_list(value, items)
    if kind == "Array":
        found = _ARRAY.search(value)
        if found is None:
            return value
        parts = [part.strip() for part in found[1].split(",") if part.strip()]
        return [java_value(part, items) if items else _any_java(part) for part in parts]
    if kind == "HashMap":
        return _java_map(value)
    raise ValueError(f"no values are known of the Java type {kind!r}")


def _java_list(value: str, items: str | None) -> Any:
    def item(text: str) -> Any:
        if items in ("char", "String"):
            return text[1:-1]
        return java_value(text, items) if items else _any_java(text)

    found = _AS_LIST.search(value)
    if found:
        return [item(part.strip()) for part in found[1].split(",")]
    found = _LIST_WITH_BODY.search(value)
    if found:
        body = _body(value, found.end())
        if body is not None:
            return [item(part.strip()) for part in _ADD.findall(body)]
    return [] if _LIST.search(value) else value


def _body(value: str, start: int) -> str | None:
    r"""Returns what `\s*(.+?)\s*\}\}` would capture from `start` on."""
    place = len(value) - len(value[start:].lstrip())
    end = value.find("}}", place + 1)
    if end < 0:
        # One space may be all that there is.
        return value[place - 1] if place > start and value.startswith("}}", place) else None
    return value[place] + value[place + 1 : end].rstrip()


def _java_map(value: str) -> Any:
    head = _MAP.search(value)
    if head is None:
        return value
    body = _MAP_BODY.search(value, head.end())
    end = value.find("}", body.end()) if body else -1
    if body is not None and end >= 0:
        return {key: _any_java(text.strip()) for key, text in _PUT.findall(value[body.end() : end])}
    return {} if _MAP_EMPTY.search(value, head.end()) else value


def _any_java(text: str) -> Any:
    """Reads a Java value of a type that is not known."""
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    if _JAVA_LONG.match(text):
        return int(text[:-1])
    if _JAVA_FLOAT.match(text):
        return float(text[:-1])
    return _number(text)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# JavaScript values -----------------------------------------------------------------------------------------------

_SCRIPT_FLOAT = re.compile(r"-?\d+(?:\.\d+)?$")
_SCRIPT_BIG = re.compile(r"-?\d+n$")
_SCRIPT_ARRAY = re.compile(r"\[(.*?)\]|new\s++Array\((.*?)\)")
_ROWS = re.compile(r"\[\s*+\[|new\s++Array\(\s*+\[")
_NEXT_ROW = re.compile(r",\s*+\[")
_ROW = re.compile(r"\[(.*?)\]")
_SCRIPT_OBJECT = re.compile(r"\{(.*?)\}")
_PAIR = re.compile(r"([^:]+):\s*(.*?)(?:,\s*(?=[^,]+:)|$)")


def javascript_value(value: str, kind: str, items: str | None = None) -> Any:
    """Returns what a JavaScript text of a type is worth; the text itself where it is not of that type.

    Args:
        value: Such as `[1, 2]`.
        kind: A key of `JAVASCRIPT_TYPES`.
        items: The type of the items of an array.

    Raises:
        ValueError: If there is no such type.
    """
    if kind == "String":
        return value[1:-1] if _in_quotes(value) else value
    if kind == "integer":
        return int(value) if _WHOLE.match(value) else value
    if kind == "float":
        return float(value) if _SCRIPT_FLOAT.match(value) else value
    if kind == "Bigint":
        return int(value[:-1]) if _SCRIPT_BIG.match(value) else value
    if kind == "Boolean":
        return value == "true" if value in ("true", "false") else value
    if kind == "any":
        return value
    if kind == "dict":
        return _object(value.strip())
    if kind == "array":
        code = value.strip()
        try:
            return _array(code, items)
        except ValueError:
            return code
    raise ValueError(f"no values are known of the JavaScript type {kind!r}")


def _in_quotes(text: str) -> bool:
    return any(text.startswith(mark) and text.endswith(mark) for mark in ('"', "'"))


def _array(code: str, items: str | None) -> Any:
    rows = _rows(code)
    if rows is not None:
        inner = [row.strip() for row in _ROW.findall(rows)]
        inner[0] = inner[0].removeprefix("[")
        return [[_any_script(part) for part in row.split(",")] for row in inner]
    found = _SCRIPT_ARRAY.match(code)
    if found is None:
        return code
    text = (found[1] if found[1] is not None else found[2]).strip()
    parts = [part.strip() for part in text.split(",")] if text else []
    return [javascript_value(part, items) if items else _any_script(part) for part in parts]


def _rows(code: str) -> str | None:
    r"""Returns what `\[\s*\[.*?\]\s*(,\s*\[.*?\]\s*)*\]` matches at the start, or the same with `new Array(...)`.

    Rows are looked at from the back, so that no text takes long.
    """
    head = _ROWS.match(code)
    if head is None:
        return None
    closing = ")" if head[0].startswith("new") else "]"
    # Of a row that begins at a place: where the whole ends, by the first bracket in the line that will do.
    ends: list[int | None] = [None] * (len(code) + 1)
    for place in range(len(code) - 1, -1, -1):
        ends[place] = None if code[place] == "\n" else ends[place + 1]
        if code[place] != "]":
            continue
        after = len(code) - len(code[place + 1 :].lstrip())
        more = _NEXT_ROW.match(code, after)
        whole = ends[more.end()] if more else None
        if whole is None and code.startswith(closing, after):
            whole = after + 1
        ends[place] = ends[place] if whole is None else whole
    whole = ends[head.end()]
    return None if whole is None else code[:whole]


def _object(code: str) -> Any:
    if code == "{}":
        return {}
    found = _SCRIPT_OBJECT.match(code)
    if found is None:
        return code
    out = {}
    for key, text in _PAIR.findall(found[1]):
        value = text.strip()
        if value.startswith("[") and value.endswith("]"):
            item = javascript_value(value, "array")
        elif value.startswith("{") and value.endswith("}"):
            item = _object(value)
        else:
            item = _any_script(value.strip("'\""))
        out[key.strip().strip("'\"")] = item
    return out


def _any_script(text: str) -> Any:
    """Reads a JavaScript value of a type that is not known."""
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    return text[1:-1] if _in_quotes(text) else _number(text)
