"""Function calls: how they are read from an answer, and whether they are those that were asked for.

This is the abstract-syntax match of the Berkeley Function-Calling Leaderboard (Patil et al. 2025; package `bfcl-eval`
2026.3.23, Apache-2.0), `default_decode_ast_prompting` for reading and `ast_checker` for comparing, written anew. What
is odd there is odd here, so that scores agree: arguments by position are ignored, any unary operator counts as a minus,
a call without named arguments is a value as it stands, an empty list is right where an argument may be left out.
`tests/graders/bfcl_reference.py` compares the two.

Three things differ. An answer of more than `MAX_CHARACTERS` has no calls. Arithmetic in an argument is worked out only
where it is made of literals, and small; the original runs any expression that a model writes. Whatever the original
would stumble over, which ends its evaluation, is wrong here.

`answer` goes the other way: it writes an answer that is right, where there is one.

What this module does not know: problems, prompts, data sets. Java and JavaScript are read by
`dgym.graders.foreign_calls`.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from dgym.graders.foreign_calls import JAVA_TYPES, JAVASCRIPT_TYPES, java_value, javascript_value, read_foreign

Language = Literal["python", "java", "javascript"]
"""In which language the functions are."""

Call = tuple[str, dict[str | None, Any]]
"""A function's name and its named arguments."""

MAX_CHARACTERS: Final = 20_000
"""A longer answer has no calls."""

FAULTS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    StopIteration,
)
"""What reading and comparing may raise on an odd answer, beside `ValueError` and `SyntaxError`."""

_SOURCE: Final = "<answer>"
# An answer's invalid escapes are no concern of whoever reads the terminal.
warnings.filterwarnings("ignore", category=SyntaxWarning, module=_SOURCE)
warnings.filterwarnings("ignore", category=DeprecationWarning, module=_SOURCE)


def language_of(category: str) -> Language:
    """Returns the language of a category's functions."""
    return "javascript" if "javascript" in category else "java" if "java" in category else "python"


def right(category: str, response: str, functions: Sequence[Mapping[str, Any]], possible: Sequence[Any]) -> bool:
    """Whether an answer is right, as the leaderboard decides it for a category.

    Args:
        category: Such as `"live_parallel_multiple"`. In `irrelevance` it is right to call nothing, in `relevance` to
            call anything.
        response: Anything that a student may have written.
        functions: What can be called, each with `name` and `parameters`.
        possible: The calls that are asked for: `{name: {argument: [value that is right, ...]}}` each, where `""` among
            the values says that the argument may be left out. Empty for `irrelevance` and `relevance`.
    """
    if "relevance" in category:
        return bool(decode(response)) != ("irrelevance" in category)
    calls = decode(response, language_of(category))
    return calls is not None and matches(category, calls, functions, possible)


# Reading ---------------------------------------------------------------------------------------------------------


def decode(response: str, language: Language = "python") -> list[Call] | None:
    """Reads calls such as `[area(base=10, height=5), area(base=3, height=4)]`; `None` where that fails.

    Brackets may be missing, and backticks around all are ignored; any other text makes it fail.
    """
    if len(response) > MAX_CHARACTERS:
        return None
    text = response.strip("`\n ")
    text = text if text.startswith("[") else f"[{text}"
    text = text if text.endswith("]") else f"{text}]"
    try:
        return _read_python(text) if language == "python" else read_foreign(text[1:-1], language)
    except (*FAULTS, ValueError, SyntaxError):
        return None


def _read_python(text: str) -> list[Call]:
    parsed: Any = compile(text.strip().strip("'"), _SOURCE, "eval", ast.PyCF_ONLY_AST, dont_inherit=True)
    body: Any = parsed.body
    calls = [body] if isinstance(body, ast.Call) else body.elts
    if not all(isinstance(call, ast.Call) for call in calls):
        raise ValueError("not a list of calls")
    return [_call(call) for call in calls]


