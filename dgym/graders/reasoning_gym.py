"""Drawing and scoring with reasoning-gym, in worker processes (https://github.com/open-thought/reasoning-gym).

Workers hash texts with a fixed seed, without which five generators draw something else in every process
(`isomorphic_strings`, `knight_swap`, `polynomial_multiplication`, `ransom_note`, `word_ladder`).

A score is the library's own, with these exceptions:

- Some scorers hand the answer to `eval`, or to sympy's `parse_expr`, which calls it. Here the former reads literals
  only, and the latter nothing but numbers, symbols, operators and elementary functions; anything else is what an
  answer is to these scorers that cannot be read.
- An exception, more than `SECONDS`, or the end of the process is 0.
- In `complex_arithmetic`, where the library takes `nan` for any number, it is 0.
- An answer of more than `MAX_CHARACTERS` is 0.

What this module does not know: splits, and which generators are asked.
"""

from __future__ import annotations

import ast
import builtins
import datetime
import json
import keyword
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Final

from dgym.errors import DomainError
from dgym.graders.worker import Workers

CHUNK: Final = 1_000
"""How many entries are drawn from one seed; some generators draw other ones where it is another number."""

SECONDS: Final = 10.0
"""How much processor time scoring one answer may take."""

MAX_CHARACTERS: Final = 100_000
"""Longest answer that is scored; the longest that reasoning-gym gives has some thousands."""

_DRAW_SECONDS: Final = 600.0
_WORKERS: Final = Workers("dgym.graders.reasoning_gym:serve")


@dataclass(frozen=True, slots=True)
class Entry:
    """A problem of the library, at its generator's default difficulty.

    Attributes:
        generator: Its generator's name.
        category: The generator's family, such as `"algebra"`.
        seed, index: Which of the generator's problems it is.
        question: As the library words it.
        answer: A right answer; empty where the library has none to give.
        metadata: What a scorer needs beside the answer, as `to_json` writes it.
        sound: Whether the scorer takes that answer, without white space around, for right, but neither an empty one nor
            a question mark.
    """

    generator: str
    category: str
    seed: int
    index: int
    question: str
    answer: str
    metadata: Any
    sound: bool = True


def generators() -> tuple[str, ...]:
    """Returns the names of the library's generators."""
    names: list[str] = _asked([{"names": True}], ["list its generators"])[0]
    return tuple(names)


def draw_all(wanted: Sequence[tuple[str, int, int, int]]) -> list[list[Entry]]:
    """Draws problems, on all processors.

    Args:
        wanted: Generator, seed, index of the first problem, and how many there shall be.

    Returns:
        As many for each, or fewer where a seed has no more.

    Raises:
        DomainError: If a generator cannot draw.
        InfrastructureError: If no worker can be started.
    """
    what = [f"draw {generator!r} from seed {seed}, index {start} on" for generator, seed, start, _ in wanted]
    replies = _asked([{"draw": list(request)} for request in wanted], what)
    return [[Entry(*entry) for entry in entries] for entries in replies]


def _asked(requests: Sequence[Any], what: Sequence[str]) -> list[Any]:
    replies = _WORKERS.ask(requests, _DRAW_SECONDS)
    for reply, doing in zip(replies, what, strict=True):
        if reply.lost:
            raise DomainError(f"reasoning-gym cannot {doing}: {reply.error or reply.lost}.")
    return [reply.value for reply in replies]


def score_all(asked: Sequence[tuple[Entry, str]]) -> list[float]:
    """Scores answers, without white space around, with the library's scorers.

    Returns:
        The scores in order, each in [0, 1].

    Raises:
        InfrastructureError: If no worker can be started.
    """
    short = [(entry, answer.strip()) for entry, answer in asked if len(answer) <= MAX_CHARACTERS]
    requests = [{"score": [e.generator, e.question, e.answer, e.metadata, answer]} for e, answer in short]
    replies = iter(_WORKERS.ask(requests, SECONDS))
    scores = []
    for _, answer in asked:
        reply = next(replies) if len(answer) <= MAX_CHARACTERS else None
        scores.append(0.0 if reply is None or reply.lost else float(reply.value))
    return scores


def to_json(value: Any) -> Any:
    """Writes metadata as JSON from which `from_json` restores them: tuples, and keys that are no texts, are marked."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and not {"()", "{}"} & value.keys():
            return {str(key): to_json(item) for key, item in value.items()}
        return {"{}": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"()": [to_json(item) for item in value]}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value)
    item = getattr(value, "item", None)  # numpy's numbers
    return item() if callable(item) and not isinstance(value, str) else str(value)


def from_json(value: Any) -> Any:
    """Restores what `to_json` wrote."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "()" in value:
        return tuple(from_json(item) for item in value["()"])
    if "{}" in value:
        return {from_json(key): from_json(item) for key, item in value["{}"]}
    return {key: from_json(item) for key, item in value.items()}


# In the worker ---------------------------------------------------------------------------------------------------


