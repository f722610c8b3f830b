"""Small pieces that code problems are composed of: each has words, an expression, and what it computes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dgym.domains.forms import Slot


@dataclass(frozen=True)
class Piece:
    """An operation or a condition on one value `x`, perhaps with a number `n`.

    Attributes:
        words: How a sentence says it; `{n}` is the number.
        code: The expression, with `{x}` and `{n}`.
        compute: What it means, of `(x, n)`: written apart from `code`, so that each checks the other.
    """

    words: str
    code: str
    compute: Callable[[Any, int], Any]


Choice = tuple[str, int]
"""Name of a piece and its number; 0 where it takes none."""

OPERATIONS: Final[Mapping[str, Piece]] = {
    "plus": Piece("plus {n}", "{x} + {n}", lambda x, n: x + n),
    "minus": Piece("minus {n}", "{x} - {n}", lambda x, n: x - n),
    "times": Piece("times {n}", "{x} * {n}", lambda x, n: x * n),
    "over": Piece("divided by {n} rounded down", "{x} // {n}", lambda x, n: (x - x % n) // n),
    "modulo": Piece("modulo {n}", "{x} % {n}", lambda x, n: x % n),
    "squared": Piece("squared", "{x} ** 2", lambda x, _: x * x),
    "negated": Piece("negated", "-{x}", lambda x, _: 0 - x),
}

CONDITIONS: Final[Mapping[str, Piece]] = {
    "greater": Piece("greater than {n}", "{x} > {n}", lambda x, n: x > n),
    "less": Piece("less than {n}", "{x} < {n}", lambda x, n: x < n),
    "least": Piece("at least {n}", "{x} >= {n}", lambda x, n: not x < n),
    "most": Piece("at most {n}", "{x} <= {n}", lambda x, n: not x > n),
    "multiple": Piece("a multiple of {n}", "{x} % {n} == 0", lambda x, n: x == n * round(x / n)),
    "other": Piece("different from {n}", "{x} != {n}", lambda x, n: x != n),
    "even": Piece("even", "{x} % 2 == 0", lambda x, _: x & 1 == 0),
    "odd": Piece("odd", "{x} % 2 == 1", lambda x, _: x & 1 == 1),
    "positive": Piece("positive", "{x} > 0", lambda x, _: x > 0),
    "negative": Piece("negative", "{x} < 0", lambda x, _: x < 0),
}


def draw(pieces: Mapping[str, Piece], rng: random.Random, most: int = 20) -> Choice:
    """Draws a piece, with a number from 2 to `most` where it takes one."""
    name = rng.choice(list(pieces))
    return name, rng.randint(2, most) if "{n}" in pieces[name].words else 0


def slot(pieces: Mapping[str, Piece]) -> Slot:
    """Returns the slot that says one of the pieces."""
    patterns = {name: re.compile(re.escape(p.words).replace(r"\{n\}", r"(\d+)")) for name, p in pieces.items()}

    def read(text: str) -> Choice:
        for name, pattern in patterns.items():
            match = pattern.fullmatch(text)
            if match:
                number = int(match[1]) if match.groups() else 0
                if match.groups() and not 2 <= number <= 99:
                    raise ValueError("a number out of range")
                return name, number
        raise ValueError(text)

    union = "|".join(
        re.escape(p.words).replace(r"\{n\}", r"\d{1,2}")
        for p in sorted(pieces.values(), key=lambda p: len(p.words), reverse=True)
    )
    return Slot(f"(?:{union})", read, lambda choice, _: pieces[choice[0]].words.format(n=choice[1]))


def code(pieces: Mapping[str, Piece], choice: Choice, x: str) -> str:
    """Returns the expression of a piece on the expression `x`."""
    return pieces[choice[0]].code.format(x=x, n=choice[1])


def compute(pieces: Mapping[str, Piece], choice: Choice, x: Any) -> Any:
    """Computes a piece on a value."""
    return pieces[choice[0]].compute(x, choice[1])