def _call(node: ast.Call) -> Call:
    parts: list[str] = []
    place: ast.expr = node.func
    while isinstance(place, ast.Attribute):
        parts.append(place.attr)
        place = place.value
    if isinstance(place, ast.Name):
        parts.append(place.id)
    return ".".join(reversed(parts)), {keyword.arg: _value(keyword.value) for keyword in node.keywords}


def _value(node: ast.expr | None) -> Any:
    match node:
        case ast.Constant(value=value):
            return "..." if value is Ellipsis else value
        case ast.UnaryOp(operand=ast.Constant(value=value)):
            return operator.neg(value)  # type: ignore[arg-type]  # of a text it raises, as it should
        case ast.List(elts=elements):
            return [_value(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(element) for element in elements)
        case ast.Dict(keys=keys, values=values):
            return {_value(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.BinOp():
            return _computed(node)
        case ast.Name(id=name):
            return name
        case ast.Call(keywords=[]):
            return ast.unparse(node)
        case ast.Call():
            name, arguments = _call(node)
            return {name: arguments}
        case ast.Subscript(value=value, slice=index):
            return f"{ast.unparse(value)}[{ast.unparse(index)}]"
    raise ValueError(f"a {type(node).__name__} is no value")


_OPERATORS: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.BitAnd: operator.and_,
}
_SIGNS: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Not: operator.not_,
}
_MOST: Final = 10_000  # digits, or items, of what arithmetic may yield


def _computed(node: ast.expr) -> Any:
    """Works out arithmetic on literals, as Python would."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=elements):
            return [_computed(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_computed(element) for element in elements)
        case ast.UnaryOp(op=op, operand=operand):
            return _SIGNS[type(op)](_computed(operand))
        case ast.BinOp(left=left, op=op, right=right):
            one, other = _computed(left), _computed(right)
            if not _small(op, one, other):
                raise ValueError("too large")
            return _OPERATORS[type(op)](one, other)
    raise ValueError(f"a {type(node).__name__} is not worked out")


def _small(op: ast.operator, one: Any, other: Any) -> bool:
    """Whether the result of an operation is of a modest size."""
    if isinstance(op, ast.Mod):
        return not isinstance(one, str | bytes)  # a format, which may ask for any width
    if isinstance(op, ast.Pow):
        return not isinstance(other, int) or abs(other) * _size(one) <= _MOST
    if isinstance(op, ast.LShift):
        return not isinstance(other, int) or other <= _MOST
    if isinstance(op, ast.Mult):
        times = [n for n in (one, other) if isinstance(n, int)]
        items = [n for n in (one, other) if not isinstance(n, int | float | complex)]
        return not times or not items or abs(times[0]) * _size(items[0]) <= _MOST
    return True


def _size(value: Any) -> int:
    if isinstance(value, int):
        return max(1, value.bit_length())
    return sum(map(_size, value)) if isinstance(value, list | tuple) else len(value) if hasattr(value, "__len__") else 1


# Comparing -------------------------------------------------------------------------------------------------------

PYTHON_TYPES: Final[Mapping[str, type]] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
"""The type of a value, by what a function's description calls it."""

_WITH_ITEMS: Final[Mapping[Language, tuple[str, ...]]] = {
    "python": ("array", "tuple"),
    "java": ("Array", "ArrayList", "array"),
    "javascript": ("Array", "ArrayList", "array"),
}
_TYPES: Final[Mapping[Language, Mapping[str, type]]] = {
    "python": PYTHON_TYPES,
    "java": JAVA_TYPES,
    "javascript": JAVASCRIPT_TYPES,
}
_FOREIGN_VALUE: Final = {"java": java_value, "javascript": javascript_value}


def matches(
    category: str, calls: Sequence[Call], functions: Sequence[Mapping[str, Any]], possible: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether calls are those that are asked for, in any order where the category is a parallel one.

    Calls are given out in the order of `possible`, each to the first that fits and is left, as the original does.
    """
    language = language_of(category)
    try:
        if len(calls) != len(possible):
            return False
        if "parallel" not in category:
            # A category without a choice has one function, which is meant whatever the answers call it.
            named = functions[0] if "multiple" not in category else _named(functions, possible[0])
            return _fits(named, calls[0], possible[0], language)
        left = list(calls)
        for wanted in possible:
            function = _named(functions, wanted)
            found = next((i for i, call in enumerate(left) if _fits(function, call, wanted, language)), None)
            if found is None:
                return False
            del left[found]
        return True
    except (*FAULTS, ValueError):
        return False


def _named(functions: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    by_name: dict[str, Mapping[str, Any]] = {function["name"]: function for function in reversed(functions)}
    return by_name[next(iter(wanted))]


def _fits(function: Mapping[str, Any], call: Call, wanted: Mapping[str, Any], language: Language) -> bool:
    """Whether one call is a function's, with all that it requires and with values that are right."""
    name, given = call
    known = function["parameters"]["properties"]
    possible: Mapping[str | None, Sequence[Any]] = next(iter(wanted.values()))
    if name != function["name"] or any(parameter not in given for parameter in function["parameters"]["required"]):
        return False
    for parameter, value in given.items():
        if parameter not in known or parameter not in possible:
            return False
        if not _value_fits(value, known[parameter], possible[parameter], language):
            return False
    return all(parameter in given or "" in values for parameter, values in possible.items())


def _value_fits(value: Any, details: Mapping[str, Any], possible: Sequence[Any], language: Language) -> bool:
    kind = details["type"]
    types = _TYPES[language]
    outer = types[kind]
    of_items = details["items"]["type"] if kind in _WITH_ITEMS[language] else None
    inner = None if of_items is None else types[of_items]
    if language != "python":
        if not isinstance(value, str):
            return False
        value = _FOREIGN_VALUE[language](value, kind, of_items)
    # JSON has made lists of all tuples among the answers, and may write a whole float as an integer.
    if kind == "tuple" and isinstance(value, tuple):
        value = list(value)
    if language == "python" and kind == "float" and type(value) is int:
        value = float(value)
    valid, variable = _typed(value, possible, outer, inner)
    if not valid:
        return False
    if variable:
        return value in possible
    if outer is dict:
        return any(_same_dict(value, one) for one in possible if one != "")
    if outer is list and inner is dict:
        return any(_same_dicts(value, one) for one in possible)
    if outer is str:
        return _standard(value) in [_standard(one) for one in possible if isinstance(one, str)]
    if outer is list:
        return [_standard(v) for v in value] in [[_standard(v) for v in one] for one in possible]
    return value in possible


def _typed(value: Any, possible: Sequence[Any], outer: type, inner: type | None) -> tuple[bool, bool]:
    """Whether a value is of a type, and whether it stands for a variable: what the answers have is of another type."""
    given = next((type(one) for one in possible if one != ""), None)
    variable = given is not None and given is not outer
    if type(value) is not outer:
        return (True, True) if given is not None and type(value) is given else (False, False)
    if inner is None:
        return True, variable
    # One level deep; an answer that is no list says nothing of items.
    items: Any = value
    nested = any(not isinstance(one, list) or all(_typed(v, one, inner, None)[0] for v in items) for one in possible)
    return nested, variable


_IGNORED = re.compile(r"[ ,./\-_*^]")


def _standard(value: Any) -> Any:
    """Returns a text without spaces, punctuation and case, so that `April 1, 2024` is `april 1 2024`."""
    return _IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _same_dict(value: Mapping[Any, Any], possible: Mapping[str, Sequence[Any]]) -> bool:
    for key, item in value.items():
        if key not in possible:
            return False
        if not isinstance(possible[key], list | str):
            raise TypeError("the answers of a key are no list")
        if _standard(item) not in [_standard(one) for one in possible[key]]:
            return False
    return all(key in value or "" in values for key, values in possible.items())


def _same_dicts(value: Sequence[Mapping[Any, Any]], possible: Sequence[Any]) -> bool:
    """Whether each dictionary is right, in this order."""
    return len(value) == len(possible) and all(
        one != "" and _same_dict(item, one) for item, one in zip(value, possible, strict=True)
    )


# Writing ---------------------------------------------------------------------------------------------------------


def answer(category: str, functions: Sequence[Mapping[str, Any]], possible: Sequence[Mapping[str, Any]]) -> str | None:
    """Writes calls that are right, each argument with the first value that is; `None` where no answer is.

    Args:
        category: Any but those of relevance and irrelevance.
        functions: As for `right`.
        possible: As for `right`.
    """
    language = language_of(category)
    calls = []
    for wanted in possible:
        name, choices = next(iter(wanted.items()))
        function = next((f for f in functions if f["name"] == name), functions[0])
        known, required = function["parameters"]["properties"], function["parameters"]["required"]
        arguments = []
        for parameter, values in choices.items():
            text = _argument(name, parameter, values, known.get(parameter), parameter in required, language)
            if text is None:
                return None
            arguments += [text] if text else []
        calls.append(f"{name}({', '.join(arguments)})")
    text = f"[{', '.join(calls)}]"
    return text if right(category, text, functions, possible) else None


def _argument(
    function: str,
    name: str,
    values: Sequence[Any],
    details: Mapping[str, Any] | None,
    required: bool,
    language: Language,
) -> str | None:
    """Writes an argument; nothing where it is left out, `None` where no value is right."""
    for value in values:
        if value == "" and not required:
            return ""
        for text in _texts(value, language) if details is not None else ():
            argument = f"{name}={text}"
            calls = decode(f"[{function}({argument})]", language)
            if calls and _quietly_fits(calls[0][1].get(name), details or {}, values, language):
                return argument
    return None


def _quietly_fits(value: Any, details: Mapping[str, Any], possible: Sequence[Any], language: Language) -> bool:
    try:
        return _value_fits(value, details, possible, language)
    except (*FAULTS, ValueError):
        return False


def _texts(value: Any, language: Language) -> Iterator[str]:
    """Yields ways in which a value among the answers may be written, the usual ones first."""
    plain = _plain(value)
    if language == "python":
        yield repr(value)
        yield repr(plain)
    elif isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, int | float):
        yield from (f"{value}{suffix}" for suffix in ("", "L", "f", "n"))
    elif isinstance(value, str):
        yield from (f'"{value}"', value, f"'{value}'")
    elif isinstance(value, list):
        for items in (", ".join(texts) for texts in zip(*(_few(item, language) for item in plain), strict=False)):
            if language == "javascript":
                yield f"[{items}]"
            else:
                yield from (f"new {kind}[]{{{items}}}" for kind in ("int", "String", "Object"))
                yield f"new ArrayList<>(Arrays.asList({items}))"
                if isinstance(plain[0], str):
                    # Quotes within an array count as characters of its texts, unless the whole stands in quotes.
                    yield f'"new String[]{{{", ".join(map(str, plain))}}}"'
        if not value:
            yield from ("[]", "new Object[]{}", "new ArrayList<>()")
    elif isinstance(value, dict):
        for texts in zip(*(_few(item, language) for item in plain.values()), strict=False):
            pairs = dict(zip(plain, texts, strict=True))
            if language == "javascript":
                yield f"{{{', '.join(f'{key}: {text}' for key, text in pairs.items())}}}"
            else:
                puts = " ".join(f'put("{key}", {text});' for key, text in pairs.items())
                # The original drops the body of a new object, except within a call.
                yield f"Collections.unmodifiableMap(new HashMap<String, Object>() {{{{ {puts} }}}})"
        if not plain:
            yield from ("{}", "new HashMap<>()")


def _few(value: Any, language: Language) -> list[str]:
    """Returns four ways of writing a value, the last repeated where there are fewer."""
    texts = list(_texts(value, language))[:4] or [repr(value)]
    return (texts + texts[-1:] * 4)[:4]


def _plain(value: Any) -> Any:
    """Returns a value among the answers with one choice for each key of a dictionary, the first."""
    if isinstance(value, dict):
        chosen = {key: item[0] if isinstance(item, list) and item else item for key, item in value.items()}
        return {key: _plain(item) for key, item in chosen.items() if item != ""}
    return [_plain(item) for item in value] if isinstance(value, list) else value
