"""The kinds of function that the domain `code` asks for: twelve skills with three structures each.

A structure has sentences with slots, a body that solves it, and a meaning in Python that is written apart from
the body, so that the two check each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

from dgym.domains.code.phrases import CONDITIONS, OPERATIONS, code, compute, draw, slot
from dgym.domains.forms import NUMBER, Forms, Slot, one_of

Values = Mapping[str, Any]
"""What stands in the slots of a sentence, by name."""


@dataclass(frozen=True)
class Structure:
    """One kind of function.

    Attributes:
        skill: The skill that it belongs to.
        name: What it is, in a few words; unique within the skill.
        parameters: Names and types of the function's parameters: `int`, `ints`, `str`, `words`, `counts`, `rows`.
        forms: The sentences.
        draw: Draws values for the slots.
        body: Writes a body of `f` that solves it.
        meaning: Computes the result, from values and arguments.
        combination: Names what comes together in it.
    """

    skill: str
    name: str
    parameters: tuple[tuple[str, str], ...]
    forms: Forms
    draw: Callable[[random.Random], Values]
    body: Callable[[Values], str]
    meaning: Callable[..., Any]
    combination: Callable[[Values], str]


OP: Final = slot(OPERATIONS)
IF: Final = slot(CONDITIONS)

_X = (("x", "int"),)
_XY = (("x", "int"), ("y", "int"))
_XS = (("xs", "ints"),)
_XS_YS = (("xs", "ints"), ("ys", "ints"))
_S = (("s", "str"),)
_WORDS = (("words", "words"),)
_D = (("d", "counts"),)
_ROWS = (("rows", "rows"),)

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LETTER = Slot("[a-z]", str, lambda v, _: str(v))


def _number(most: int = 20, least: int = 2) -> Callable[[random.Random], int]:
    return lambda rng: rng.randint(least, most)


def _op(rng: random.Random) -> Any:
    return draw(OPERATIONS, rng)


def _if(rng: random.Random) -> Any:
    return draw(CONDITIONS, rng)


def _letter(rng: random.Random) -> str:
    return rng.choice(_LETTERS)


def _among(names: Mapping[Any, Any]) -> Callable[[random.Random], Any]:
    keys = list(names)
    return lambda rng: rng.choice(keys)


def _do(v: Values, name: str, x: Any) -> Any:
    return compute(OPERATIONS, v[name], x)


def _holds(v: Values, name: str, x: Any) -> bool:
    return bool(compute(CONDITIONS, v[name], x))


def _op_code(v: Values, name: str, x: str) -> str:
    return code(OPERATIONS, v[name], x)


def _if_code(v: Values, name: str, x: str) -> str:
    return code(CONDITIONS, v[name], x)


def _structure(
    skill: str,
    name: str,
    parameters: tuple[tuple[str, str], ...],
    sentences: tuple[str, ...],
    places: Mapping[str, tuple[Slot, Callable[[random.Random], Any]]],
    body: Callable[[Values], str],
    meaning: Callable[..., Any],
) -> Structure:
    def values(rng: random.Random) -> Values:
        return {place: pick(rng) for place, (_, pick) in places.items()}

    def combination(v: Values) -> str:
        # Which pieces come together, whatever their numbers.
        parts = [v[p][0] if isinstance(v[p], tuple) else v[p] for p in places if not isinstance(v[p], int)]
        return "|".join((skill, name, *map(str, parts)))

    forms = Forms(*sentences, **{place: slot_ for place, (slot_, _) in places.items()})
    return Structure(skill, name, parameters, forms, values, body, meaning, combination)


_N = (NUMBER, _number())
_SMALL = (NUMBER, _number(9, 1))
_WIDE = (NUMBER, _number(30))
_OP = (OP, _op)
_IF = (IF, _if)
_CHAR = (_LETTER, _letter)

_JOIN: Mapping[str, str] = {"+": "plus", "-": "minus"}
_SIGN = (one_of(_JOIN), _among(_JOIN))

_PART: Mapping[str, str] = {"sum": "sum", "max": "largest number", "min": "smallest number", "len": "length"}
_PARTS = (one_of(_PART), _among(_PART))
_PART_CODE = {"sum": "sum(r)", "max": "max(r)", "min": "min(r)", "len": "len(r)"}
_PART_DOES: Mapping[str, Callable[[list[int]], int]] = {
    "sum": lambda r: reduce(lambda a, b: a + b, r, 0),
    "max": lambda r: sorted(r)[-1],
    "min": lambda r: sorted(r)[0],
    "len": lambda r: reduce(lambda a, _: a + 1, r, 0),
}

_LAST: Mapping[str, str] = {
    "plain": "as it is",
    "reversed": "reversed",
    "sorted": "in rising order",
    "falling": "in falling order",
    "twice": "twice over",
}
_LASTS = (one_of(_LAST), _among(_LAST))
_LAST_CODE = {
    "plain": "{}",
    "reversed": "({})[::-1]",
    "sorted": "sorted({})",
    "falling": "sorted({}, reverse=True)",
    "twice": "({}) * 2",
}


def _quoted(text: str, letter: str) -> str:
    return text.format(f'"{letter}"')


def _last(name: str, xs: list[Any]) -> list[Any]:
    out = list(xs)
    if name == "reversed":
        out.reverse()
    elif name in ("sorted", "falling"):
        out.sort()
        if name == "falling":
            out.reverse()
    elif name == "twice":
        out += xs
    return out


_CASE: Mapping[str, str] = {
    "upper": "in upper case",
    "lower": "in lower case",
    "backwards": "backwards",
    "swapped": "with upper and lower case swapped",
    "capital": "capitalised",
}
_CASES = (one_of(_CASE), _among(_CASE))
_CASE_CODE = {
    "upper": "{}.upper()",
    "lower": "{}.lower()",
    "backwards": "{}[::-1]",
    "swapped": "{}.swapcase()",
    "capital": "{}.capitalize()",
}


def _case(name: str, s: str) -> str:
    if name == "backwards":
        return "".join(reversed(s))
    if name == "swapped":
        return "".join(c.lower() if c.isupper() else c.upper() for c in s)
    if name == "capital":
        return "".join(c.lower() if i else c.upper() for i, c in enumerate(s))
    return "".join(c.upper() if name == "upper" else c.lower() for c in s)


_ORDER: Mapping[str, str] = {"up": "in rising order", "down": "in falling order"}
_ORDERS = (one_of(_ORDER), _among(_ORDER))
_ORDER_CODE = {"up": "", "down": ", reverse=True"}

_WORD_KEY: Mapping[str, str] = {"length": "length", "last": "last letter", "second": "part after the first letter"}
_WORD_KEYS = (one_of(_WORD_KEY), _among(_WORD_KEY))
_WORD_KEY_CODE = {"length": "len(w)", "last": "w[-1]", "second": "w[1:]"}
_WORD_KEY_DOES: Mapping[str, Callable[[str], Any]] = {
    "length": lambda w: sum(1 for _ in w),
    "last": lambda w: w[len(w) - 1],
    "second": lambda w: "".join(c for i, c in enumerate(w) if i),
}

_MEMBER: Mapping[str, str] = {"in": "also in ys", "out": "not in ys"}
_MEMBERS = (one_of(_MEMBER), _among(_MEMBER))
_MEMBER_CODE = {"in": "in", "out": "not in"}


def _keep(v: Values, x: int, ys: list[int]) -> bool:
    return bool((ys.count(x) > 0) == (v["m"] == "in"))


def _flat(rows: list[list[int]]) -> list[int]:
    out: list[int] = []
    for row in rows:
        out += row
    return out


def _stable(xs: list[Any], key: Callable[[Any], Any], down: bool) -> list[Any]:
    """Sorts by insertion, equal keys in their order: not the way that a solution would."""
    out: list[Any] = []
    for x in xs:
        place = len(out)
        while place and (key(out[place - 1]) < key(x) if down else key(out[place - 1]) > key(x)):
            place -= 1
        out.insert(place, x)
    return out


def _grow(v: Values, x: int) -> int:
    while not x > v["n"]:
        x = x + v["k"]
    return int(_do(v, "p", x))


def _halve(v: Values, x: int) -> int:
    steps = 0
    while x > v["n"]:
        x, steps = (x - x % v["k"]) // v["k"], steps + 1
    return int(_do(v, "p", steps))


def _descend(v: Values, x: int) -> int:
    total = 0
    while x > v["n"]:
        total, x = total + _do(v, "p", x), x - v["k"]
    return int(total + v["b"])


STRUCTURES: Final[tuple[Structure, ...]] = (
    # arithmetic -----------------------------------------------------------------------------------------------
    _structure(
        "arithmetic",
        "one number",
        _X,
        (
            "Return {a} times x, {op}.",
            "Multiply x by {a}; return that {op}.",
            "Compute {a} times x and return it {op}.",
            "Take x times {a}, then {op}.",
            "The result is {a} times x, then {op}.",
        ),
        {"a": _N, "op": _OP},
        lambda v: "return " + _op_code(v, "op", f"({v['a']} * x)"),
        lambda v, x: _do(v, "op", sum(x for _ in range(v["a"]))),
    ),
    _structure(
        "arithmetic",
        "two numbers",
        _XY,
        (
            "Return {a} times x {sign} {b} times y.",
            "Compute x times {a} {sign} y times {b}.",
            "The result is {a} x {sign} {b} y.",
            "Take {a} times x {sign} {b} times y.",
            "Weigh x by {a} and return it {sign} y weighed by {b}.",
        ),
        {"a": _N, "sign": _SIGN, "b": _N},
        lambda v: f"return {v['a']} * x {v['sign']} {v['b']} * y",
        lambda v, x, y: x * v["a"] + (y if v["sign"] == "+" else -y) * v["b"],
    ),
    _structure(
        "arithmetic",
        "each first",
        _XY,
        (
            "Return x {p} times the result of y {q}.",
            "Multiply x {p} by y {q}.",
            "The product of x {p} and y {q}.",
            "Take x {p}, take y {q}, and return the product.",
            "Compute the product: x {p}, times y {q}.",
        ),
        {"p": _OP, "q": _OP},
        lambda v: f"return ({_op_code(v, 'p', 'x')}) * ({_op_code(v, 'q', 'y')})",
        lambda v, x, y: _do(v, "q", y) * _do(v, "p", x),
    ),
    # conditionals ---------------------------------------------------------------------------------------------
    _structure(
        "conditionals",
        "two ways",
        _X,
        (
            "Return x {p} if x is {c}, else x {q}.",
            "If x is {c}, return x {p}, otherwise x {q}.",
            "When x is {c} the result is x {p}, else x {q}.",
            "Give x {p} for an x that is {c}; for any other, x {q}.",
            "Give x {q}, or x {p} where x is {c}.",
        ),
        {"p": _OP, "c": _IF, "q": _OP},
        lambda v: f"return {_op_code(v, 'p', 'x')} if {_if_code(v, 'c', 'x')} else {_op_code(v, 'q', 'x')}",
        lambda v, x: _do(v, "q", x) if not _holds(v, "c", x) else _do(v, "p", x),
    ),
    _structure(
        "conditionals",
        "fixed results",
        _X,
        (
            "Return {a} if x is {c}, else {b}.",
            "If x is {c}, return {a}, otherwise {b}.",
            "The result is {a} when x is {c}, and {b} when not.",
            "Give {a} for an x that is {c} and {b} for any other.",
            "An x that is {c} gives {a}; any other gives {b}.",
        ),
        {"a": _N, "c": _IF, "b": _N},
        lambda v: f"return {v['a']} if {_if_code(v, 'c', 'x')} else {v['b']}",
        lambda v, x: (v["b"], v["a"])[_holds(v, "c", x)],
    ),
    _structure(
        "conditionals",
        "limits",
        _X,
        (
            "Return x {p}, but at least {a}.",
            "Return x {p}, or {a} if that is less.",
            "The result is x {p}, never below {a}.",
            "Compute x {p}; if it is below {a}, return {a}.",
            "Take x {p}, with {a} as the lower limit.",
        ),
        {"p": _OP, "a": _N},
        lambda v: f"return max({_op_code(v, 'p', 'x')}, {v['a']})",
        lambda v, x: _do(v, "p", x) if _do(v, "p", x) > v["a"] else v["a"],
    ),
    # strings --------------------------------------------------------------------------------------------------
    _structure(
        "strings",
        "replace",
        _S,
        (
            "Return s {c} after replacing every {a} by {b}.",
            "Replace each {a} in s by {b}; return it {c}.",
            "Put {b} for every {a} in s and return the text {c}.",
            "Give s with {b} instead of {a}, {c}.",
            "Exchange {a} for {b} everywhere in s, then return it {c}.",
        ),
        {"c": _CASES, "a": _CHAR, "b": _CHAR},
        lambda v: "return " + _CASE_CODE[v["c"]].format(_quoted("s.replace({}, ", v["a"]) + _quoted("{})", v["b"])),
        lambda v, s: _case(v["c"], "".join(v["b"] if ch == v["a"] else ch for ch in s)),
    ),
    _structure(
        "strings",
        "cut and repeat",
        _S,
        (
            "Return the first {a} characters of s {c}, {b} times.",
            "Take the first {a} characters of s, write them {c}, and repeat that {b} times.",
            "Cut s after {a} characters; return it {c} and repeated {b} times.",
            "The beginning of s up to {a} characters, {c}, {b} times over.",
            "Repeat {b} times the first {a} characters of s {c}.",
        ),
        {"a": _N, "c": _CASES, "b": _N},
        lambda v: "return " + _CASE_CODE[v["c"]].format(f"s[:{v['a']}]") + f" * {v['b']}",
        lambda v, s: "".join(_case(v["c"], "".join(ch for i, ch in enumerate(s) if i < v["a"])) for _ in range(v["b"])),
    ),
    _structure(
        "strings",
        "count letters",
        _S,
        (
            "Return how often {a} occurs in s, {op}.",
            "Count the letter {a} in s; return that {op}.",
            "The number of {a} in s, {op}.",
            "Find how many times s has {a} and return it {op}.",
            "Take the count of {a} in s, then {op}.",
        ),
        {"a": _CHAR, "op": _OP},
        lambda v: "return " + _op_code(v, "op", _quoted("s.count({})", v["a"])),
        lambda v, s: _do(v, "op", len([ch for ch in s if ch == v["a"]])),
    ),
    # lists ----------------------------------------------------------------------------------------------------
    _structure(
        "lists",
        "both ends",
        _XS,
        (
            "Return the first {a} and the last {b} elements of xs together, {z}.",
            "Join the first {a} elements of xs and its last {b}; return that {z}.",
            "Take {a} elements from the start of xs and {b} from the end, {z}.",
            "The list of the first {a} and the last {b} elements of xs, {z}.",
            "Append the last {b} elements of xs to the first {a}; give it {z}.",
        ),
        {"a": _WIDE, "b": _WIDE, "z": _LASTS},
        lambda v: "return " + _LAST_CODE[v["z"]].format(f"xs[:{v['a']}] + xs[-{v['b']}:]"),
        lambda v, xs: _last(
            v["z"], [x for i, x in enumerate(xs) if i < v["a"]] + [x for i, x in enumerate(xs) if i >= len(xs) - v["b"]]
        ),
    ),
    _structure(
        "lists",
        "steps",
        _XS,
        (
            "Return every element of xs from index {a} on in steps of {k}, {z}.",
            "Start at index {a} of xs and take one element in {k}; return them {z}.",
            "From index {a}, take elements of xs in steps of {k}, {z}.",
            "The elements of xs at index {a} and every {k} further, {z}.",
            "Skip {a} elements of xs, then take one in {k}; give them {z}.",
        ),
        {"a": _SMALL, "k": _N, "z": _LASTS},
        lambda v: "return " + _LAST_CODE[v["z"]].format(f"xs[{v['a']}::{v['k']}]"),
        lambda v, xs: _last(v["z"], [x for i, x in enumerate(xs) if i >= v["a"] and (i - v["a"]) % v["k"] == 0]),
    ),
    _structure(
        "lists",
        "insert",
        _XS,
        (
            "Return xs with {a} in front and {b} at the end, {z}.",
            "Put {a} before xs and {b} after it; return that {z}.",
            "Add {a} at the start and {b} at the end of xs, {z}.",
            "The list of {a}, the elements of xs, and {b}, {z}.",
            "Place xs between {a} and {b}; give it {z}.",
        ),
        {"a": _WIDE, "b": _WIDE, "z": _LASTS},
        lambda v: "return " + _LAST_CODE[v["z"]].format(f"[{v['a']}] + xs + [{v['b']}]"),
        lambda v, xs: _last(v["z"], [v["a"], *xs, v["b"]]),
    ),
    # comprehensions -------------------------------------------------------------------------------------------
    _structure(
        "comprehensions",
        "map and filter",
        _XS,
        (
            "Return each number of xs that is {c}, {p}.",
            "For the numbers in xs that are {c}, list them {p}.",
            "List every x of xs {p}, where x is {c}.",
            "Keep what is {c} in xs; give each {p}.",
            "From xs take the numbers that are {c} and return each {p}.",
        ),
        {"c": _IF, "p": _OP},
        lambda v: f"return [{_op_code(v, 'p', 'x')} for x in xs if {_if_code(v, 'c', 'x')}]",
        lambda v, xs: [_do(v, "p", x) for x in filter(lambda x: _holds(v, "c", x), xs)],
    ),
    _structure(
        "comprehensions",
        "map with a choice",
        _XS,
        (
            "Return xs with each number {p} where it is {c}, and as it is elsewhere.",
            "In xs change the numbers that are {c} to themselves {p}; keep the others.",
            "List xs, every number that is {c} taken {p}.",
            "Give all of xs, but each that is {c} {p}.",
            "Return a list like xs in which each number that is {c} is taken {p}.",
        ),
        {"c": _IF, "p": _OP},
        lambda v: f"return [{_op_code(v, 'p', 'x')} if {_if_code(v, 'c', 'x')} else x for x in xs]",
        lambda v, xs: [(x, _do(v, "p", x))[_holds(v, "c", x)] for x in xs],
    ),
    _structure(
        "comprehensions",
        "filter twice",
        _XS,
        (
            "Return the numbers of xs that are {c} and {e}.",
            "List what in xs is both {c} and {e}.",
            "Keep the numbers of xs that are {c}, and of those what is {e}.",
            "From xs take the numbers that are {c} as well as {e}.",
            "Return xs without what is not {c} or not {e}.",
        ),
        {"c": _IF, "e": _IF},
        lambda v: f"return [x for x in xs if {_if_code(v, 'c', 'x')} and {_if_code(v, 'e', 'x')}]",
        lambda v, xs: list(filter(lambda x: _holds(v, "e", x), filter(lambda x: _holds(v, "c", x), xs))),
    ),
    # aggregates -----------------------------------------------------------------------------------------------
    _structure(
        "aggregates",
        "sum",
        _XS,
        (
            "Return the sum of each x in xs {p} where x is {c}.",
            "Add up the numbers of xs that are {c}, each {p}.",
            "The total of all numbers in xs that are {c}, each {p}.",
            "Sum over xs: x {p}, for every x that is {c}.",
            "Take each number of xs that is {c}, {p}, and return the sum.",
        ),
        {"p": _OP, "c": _IF},
        lambda v: f"return sum({_op_code(v, 'p', 'x')} for x in xs if {_if_code(v, 'c', 'x')})",
        lambda v, xs: reduce(lambda t, x: t + _do(v, "p", x) if _holds(v, "c", x) else t, xs, 0),
    ),
    _structure(
        "aggregates",
        "count",
        _XS,
        (
            "Count the x in xs for which x {p} is {c}.",
            "Return how many numbers of xs, taken {p}, are {c}.",
            "How many numbers in xs are {c} once they are {p}?",
            "The number of elements of xs that {p} are {c}.",
            "Take each number of xs {p} and count those that are {c}.",
        ),
        {"p": _OP, "c": _IF},
        lambda v: "return sum(" + _if_code(v, "c", f"({_op_code(v, 'p', 'x')})") + " for x in xs)",
        lambda v, xs: len([x for x in xs if _holds(v, "c", _do(v, "p", x))]),
    ),
    _structure(
        "aggregates",
        "largest",
        _XS,
        (
            "Return the largest x {p} over xs, or {a} if xs is empty.",
            "The maximum of xs with each number {p}; {a} for an empty list.",
            "Find the largest of the numbers in xs, each {p}, with {a} for none.",
            "Take each number of xs {p} and return the largest, by default {a}.",
            "Largest value of x {p} for x in xs, {a} when there is none.",
        ),
        {"p": _OP, "a": _N},
        lambda v: f"return max(({_op_code(v, 'p', 'x')} for x in xs), default={v['a']})",
        lambda v, xs: sorted(_do(v, "p", x) for x in xs)[-1] if xs else v["a"],
    ),
    # dictionaries ---------------------------------------------------------------------------------------------
    _structure(
        "dictionaries",
        "change values",
        _D,
        (
            "Return d with only the values that are {c}, each {p}.",
            "Keep the entries of d whose value is {c}; give each value {p}.",
            "A dictionary of the keys in d with a value that is {c}, and the value {p}.",
            "From d take what has a value that is {c} and map it to the value {p}.",
            "Return a dictionary like d of values {p}, only where the value is {c}.",
        ),
        {"c": _IF, "p": _OP},
        lambda v: f"return {{k: {_op_code(v, 'p', 'v')} for k, v in d.items() if {_if_code(v, 'c', 'v')}}}",
        lambda v, d: {k: _do(v, "p", d[k]) for k in d if _holds(v, "c", d[k])},
    ),
    _structure(
        "dictionaries",
        "look up",
        _D,
        (
            "Return the value of the key {a} in d, {p}; {n} if it is missing.",
            "Look up {a} in d and give the value {p}, or {n} without such a key.",
            "If d has the key {a}, return its value {p}, else {n}.",
            "The value under {a} in d {p}, by default {n}.",
            "Give {n} if {a} is no key of d, otherwise its value {p}.",
        ),
        {"a": _CHAR, "p": _OP, "n": _N},
        lambda v: (
            "return " + _op_code(v, "p", _quoted("d[{}]", v["a"])) + _quoted(" if {} in d else ", v["a"]) + str(v["n"])
        ),
        lambda v, d: next((_do(v, "p", value) for key, value in d.items() if key == v["a"]), v["n"]),
    ),
    _structure(
        "dictionaries",
        "make one",
        _XS,
        (
            "Return a dictionary from each number of xs that is {c} to that number {p}.",
            "Map each x of xs that is {c} to x {p}.",
            "Make a dictionary: for x in xs, if x is {c}, x leads to x {p}.",
            "Give a dictionary whose keys are what is {c} in xs and whose values are the keys {p}.",
            "For every number of xs that is {c} store the number {p} under it.",
        ),
        {"c": _IF, "p": _OP},
        lambda v: f"return {{x: {_op_code(v, 'p', 'x')} for x in xs if {_if_code(v, 'c', 'x')}}}",
        lambda v, xs: {x: _do(v, "p", x) for x in sorted(xs) if _holds(v, "c", x)},
    ),
    # loops ----------------------------------------------------------------------------------------------------
    _structure(
        "loops",
        "until",
        _X,
        (
            "Add {k} to x until it is above {n}; return it {p}.",
            "While x is at most {n}, increase it by {k}. Return x {p}.",
            "Raise x in steps of {k} until it exceeds {n}, then return x {p}.",
            "Keep adding {k} to x as long as it is not above {n}, then return it {p}.",
            "Take the first of x, x plus {k} and so on that is above {n}; return it {p}.",
        ),
        {"k": _N, "n": (NUMBER, _number(99)), "p": _OP},
        lambda v: f"while x <= {v['n']}:\n    x += {v['k']}\nreturn {_op_code(v, 'p', 'x')}",
        _grow,
    ),
    _structure(
        "loops",
        "count steps",
        _X,
        (
            "Count how often x must be divided by {k}, rounding down, until it is at most {n}; return that {p}.",
            "While x is above {n}, divide it by {k} rounding down; return the number of steps {p}.",
            "Find how many divisions by {k}, rounded down, bring x to {n} or less, and return it {p}.",
            "How many times can x be divided by {k}, rounding down, while it is above {n}? Return it {p}.",
            "Divide x by {k}, rounding down, until it is not above {n}; return how often, {p}.",
        ),
        {"k": _N, "n": _N, "p": _OP},
        lambda v: f"c = 0\nwhile x > {v['n']}:\n    x //= {v['k']}\n    c += 1\nreturn {_op_code(v, 'p', 'c')}",
        _halve,
    ),
    _structure(
        "loops",
        "running total",
        _X,
        (
            "Add up i {p} for each i from {a} below x that is {c}.",
            "Return the sum of i {p} over the range from {a} to x, x excluded, where i is {c}.",
            "For each i from {a} below x, if i is {c}, take i {p}; return the total.",
            "Loop i from {a} to one before x and sum up i {p} whenever i is {c}.",
            "The total of i {p}, where i runs from {a}, stops before x and is {c}.",
        ),
        {"p": _OP, "a": _N, "c": _IF},
        lambda v: (
            f"t = 0\nfor i in range({v['a']}, x):\n    if {_if_code(v, 'c', 'i')}:\n"
            f"        t += {_op_code(v, 'p', 'i')}\nreturn t"
        ),
        lambda v, x: sum(_do(v, "p", i) for i in range(max(x, 0)) if i >= v["a"] and _holds(v, "c", i)),
    ),
    # recursion ------------------------------------------------------------------------------------------------
    _structure(
        "recursion",
        "numbers",
        _X,
        (
            "Let f of x be {b} if x is at most {n}, else x {p} added to f of x minus {k}.",
            "Recursively: {b} for x up to {n}, otherwise x {p}, added to the result for x minus {k}.",
            "f is {b} where x is at most {n}; elsewhere it is x {p} added to f for x minus {k}.",
            "Return {b} when x is not above {n}, else add x {p} to f of x minus {k}.",
            "Define f by {b} up to {n} and beyond that by x {p} added to f at x minus {k}.",
        ),
        {"b": _N, "n": _N, "p": _OP, "k": _N},
        lambda v: f"return {v['b']} if x <= {v['n']} else ({_op_code(v, 'p', 'x')}) + f(x - {v['k']})",
        _descend,
    ),
    _structure(
        "recursion",
        "lists",
        _XS,
        (
            "Recursively take each number of xs {p} and add {b} at the end.",
            "For an empty xs return a list of {b}, else the first number {p} and then f of the rest.",
            "f is the list of {b} for no numbers; otherwise the first {p}, followed by f of the others.",
            "By recursion give xs with each number {p}, ending in {b}.",
            "Let f of an empty list be the list of {b}, and of xs its first number {p} before f of the rest.",
        ),
        {"p": _OP, "b": _N},
        lambda v: f"return [{_op_code(v, 'p', 'xs[0]')}] + f(xs[1:]) if xs else [{v['b']}]",
        lambda v, xs: [*(_do(v, "p", x) for x in xs), v["b"]],
    ),
    _structure(
        "recursion",
        "choose",
        _XS,
        (
            "Recursively add up what is {c} in xs, beginning with {b}.",
            "f of an empty xs is {b}; else f of the rest, plus the first number if it is {c}.",
            "By recursion return {b} plus all numbers of xs that are {c}.",
            "Let f be {b} for no numbers; otherwise add the first, if {c}, to f of the rest.",
            "Return {b} if xs is empty, else f of the rest plus the first number when that is {c}.",
        ),
        {"c": _IF, "b": _N},
        lambda v: f"return (xs[0] if {_if_code(v, 'c', 'xs[0]')} else 0) + f(xs[1:]) if xs else {v['b']}",
        lambda v, xs: v["b"] + sum(x for x in xs if _holds(v, "c", x)),
    ),
    # sorting --------------------------------------------------------------------------------------------------
    _structure(
        "sorting",
        "by an operation",
        _XS,
        (
            "Sort the numbers of xs that are {c} by x {p}, {o}.",
            "Return what is {c} in xs, sorted by the value of x {p}, {o}.",
            "Order the numbers of xs that are {c} by themselves {p}, {o}.",
            "Keep what is {c} in xs and put it in the order of x {p}, {o}.",
            "Give the numbers of xs that are {c}, {o} of x {p}.",
        ),
        {"c": _IF, "p": _OP, "o": _ORDERS},
        lambda v: (
            f"return sorted([x for x in xs if {_if_code(v, 'c', 'x')}], "
            f"key=lambda x: {_op_code(v, 'p', 'x')}{_ORDER_CODE[v['o']]})"
        ),
        lambda v, xs: _stable([x for x in xs if _holds(v, "c", x)], lambda x: _do(v, "p", x), v["o"] == "down"),
    ),
    _structure(
        "sorting",
        "by distance",
        _XS,
        (
            "Return the first {k} of xs sorted by distance from {n}, {o}.",
            "Sort xs by how far each number is from {n}, {o}, and return {k} of them.",
            "Order xs by the distance to {n}, {o}; keep the first {k}.",
            "Take {k} numbers of xs in the order of their distance from {n}, {o}.",
            "Give the {k} numbers that come first when xs is sorted by distance to {n}, {o}.",
        ),
        {"k": _N, "n": (NUMBER, _number(60)), "o": _ORDERS},
        lambda v: f"return sorted(xs, key=lambda x: abs(x - {v['n']}){_ORDER_CODE[v['o']]})[:{v['k']}]",
        lambda v, xs: [
            x
            for i, x in enumerate(_stable(xs, lambda x: x - v["n"] if x > v["n"] else v["n"] - x, v["o"] == "down"))
            if i < v["k"]
        ],
    ),
    _structure(
        "sorting",
        "words",
        _WORDS,
        (
            "Return the first {k} words sorted by their {w}, {o}, after {a}.",
            "Sort words by the {w} of each, {o}, and return {k} of them behind {a}.",
            "Order words by {w}, {o}; give {a} and then the first {k}.",
            "Take {a}, then {k} of the words in the order of their {w}, {o}.",
            "Put {a} before the {k} words that come first when sorted by {w}, {o}.",
        ),
        {"k": _N, "w": _WORD_KEYS, "o": _ORDERS, "a": _CHAR},
        lambda v: (
            _quoted("return [{}] + ", v["a"])
            + f"sorted(words, key=lambda w: {_WORD_KEY_CODE[v['w']]}{_ORDER_CODE[v['o']]})[:{v['k']}]"
        ),
        lambda v, words: [
            v["a"],
            *(w for i, w in enumerate(_stable(words, _WORD_KEY_DOES[v["w"]], v["o"] == "down")) if i < v["k"]),
        ],
    ),
    # sets -----------------------------------------------------------------------------------------------------
    _structure(
        "sets",
        "members",
        _XS_YS,
        (
            "Return each x in xs {p}, for those {m}.",
            "List the numbers of xs that are {m}, each {p}.",
            "From xs take what is {m} and give it {p}.",
            "Every number of xs {p}, provided it is {m}.",
            "Give x {p} for all x of xs that are {m}.",
        ),
        {"p": _OP, "m": _MEMBERS},
        lambda v: f"return [{_op_code(v, 'p', 'x')} for x in xs if x {_MEMBER_CODE[v['m']]} ys]",
        lambda v, xs, ys: [_do(v, "p", x) for x in xs if _keep(v, x, ys)],
    ),
    _structure(
        "sets",
        "sorted union",
        _XS_YS,
        (
            "Return the different numbers of xs and ys that are {c}, in rising order, the first {k}.",
            "Unite xs and ys, keep what is {c}, and return the smallest {k} in order.",
            "The {k} smallest different numbers in xs or ys that are {c}, sorted.",
            "Sort the union of xs and ys where the number is {c}; give the first {k}.",
            "From all different numbers of xs and ys that are {c} take the {k} smallest, sorted.",
        ),
        {"c": _IF, "k": _N},
        lambda v: f"return sorted(x for x in set(xs + ys) if {_if_code(v, 'c', 'x')})[:{v['k']}]",
        lambda v, xs, ys: [
            x
            for i, x in enumerate(_stable(list(dict.fromkeys(x for x in [*xs, *ys] if _holds(v, "c", x))), int, False))
            if i < v["k"]
        ],
    ),
    _structure(
        "sets",
        "count different",
        _XS,
        (
            "Count the different values of x {p} over xs, {q}.",
            "Return how many different values xs has with each number {p}; give that {q}.",
            "Take each number of xs {p}; return the number of different ones, {q}.",
            "The number of different results of x {p} for x in xs, {q}.",
            "How many different numbers are there in xs with each {p}? Return it {q}.",
        ),
        {"p": _OP, "q": _OP},
        lambda v: "return " + _op_code(v, "q", "len({" + _op_code(v, "p", "x") + " for x in xs})"),
        lambda v, xs: _do(v, "q", len(dict.fromkeys(_do(v, "p", x) for x in xs))),
    ),
    # nested lists ---------------------------------------------------------------------------------------------
    _structure(
        "nested",
        "per row",
        _ROWS,
        (
            "Return the {w} of each row in rows, {p}.",
            "For every row of rows give its {w} {p}.",
            "List the {w} of all rows, each {p}.",
            "Take each row's {w} {p} and return the list.",
            "From rows make a list of the {w} of each, {p}.",
        ),
        {"w": _PARTS, "p": _OP},
        lambda v: f"return [{_op_code(v, 'p', _PART_CODE[v['w']])} for r in rows]",
        lambda v, rows: [_do(v, "p", _PART_DOES[v["w"]](r)) for r in rows],
    ),
    _structure(
        "nested",
        "choose rows",
        _ROWS,
        (
            "Return the {w} of each row whose first number is {c}.",
            "For every row of rows that begins with a number that is {c}, list its {w}.",
            "List the {w} of the rows with a first number that is {c}.",
            "Keep rows whose first number is {c}; give the {w} of each.",
            "Where the first number of a row is {c}, take the {w}; return them all.",
        ),
        {"w": _PARTS, "c": _IF},
        lambda v: f"return [{_PART_CODE[v['w']]} for r in rows if {_if_code(v, 'c', 'r[0]')}]",
        lambda v, rows: [_PART_DOES[v["w"]](r) for r in rows if _holds(v, "c", next(iter(r)))],
    ),
    _structure(
        "nested",
        "flatten",
        _ROWS,
        (
            "Return all numbers in rows that are {c}, each {p}, in one list.",
            "Flatten rows, keep what is {c}, and give it {p}.",
            "One list of every number x in rows that is {c}, as x {p}.",
            "Go through rows and list each number that is {c} {p}.",
            "Put the numbers of all rows that are {c}, each {p}, into a single list.",
        ),
        {"c": _IF, "p": _OP},
        lambda v: f"return [{_op_code(v, 'p', 'x')} for r in rows for x in r if {_if_code(v, 'c', 'x')}]",
        lambda v, rows: [_do(v, "p", x) for x in _flat(rows) if _holds(v, "c", x)],
    ),
)
"""Every structure, skill by skill."""
