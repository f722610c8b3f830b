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

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from math import gcd, isqrt
from typing import Any

from dgym.core import Example, Problem, Split, derive_seed
from dgym.errors import DomainError, unknown_name

VERSION = "1"

_NUMBER = r"-?\d+(?:\.\d+)?"

SPLIT_SHARES: tuple[tuple[Split, int], ...] = (("train", 70), ("feedback", 10), ("selection", 10), ("test", 10))
"""Percentage of all fingerprints that belongs to each split."""


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

PROBLEMS_PER_SKILL: dict[Split, int] = {"feedback": 50, "selection": 50, "test": 100}

_DATA_SET_SEED = 20_241_006
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


def split_of(fingerprint: str) -> Split:
    """Returns the split that a fingerprint belongs to, by hash, in the proportions of `SPLIT_SHARES`."""
    place = int.from_bytes(hashlib.blake2b(fingerprint.encode(), digest_size=8).digest(), "big") % 100
    for split, share in SPLIT_SHARES:
        place -= share
        if place < 0:
            return split
    raise AssertionError("the shares add up to 100")


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9.+*/=-]+", text.lower()))


def _loose(text: str) -> str:
    """Numbers and operators of a text in order: what is left of a problem told in other words."""
    for word, symbol in _WORD_OPERATORS.items():
        text = re.sub(rf"\b{word}\b", symbol, text)
    numbers = re.findall(rf"(?<!\w){_NUMBER}|(?<=\s)[-+*/](?=\s)", text)
    return "loose|" + " ".join(numbers)


def _dataset(generator: str, config: Mapping[str, Any], seed: int) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(generator, seed=seed, size=10_000_000, **config)


def _entries(generator: str, config: Mapping[str, Any], seed: int) -> Iterator[tuple[str, str]]:
    """Yields question and answer without end, stripped."""
    data = _dataset(generator, config, seed % 2**31)
    for index in range(len(data)):
        entry = data[index]
        yield entry["question"].strip(), str(entry["answer"]).strip()


@lru_cache(maxsize=32)
def _scorer(skill: str) -> Any:
    return _dataset(skill, KINDS[skill].config, 0)


