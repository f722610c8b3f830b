"""Math: procedural problems from reasoning-gym, small enough for a student of a million parameters.

Every skill is one reasoning-gym generator at a fixed difficulty (`KINDS`), with well over 5,000 distinct problems.
A problem's *fingerprint* is its operands in canonical order, without the sentence around them; a hash of the
fingerprint decides its split. An engine, or the script that trains the shipped students, thus stays out of
the other splits without ever holding them.

A response is correct when the library's own scorer gives 1.0 for it, stripped of surrounding white space; an
exception in the scorer is a wrong answer.

What this module does not know: who asks, what a teacher sees, how a student is trained.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from math import gcd, isqrt
from typing import Any

from dgym.core import Example, Problem
from dgym.domains.procedural import ProceduralDomain, Task, words_of
from dgym.errors import DomainError

_NUMBER = r"-?\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Parsed:
    """What a prompt says once its sentence is taken away.

    Attributes:
        operands: Canonical text of the operands, the problem's identity within its kind.
        answer: The answer, as reasoning-gym writes it.
        metadata: What the library's scorer needs beside the answer.
    """

    operands: str
    answer: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """One generator of reasoning-gym at a fixed difficulty.

    Attributes:
        generator: Its name in reasoning-gym, which is also the skill's name.
        config: Its parameters.
        pattern: Finds the operands in a prompt of this kind.
        parse: Turns that match into operands and answer; may raise `ValueError` or `ArithmeticError` when
            the text only looks like this kind.
    """

    generator: str
    config: Mapping[str, Any]
    pattern: re.Pattern[str]
    parse: Callable[[re.Match[str]], Parsed]


def _parsed(operands: object, answer: object, **metadata: object) -> Parsed:
    return Parsed(str(operands), str(answer), metadata)


def _sum(match: re.Match[str]) -> Parsed:
    left, sign, right = match[1], match[2], match[3]
    a, b = Decimal(left), Decimal(right)
    # Both operand orders of a sum are the same problem.
    key = f"{a}{sign}{b}" if sign == "-" or a <= b else f"{b}{sign}{a}"
    return _parsed(key, a + b if sign == "+" else a - b)


def _gcd(match: re.Match[str]) -> Parsed:
    a, b = sorted((int(match[1]), int(match[2])))
    return _parsed(f"{a},{b}", gcd(a, b))


def _filter(match: re.Match[str]) -> Parsed:
    verb, side, threshold = match[1].lower(), match[2], Decimal(match[3])
    numbers = re.findall(_NUMBER, match[4])
    larger = side == "larger"
    hit = [Decimal(n) > threshold if larger else Decimal(n) < threshold for n in numbers]
    kept = [n for n, h in zip(numbers, hit, strict=True) if h == (verb == "keep")]
    return _parsed(f"{verb} {side} {threshold}:{','.join(numbers)}", str(kept) if kept else "[]")


def _polygon(match: re.Match[str]) -> Parsed:
    sides = int(match[1])
    angles = [float(a) for a in re.findall(_NUMBER, match[2])]
    if len(angles) != sides - 1:
        raise ValueError("a polygon with another number of angles")
    key = ",".join(f"{a:g}" for a in sorted(angles))
    return _parsed(f"{sides}:{key}", round((sides - 2) * 180 - sum(angles)))


def _equation(match: re.Match[str]) -> Parsed:
    name, left, right = match[1], match[2], int(match[3])
    terms = re.findall(r"([+-]?)\s*(\d+|[a-z])\b", left)
    constant = sum(int(f"{s}{t}") for s, t in terms if t.isdigit())
    variables = [s for s, t in terms if t == name]
    if len(variables) != 1 or len(terms) != 2:
        raise ValueError("not an equation in one variable")
    sign = -1 if variables[0] == "-" else 1
    return _parsed(f"{'-' if sign < 0 else ''}x{constant:+d}={right}", sign * (right - constant))


@lru_cache(maxsize=1)
def _legs() -> dict[str, int]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    return dict(ANIMALS)


def _animals(match: re.Match[str]) -> Parsed:
    counts: Counter[str] = Counter()
    for count, name in re.findall(r"(\d+) ([a-z ]+)", match[1]):
        animal = name if name in _legs() else name.removesuffix("s")
        if animal not in _legs():
            raise ValueError(f"unknown animal {name}")
        counts[animal] += int(count)
    if not counts:
        raise ValueError("no animals")
    key = ",".join(f"{counts[n]} {n}" for n in sorted(counts))
    return _parsed(key, sum(_legs()[n] * c for n, c in counts.items()))


def _duration(match: re.Match[str]) -> Parsed:
    start, end = (datetime.strptime(t, "%H:%M") for t in (match[1], match[2]))
    minutes = int((end - start).total_seconds() // 60)
    answer = f"{minutes // 60:02d}:{minutes % 60:02d}"
    return _parsed(f"{match[1]}-{match[2]}", answer, task_type="time", expected_format="HH:MM")


def _primes(match: re.Match[str]) -> Parsed:
    start, end = int(match[1]), int(match[2])
    if end > 100_000:
        raise ValueError("too large a range to count")
    count = sum(all(n % d for d in range(2, isqrt(n) + 1)) for n in range(max(start, 2), end + 1))
    return _parsed(f"{start}..{end}", count)


def _fraction(match: re.Match[str]) -> Parsed:
    numerator, denominator = int(match[1]), int(match[2])
    common = gcd(numerator, denominator)
    low, high = numerator // common, denominator // common
    return _parsed(
        f"{numerator}/{denominator}",
        f"{low}/{high}",
        numerator=numerator,
        denominator=denominator,
        simplified_numerator=low,
        simplified_denominator=high,
    )


def _kind(generator: str, pattern: str, parse: Callable[[re.Match[str]], Parsed], **config: Any) -> Kind:
    return Kind(generator, config, re.compile(pattern), parse)


KINDS: dict[str, Kind] = {
    kind.generator: kind
    for kind in (
        _kind(
            "chain_sum",
            r"arithmetic problem: (\d+) ([+-]) (\d+) =",
            _sum,
            min_terms=2,
            max_terms=2,
            min_digits=2,
            max_digits=2,
        ),
        _kind(
            "decimal_chain_sum",
            r"arithmetic problem: (\d+\.\d+) ([+-]) (\d+\.\d+) =",
            _sum,
            min_terms=2,
            max_terms=2,
            min_digits=1,
            max_digits=1,
            min_decimal_places=1,
            max_decimal_places=1,
        ),
        _kind(
            "simple_equations",
            r"(?:value of|Solve for) ([a-z])\b[^:]*: ([^=]+) = (-?\d+)\s*$",
            _equation,
            min_terms=2,
            max_terms=2,
            min_value=1,
            max_value=99,
            operators=("+", "-"),
            operators_weights=[0.5, 0.5],
        ),
        _kind(
            "simple_geometry",
            r"convex (?:polygon (?:with|has) )?(\d+)(?:-gon| sides)[^:]* angles are: ([-\d.°, ]+)",
            _polygon,
            min_sides=3,
            max_sides=3,
        ),
        _kind(
            "gcd",
            r"Greatest Common Divisor \(GCD\) of these numbers: (\d+), (\d+)\.",
            _gcd,
            min_numbers=2,
            max_numbers=2,
            min_value=2,
            max_value=149,
        ),
        _kind(
            "number_filtering",
            r"(Keep|Remove) all numbers (larger|smaller) than (-?[\d.]+) in this list: \[([^\]]*)\]",
            _filter,
            min_numbers=3,
            max_numbers=4,
            min_decimals=0,
            max_decimals=0,
            min_value=0,
            max_value=99,
        ),
        _kind(
            "leg_counting",
            r"legs are there in total if you have ([\da-z, ]+)\?",
            _animals,
            min_animals=2,
            max_animals=2,
            min_instances=1,
            max_instances=9,
        ),
        _kind(
            "time_intervals",
            # No digits in between: a wildcard takes a minute on a text of nothing but times.
            r"\b(\d\d:\d\d)\b[^\d\n]*\b(\d\d:\d\d)\b[^\d\n]*HH:MM\.",
            _duration,
            task_types=["time"],
        ),
        _kind(
            "count_primes",
            r"prime numbers there are between (\d+) and (\d+) \(inclusive\)",
            _primes,
            min_n=1,
            max_n=149,
        ),
        _kind(
            "fraction_simplification",
            r"fraction (\d+)/(\d+) to its lowest terms",
            _fraction,
            min_value=1,
            max_value=60,
            min_factor=2,
            max_factor=9,
            styles=("plain",),
        ),
    )
}

OFF_DOMAIN: dict[str, Mapping[str, Any]] = {
    "spell_backward": {"max_word_len": 8},
    "letter_counting": {"min_words": 3, "max_words": 6},
    "word_sequence_reversal": {"min_words": 3, "max_words": 5},
    "caesar_cipher": {"min_words": 2, "max_words": 4},
    "base_conversion": {"min_base": 2, "max_base": 5, "min_value": 16, "max_value": 999},
}
"""Generators whose problems this domain does not test: material for the off-domain control."""

_WORD_OPERATORS = {"plus": "+", "minus": "-", "times": "*", "over": "/"}


def parse(prompt: str) -> tuple[str, Parsed] | None:
    """Recognises a problem from its text alone.

    Returns:
        The skill and what was parsed, or `None` for a text of no known kind.
    """
    for skill, kind in KINDS.items():
        match = kind.pattern.search(prompt)
        if match:
            try:
                return skill, kind.parse(match)
            except (ValueError, ArithmeticError):
                continue
    return None


def _loose(text: str) -> str:
    """Numbers and operators of a text in order: what is left of a problem told in other words."""
    for word, symbol in _WORD_OPERATORS.items():
        text = re.sub(rf"\b{word}\b", symbol, text)
    numbers = re.findall(rf"(?<!\w){_NUMBER}|(?<=\s)[-+*/](?=\s)", text)
    return "loose|" + " ".join(numbers)


def _dataset(generator: str, config: Mapping[str, Any], seed: int) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(generator, seed=seed, size=10_000_000, **config)


@lru_cache(maxsize=32)
def _scorer(skill: str) -> Any:
    return _dataset(skill, KINDS[skill].config, 0)


def _sum_part(parsed: Parsed) -> str:
    if "-" not in parsed.operands:
        a, b = parsed.operands.split("+")
        return "sum with carry" if int(a[-1]) + int(b[-1]) > 9 else "sum without carry"
    return "difference below zero" if parsed.answer.startswith("-") else "difference"


def _equation_part(parsed: Parsed) -> str:
    if parsed.operands.startswith("-"):
        return "subtracted variable"
    return "added constant" if "+" in parsed.operands else "subtracted constant"


def _duration_part(parsed: Parsed) -> str:
    hours = int(parsed.answer.partition(":")[0])
    return "under six hours" if 0 <= hours < 6 else "six to twelve hours" if 0 <= hours < 12 else "over twelve hours"


def _ranges(value: Callable[[Parsed], float], *limits: tuple[float, str]) -> Callable[[Parsed], str]:
    """Names a part by the first limit that the value is below."""
    return lambda parsed: next(name for limit, name in limits if value(parsed) < limit)


_ANY = float("inf")


def _width(parsed: Parsed) -> float:
    start, _, end = parsed.operands.partition("..")
    return float(int(end) - int(start))


def _factor(parsed: Parsed) -> float:
    return float(parsed.metadata["numerator"] // parsed.metadata["simplified_numerator"])


REFINEMENTS: dict[str, tuple[tuple[str, ...], Callable[[Parsed], str]]] = {
    "chain_sum": (("sum without carry", "sum with carry", "difference", "difference below zero"), _sum_part),
    "decimal_chain_sum": (("sum without carry", "sum with carry", "difference", "difference below zero"), _sum_part),
    "simple_equations": (("added constant", "subtracted constant", "subtracted variable"), _equation_part),
    "simple_geometry": (
        ("acute below 45", "acute", "right or obtuse"),
        _ranges(lambda p: float(p.answer), (45, "acute below 45"), (90, "acute"), (_ANY, "right or obtuse")),
    ),
    "gcd": (
        ("no common factor", "small factor", "large factor"),
        _ranges(lambda p: float(p.answer), (2, "no common factor"), (6, "small factor"), (_ANY, "large factor")),
    ),
    "number_filtering": (
        ("keep larger", "keep smaller", "remove larger", "remove smaller"),
        lambda p: " ".join(p.operands.split()[:2]),
    ),
    "leg_counting": (
        ("few legs", "more legs", "many legs"),
        _ranges(lambda p: float(p.answer), (30, "few legs"), (60, "more legs"), (_ANY, "many legs")),
    ),
    "time_intervals": (("under six hours", "six to twelve hours", "over twelve hours"), _duration_part),
    "count_primes": (
        ("narrow range", "middle range", "wide range"),
        _ranges(_width, (25, "narrow range"), (60, "middle range"), (_ANY, "wide range")),
    ),
    "fraction_simplification": (
        ("factor 2 or 3", "factor 4 to 6", "larger factor"),
        _ranges(_factor, (4, "factor 2 or 3"), (7, "factor 4 to 6"), (_ANY, "larger factor")),
    ),
}
"""The parts of each skill, and what tells which one a problem belongs to."""


class MathDomain(ProceduralDomain):
    """The domain `math` (see the module's text)."""

    name = "math"
    version = "2"
    description = (
        "Short mathematical problems in English: sums of whole and decimal numbers, equations in one variable, "
        "angles, common divisors, filtering lists, counting legs and primes, durations, "
        "fractions. Each is answered without explanation."
    )
    answer_format = (
        "The bare answer and nothing else: a number ('-37', '6.5'), a fraction ('5/19'), a duration ('06:09') "
        "or a list (\"['56', '25']\")."
    )

    def refinements(self) -> Mapping[str, Sequence[str]]:
        """Returns the parts of each skill: signs, carries, sizes."""
        return {skill: parts for skill, (parts, _) in REFINEMENTS.items()}

    def off_domain(self) -> Sequence[str]:
        """Returns kinds of problem that `fresh` can write and the domain never tests."""
        return tuple(OFF_DOMAIN)

    def stream(self, skill: str, seed: int) -> Iterator[tuple[Task, Example]]:
        """Draws the library's problems, with its answers.

        Raises:
            DomainError: If the library writes a sentence that is not known here.
        """
        config = KINDS[skill].config if skill in KINDS else OFF_DOMAIN[skill]
        data = _dataset(skill, config, seed % 2**31)
        for index in range(len(data)):
            entry = data[index]
            question, answer = entry["question"].strip(), str(entry["answer"]).strip()
            if skill in OFF_DOMAIN:
                task: Task | None = Task(skill, question, answer)
            else:
                task = self.parse(question)
            if task is None:
                raise DomainError(f"reasoning-gym's {skill!r} writes a sentence dgym does not know: {question!r}.")
            yield replace(task, answer=answer), Example(question, answer, skill)

    def parse(self, prompt: str, images: tuple[bytes, ...] = ()) -> Task | None:
        """Recognises a problem from its text."""
        found = parse(prompt)
        if found is None:
            return None
        skill, parsed = found
        return Task(skill, parsed.operands, parsed.answer, REFINEMENTS[skill][1](parsed), data=parsed)

    def right(self, task: Task, response: str) -> bool:
        """Whether the library's scorer gives full marks for the stripped response."""
        entry = {"answer": task.data.answer, "metadata": task.data.metadata}
        try:
            return bool(_scorer(task.skill).score_answer(response.strip(), entry) == 1.0)
        except Exception:  # the library's scorers raise on some free text, in many ways
            return False

    def fingerprints(self, prompt: str, images: tuple[bytes, ...] = ()) -> tuple[str, ...]:
        """Returns the operands of a known kind; for any other text its words, and its bare numbers."""
        known = super().fingerprints(prompt, images)
        loose = _loose(prompt)
        return (*known, loose) if known[0].startswith("text|") and " " in loose else known

    def overlap_keys(self, problem: Problem) -> tuple[str, ...]:
        """Returns every fingerprint under which a copy of a hidden problem would show."""
        found = parse(problem.prompt)
        if found is None:
            return self.fingerprints(problem.prompt)
        matched = KINDS[found[0]].pattern.search(problem.prompt)
        assert matched is not None
        return (*self.fingerprints(problem.prompt), f"text|{words_of(problem.prompt)}", _loose(matched[0]))