def serve(request: Mapping[str, Any]) -> Any:
    """Answers the requests of `generators`, `draw_all` and `score_all`; what a worker process runs."""
    if "draw" in request:
        return list(_drawn(*request["draw"]))
    if "score" in request:
        return _scored(*request["score"])
    _library()
    return sorted(import_module("reasoning_gym.factory").DATASETS)


def _drawn(generator: str, seed: int, start: int, count: int) -> list[list[Any]]:
    data = _data(generator, seed)
    out = []
    for index in range(start, min(start + count, CHUNK)):
        # Almost all draw from a generator of random numbers of their own; list_functions does not always.
        random.seed(seed + index)
        import_module("numpy").random.seed(seed + index)
        try:
            entry = data[index]
        except IndexError:
            break
        question, answer = entry["question"], entry["answer"]
        metadata = {key: value for key, value in entry["metadata"].items() if key not in _OF_NO_USE}
        if answer is None:
            # Any answer that holds is right; some entries have an example.
            example = metadata.get(_EXAMPLES.get(generator, ""), "")
            answer = example if isinstance(example, str) else json.dumps(example)
        metadata = json.loads(json.dumps(to_json(metadata), sort_keys=True))
        right, *wrong = (_scored(generator, question, str(answer), metadata, a) for a in (str(answer).strip(), "", "?"))
        out.append([generator, data.category, seed, index, question, str(answer), metadata, max(wrong) < right == 1.0])
    return out


# What says nothing of the problem; as sums of floats, some of it differs between releases of Python.
_OF_NO_USE: Final = frozenset({"difficulty", "source_dataset", "source_index", "rng", "pso"})
_EXAMPLES: Final = {
    "graph_color": "possible_answer",
    "propositional_logic": "example_answer",
    "rubiks_cube": "example_correct_answer",
}


def _scored(generator: str, question: str, oracle: str, metadata: Any, answer: str) -> float:
    entry = {"question": question, "answer": oracle, "metadata": from_json(metadata)}
    try:
        score = float(_data(generator, 0).score_answer(answer, entry))
    except Exception:  # free text breaks some scorers
        return 0.0
    if generator == "complex_arithmetic" and "nan" in answer.lower():
        return 0.0
    return min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0


@lru_cache(maxsize=256)
def _data(generator: str, seed: int) -> Any:
    return _library().create_dataset(generator, seed=seed, size=CHUNK)


_DAY: Final = datetime.datetime(2026, 11, 25)
"""What time_intervals takes for today: its times of day are moments of that day, which its metadata name."""


class _Date(datetime.date):
    """A date whose today is always the same."""

    @classmethod
    def today(cls) -> _Date:
        """Returns the day on which the known rows were drawn."""
        return cls(_DAY.year, _DAY.month, _DAY.day)


@cache
def _library() -> Any:
    """Imports the library; what runs an answer as code is replaced by what only reads it."""
    library, sympy = import_module("reasoning_gym"), import_module("sympy")
    for name in ("algorithmic.binary_matrix", "algorithmic.spiral_matrix", "algorithmic.string_insertion"):
        vars(import_module(f"reasoning_gym.{name}"))["eval"] = ast.literal_eval
    vars(import_module("reasoning_gym.games.n_queens"))["eval"] = ast.literal_eval
    times = vars(import_module("reasoning_gym.arithmetic.time_intervals"))
    times["date"] = _Date
    times["parser"] = SimpleNamespace(parse=partial(times["parser"].parse, default=_DAY))  # else of the real today
    parse = _only_arithmetic(sympy.parse_expr)
    vars(sympy)["parse_expr"] = parse
    for name in ("games.countdown", "games.puzzle24"):
        vars(import_module(f"reasoning_gym.{name}"))["parse_expr"] = parse
    return library


def _only_arithmetic(parse: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(text: str, *args: Any, **kwargs: Any) -> Any:
        if not is_arithmetic(text):
            raise ValueError("no arithmetic expression")
        return parse(text, *args, **kwargs)

    return guarded


# A dot belongs to a number, so that nothing here reads an attribute; there is no bracket, quote or colon.
_TOKEN: Final = re.compile(
    r"\s*(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?P<name>[A-Za-z_][A-Za-z_0-9]*)|[-+*/^%!,()|=])"
)
_FUNCTION: Final = re.compile(
    r"a?(?:sin|cos|tan|cot|sec|csc)h?|exp|log|ln|sqrt|cbrt|[Aa]bs|erf|factorial|gamma|Rational"
)


def is_arithmetic(text: str) -> bool:
    """Whether a text has only numbers, operators, elementary functions, and names that mean nothing in Python."""
    text, at = text.strip(), 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or (found["name"] and not _harmless(found["name"])):
            return False
        at = found.end()
    return True


def _harmless(name: str) -> bool:
    if len(name) == 1 or _FUNCTION.fullmatch(name):
        return True
    return "__" not in name and not keyword.iskeyword(name) and name not in _meanings()


@cache
def _meanings() -> frozenset[str]:
    sympy = import_module("sympy")
    called = {name for name, value in vars(sympy).items() if not isinstance(value, sympy.Basic)}  # not a constant
    return frozenset(called) | frozenset(vars(builtins))