class MathDomain:
    """The domain `math` (see the module's text); also a `dgym.core.Generator`."""

    name = "math"
    version = VERSION
    description = (
        "Short mathematical problems in English: sums of whole and decimal numbers, equations in one variable, "
        "angles, common divisors, filtering lists, counting legs and primes, durations, "
        "fractions. Each is answered without explanation."
    )
    answer_format = (
        "The bare answer and nothing else: a number ('-37', '6.5'), a fraction ('5/19'), a duration ('06:09') "
        "or a list (\"['56', '25']\")."
    )

    def problems(self, split: Split) -> Sequence[Problem]:
        """Returns the fixed problems of an evaluation split; `train` has none of its own."""
        return _problems(split)

    def grade(self, problem: Problem, response: str) -> float:
        """Returns 1.0 where the library's scorer gives full marks for the stripped response, else 0.0."""
        found = parse(problem.prompt)
        if found is None:
            raise DomainError(f"The math problem {problem.id!r} is of no known kind: {problem.prompt[:80]!r}.")
        return 1.0 if self._right(*found, response) else 0.0

    def check(self, example: Example) -> bool | None:
        """Grades an example's response where its prompt is of a known kind, else returns `None`."""
        found = parse(example.prompt)
        return None if found is None else self._right(*found, example.response)

    @staticmethod
    def _right(skill: str, parsed: Parsed, response: str) -> bool:
        entry = {"answer": parsed.answer, "metadata": parsed.metadata}
        try:
            return bool(_scorer(skill).score_answer(response.strip(), entry) == 1.0)
        except Exception:  # the library's scorers raise on some free text, in many ways
            return False

    def fingerprints(self, prompt: str) -> tuple[str, ...]:
        """Returns the operands of a known kind; for any other text its words, and its bare numbers."""
        found = parse(prompt)
        if found is not None:
            return (f"{found[0]}|{found[1].operands}",)
        loose = _loose(prompt)
        numbers = loose.count(" ") >= 1
        return (f"text|{_words(prompt)}", loose) if numbers else (f"text|{_words(prompt)}",)

    def overlap_keys(self, problem: Problem) -> tuple[str, ...]:
        """Returns every fingerprint under which a copy of a hidden problem would show."""
        found = parse(problem.prompt)
        if found is None:
            return self.fingerprints(problem.prompt)
        matched = KINDS[found[0]].pattern.search(problem.prompt)
        assert matched is not None
        return (*self.fingerprints(problem.prompt), f"text|{_words(problem.prompt)}", _loose(matched[0]))

    # Generator: what privileged engines may use -----------------------------------------------------------

    def skills(self) -> Sequence[str]:
        """Returns the names of the domain's skills."""
        return tuple(KINDS)

    def off_domain(self) -> Sequence[str]:
        """Returns kinds of problem that `fresh` can write and the domain never tests."""
        return tuple(OFF_DOMAIN)

    def infer_skill(self, prompt: str) -> str | None:
        """Recognises a problem's skill from its text."""
        found = parse(prompt)
        return None if found is None else found[0]

    def fresh(self, skill: str, count: int, seed: int) -> list[Example]:
        """Writes distinct, correct examples of the train split.

        Raises:
            UsageError: If there is no such skill.
            DomainError: If the skill has fewer than `count` distinct problems.
        """
        config = KINDS[skill].config if skill in KINDS else OFF_DOMAIN.get(skill)
        if config is None:
            raise unknown_name("math skill", skill, (*KINDS, *OFF_DOMAIN))
        out: list[Example] = []
        seen: set[str] = set()
        for tries, (question, answer) in enumerate(_entries(skill, config, derive_seed("math", skill, seed))):
            if len(out) == count:
                break
            if tries > 200 * (count + 10):
                raise DomainError(f"The skill {skill!r} has no {count} distinct problems.")
            key = self.fingerprints(question)[0]
            if key not in seen and (skill in OFF_DOMAIN or split_of(key) == "train"):
                seen.add(key)
                out.append(Example(prompt=question, response=answer, skill=skill))
        return out

    def wrong_answer(self, example: Example, seed: int) -> Example:
        """Returns the example with the answer of another problem of its kind."""
        skill = self.infer_skill(example.prompt)
        rng = random.Random(derive_seed("wrong", seed, example.prompt))
        for _ in range(50):
            other = self.fresh(skill or rng.choice(self.skills()), 1, rng.getrandbits(31))[0].response
            wrong = Example(example.prompt, other, example.skill, example.item)
            if other != example.response and self.check(wrong) is not True:
                return wrong
        raise DomainError(f"No wrong answer found for {example.prompt[:80]!r}.")


@lru_cache(maxsize=4)
def _problems(split: Split) -> tuple[Problem, ...]:
    wanted = PROBLEMS_PER_SKILL.get(split, 0)
    out: list[Problem] = []
    for skill, kind in KINDS.items():
        found: dict[str, Problem] = {}
        for question, answer in _entries(skill, kind.config, derive_seed(_DATA_SET_SEED, skill)):
            if len(found) == wanted:
                break
            parsed = parse(question)
            if parsed is None:
                raise DomainError(f"reasoning-gym's {skill!r} writes a sentence dgym does not know: {question!r}.")
            key = f"{skill}|{parsed[1].operands}"
            if key not in found and split_of(key) == split:
                # The hash names neither skill nor split, and is no index into a generator.
                name = hashlib.blake2b(f"{VERSION}\x1f{key}".encode(), digest_size=8).hexdigest()
                found[key] = Problem(id=name, prompt=question, reference=answer, skill=skill)
        out += found.values()
    # In the order of their opaque names: neither place nor neighbours tell a problem's skill.
    return tuple(sorted(out, key=lambda problem: problem.id))
