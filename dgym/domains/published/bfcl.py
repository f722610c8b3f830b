"""BFCL: single calls of functions, from the Berkeley Function-Calling Leaderboard, version 4 (Patil et al. 2025).

Rows, prompt and grader are those of the package `bfcl-eval` (https://gorilla.cs.berkeley.edu/leaderboard.html), in its
*prompting* mode: one text with the functions as JSON and the request, answered in the manner of Python,
`[area(base=10, height=5)]`. What the package sends as system and user message stands in one text here, joined as the
package joins them for models without system messages. Turns of an assistant, which a few rows have, are marked as such.

There is no training set and no validation set upstream. Validation is a quarter of each category, chosen by the hash
of the request; a request that several categories share is on one side in all of them. The rest is the test. Of rows
with the same request and functions, the first of the chosen categories is taken. Rows whose published answers no
answer can meet, by the package's own checker, are left out: seven of all, four of the default categories.

By default the eight categories of Python are asked in which calls are due, 2,347 problems. `categories` chooses
others, joined by `+`: `simple_java` and `simple_javascript`, which need tree-sitter; `irrelevance` and
`live_irrelevance`, where it is right to call nothing, as an empty answer does; `live_relevance`, where any call is
right, and which has no published answers, so that a call with made-up values stands for one; and the package's own
collections `non_live`, `live`, `python`, `non_python` and `single_turn`.

What this module does not know: how calls are read and compared (`dgym.graders.calls`); anything of several turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, Final

from dgym.core import Example, Problem
from dgym.data import DataSet, Part, Row
from dgym.domains.dataset import DataSetDomain, by_hash, content_id
from dgym.errors import UsageError, unknown_name
from dgym.graders.calls import Language, answer, decode, language_of, right
from dgym.graders.foreign_calls import readable

COUNTS: Final[Mapping[str, int]] = {
    "simple_python": 400,
    "simple_java": 100,
    "simple_javascript": 50,
    "multiple": 200,
    "parallel": 200,
    "parallel_multiple": 200,
    "irrelevance": 240,
    "live_simple": 258,
    "live_multiple": 1_053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
    "live_irrelevance": 884,
    "live_relevance": 16,
}
"""The single-turn categories in the package's order, with their rows."""

_ANSWERED: Final = tuple(name for name in COUNTS if "relevance" not in name)
DEFAULT: Final = tuple(name for name in _ANSWERED if language_of(name) == "python")
"""The categories that are asked unless others are named."""

COLLECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "non_live": tuple(name for name in COUNTS if not name.startswith("live")),
    "live": tuple(name for name in COUNTS if name.startswith("live")),
    "python": tuple(name for name in COUNTS if language_of(name) == "python"),
    "non_python": tuple(name for name in COUNTS if language_of(name) != "python"),
    "single_turn": tuple(COUNTS),
}
"""Names for several categories, as the package has them."""

_FOLDER: Final = "bfcl_eval/data"

DATA: Final = DataSet(
    name="bfcl",
    title="function calls",
    parts=(
        *(
            Part(
                name,
                {"id": "text", "question": "json", "function": "json"},
                files=(f"{_FOLDER}/BFCL_v4_{name}.json",),
                rows=rows,
            )
            for name, rows in COUNTS.items()
        ),
        *(
            Part(
                f"{name}_answers",
                {"id": "text", "ground_truth": "json"},
                files=(f"{_FOLDER}/possible_answer/BFCL_v4_{name}.json",),
                rows=COUNTS[name],
            )
            for name in _ANSWERED
        ),
    ),
    licence="Apache-2.0",
    homepage="https://gorilla.cs.berkeley.edu/leaderboard.html",
    package="bfcl-eval==2026.3.23",
    digest="91d2a6076ab430d55b890efad0e7bef8",
    bytes=3_000_000,
)

_PROMPT: Final = (
    "You are an expert in composing functions.You are given a question and a set of possible functions. Based on "
    "the question, you will need to make one or more function/tool calls to achieve the purpose. If none of the "
    "functions can be used, point it out. If the given question lacks the parameters required by the function, also"
    " point it out.\n\nYou should only return the function calls in your response.\n\nIf you decide to invoke any "
    "of the function(s), you MUST put it in the format of [func_name1(params_name1=params_value1, "
    "params_name2=params_value2...), func_name2(params)].  You SHOULD NOT include any other text in the response."
    "\n\nAt each turn, you should try your best to complete the tasks requested by the user within the current "
    "turn. Continue to output functions to call until you have fulfilled the user's request to the best of your "
    "ability. Once you have no more functions to call, the system will consider the current turn complete and "
    "proceed to the next turn or task.\n\nHere is a list of functions in json format that you can invoke.\n"
)
"""The package's system prompt in prompting mode, up to the functions (Apache-2.0)."""

_HINTS: Final[Mapping[Language, str]] = {"python": "Python 3", "java": "Java 8 SDK", "javascript": "JavaScript"}
_MADE_UP: Final = {"integer": 1, "float": 1.0, "boolean": True, "array": [], "tuple": (), "dict": {}}
_NOTHING: Final = "None of the functions can be used."
_LIST = re.compile(r'\[\s*(?:\]|\{\s*")')
_TRIES: Final = 5
_WORDS: Final = 3  # spaces in a request that is worth comparing by itself


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is compared with.

    Attributes:
        category: One of the leaderboard's.
        functions: What can be called.
        possible: The calls that are due, with the values that are right.
        spared: Whether it is of the validation.
    """

    category: str
    functions: Sequence[Mapping[str, Any]]
    possible: Sequence[Mapping[str, Any]]
    spared: bool


class Bfcl(DataSetDomain):
    """Calls of functions that a prompt describes (Berkeley Function-Calling Leaderboard, version 4).

    Args:
        fixture: Whether to use the small data set of dgym's own writing.
        categories: Categories or collections, joined by `+`.

    Raises:
        UsageError: If there is no such category, or what reads its language is not installed.
    """

    base = "bfcl"
    version = "1"
    data = DATA
    description = (
        "Requests that are fulfilled by calling one or several functions. A prompt has the functions as a JSON list of "
        "objects with name, description and parameters (of types string, integer, float, boolean, array, tuple, dict "
        "and any), an empty line, and the request. Right are the calls with exactly the arguments that the request "
        "asks for: the function, each value and its type count; optional arguments that it does not mention are best "
        "left out. Spaces, case and , . / - _ * ^ within texts do not count, nor does the order of several calls."
    )
    answer_format = (
        "Nothing but the calls in square brackets, with named arguments, as in Python: "
        '`[area(base=10, height=5), area(base=3, height=4, unit="cm")]`.'
    )
    instruction: ClassVar[tuple[str, str]] = (_PROMPT, "")

    def __init__(self, *, fixture: bool = False, categories: str = "") -> None:
        super().__init__(fixture=fixture)
        names: list[str] = []
        for name in filter(None, categories.split("+")):
            if name not in COUNTS and name not in COLLECTIONS:
                raise unknown_name("category of bfcl", name, (*COUNTS, *COLLECTIONS))
            names += COLLECTIONS.get(name, (name,))
        self.categories = tuple(name for name in COUNTS if name in (names or DEFAULT))
        for language in sorted({language_of(name) for name in self.categories}):
            if not readable(language):
                raise UsageError(
                    f"Calls in {language} are read with tree-sitter, which is not installed: "
                    f"`pip install tree-sitter tree-sitter-{language}`."
                )
        if categories:
            self.name = self.named(f"categories={categories}")

    # Problems --------------------------------------------------------------------------------------------------

    def validation(self) -> Sequence[Problem]:
        """Returns a quarter of each category."""
        return [problem for problem, asked in self._problems if asked.spared]

    def test(self) -> Sequence[Problem]:
        """Returns the rest of each category."""
        return [problem for problem, asked in self._problems if not asked.spared]

    @cached_property
    def _problems(self) -> Sequence[tuple[Problem, Asked]]:
        out: dict[str, tuple[Problem, Asked]] = {}
        for category in self.categories:
            answers = self.rows(f"{category}_answers") if category in _ANSWERED else ()
            possible = {row["id"]: row["ground_truth"] for row in answers}
            for row in self.rows(category):
                spared = _request(row) in self._spared
                asked = Asked(category, row["function"], possible.get(row["id"], ()), spared)
                reference = _reference(asked)
                if reference is None:
                    continue
                functions = json.dumps(shown(asked.functions, category), indent=4)
                prompt = self.frame(f"{functions}\n\n\n{conversation(row)}")
                live = "live" if category.startswith("live") else "non-live"
                problem = Problem(content_id(category, prompt), prompt, reference, category, slice=live)
                out.setdefault(self.fingerprints(prompt)[0], (problem, asked))
        return tuple(out.values())

    @cached_property
    def _by_id(self) -> Mapping[str, Asked]:
        return {problem.id: asked for problem, asked in self._problems}

    @cached_property
    def _spared(self) -> frozenset[str]:
        """The requests of the validation, which do not depend on the categories that are chosen."""
        out: set[str] = set()
        for category in COUNTS:
            requests = by_hash({_request(row) for row in self.rows(category)}, str, "bfcl")
            # Of a fixture's few rows two: one to be shown, one to choose by.
            out.update(requests[: max(2, len(requests) // 4)])
        return frozenset(out)

    # Answers ---------------------------------------------------------------------------------------------------

    def grade(self, problem: Problem, response: str) -> float:
        """Compares the calls with the published answers as the leaderboard does; 1.0 or 0.0.

        A problem that is not of this data set is compared with its reference, value by value.
        """
        asked = self._by_id.get(problem.id)
        if asked is None:
            language = _language(problem.prompt)
            return float(decode(response, language) == decode(problem.reference, language))
        return float(right(asked.category, response, asked.functions, asked.possible))

    def check(self, example: Example) -> bool | None:
        """Whether a response answers its prompt, as far as that can be said.

        Known problems are graded. Of others a response is wrong if it calls what the prompt does not describe, leaves
        out an argument that is required, or calls nothing, unless a chosen category asks for that; else that cannot
        be said.
        """
        known = super().check(example)
        if known is not None:
            return known
        calls = decode(example.response, _language(example.prompt))
        if not calls:
            return None if any("irrelevance" in name for name in self.categories) else False
        described = {function["name"]: function for function in reversed(_parts(self.bare(example.prompt))[0] or ())}
        for name, arguments in calls:
            parameters = described.get(name, {}).get("parameters")
            if not isinstance(parameters, Mapping):
                return False
            required = parameters.get("required") or ()
            if not {*required} <= {*arguments} <= {*(parameters.get("properties") or ())}:
                return False
        return None

    def distinctive(self, prompt: str) -> str:
        """Returns the request: of the same functions, others may well be made."""
        return _parts(self.bare(prompt))[1]

    def fingerprints(self, prompt: str, images: tuple[bytes, ...] = ()) -> tuple[str, ...]:
        """Returns the functions and the request together, and the request by itself if it has a few words."""
        functions, request = _parts(self.bare(prompt))
        words = " ".join(request.casefold().split())
        if functions is None:
            return (f"text|{words}",)
        both = f"text|{content_id(json.dumps(functions, sort_keys=True), words)}"
        return (both, f"request|{words}") if words.count(" ") >= _WORDS else (both,)


def conversation(row: Row) -> str:
    """Joins the messages of a row, as the package does for models without system messages."""
    messages = row["question"][0]
    marked = any(message["role"] == "assistant" for message in messages)
    return "\n\n".join(
        f"{message['role']}: {message['content']}" if marked and message["role"] != "system" else message["content"]
        for message in messages
    )


def _request(row: Row) -> str:
    return " ".join(conversation(row).casefold().split())


def _reference(asked: Asked) -> str | None:
    """Returns an answer that is right; `None` where there is none."""
    if asked.possible:
        return answer(asked.category, asked.functions, asked.possible)
    if "irrelevance" in asked.category:
        return _NOTHING
    return _any_call(asked.functions) if "relevance" in asked.category else None


def _any_call(functions: Sequence[Mapping[str, Any]]) -> str:
    """Calls the first function, with made-up values for what it requires."""
    function = functions[0]
    properties = function["parameters"]["properties"]
    arguments = []
    for name in function["parameters"]["required"]:
        choices = properties[name].get("enum") or [_MADE_UP.get(properties[name]["type"], "example")]
        arguments.append(f"{name}={choices[0]!r}")
    return f"[{function['name']}({', '.join(arguments)})]"


def shown(functions: Sequence[Mapping[str, Any]], category: str) -> Sequence[Mapping[str, Any]]:
    """Describes functions as the package shows them: with the language, and what it means for arguments."""
    language = language_of(category)
    out = [dict(deepcopy(function)) for function in functions]
    for function in out:
        function["description"] += f" Note that the provided function is in {_HINTS[language]} syntax."
        for value in function["parameters"]["properties"].values() if language != "python" else ():
            called = language.title().replace("script", "Script")
            kind = value["type"]
            if kind == "any":
                value["description"] += (
                    f" This parameter can be of any type of {called} object in string representation."
                )
            else:
                value["description"] += f" This is {called} {kind} type parameter in string representation."
            if kind in ("ArrayList", "Array", "array"):
                items = value.pop("items")["type"]
                value["description"] += (
                    f" The list elements are of type {items}; they are not in string representation."
                )
            if kind == "dict" and "properties" in value:
                entries = json.dumps(value.pop("properties"))
                value["description"] += (
                    " The dictionary entries have the following schema; they are not in string representation. "
                    f"{entries}"
                )
            value["type"] = "string"
    return out


def _language(prompt: str) -> Language:
    """Returns the language of the functions that a prompt describes."""
    return next((name for name, hint in _HINTS.items() if f"is in {hint} syntax." in prompt), "python")


def _parts(text: str) -> tuple[Sequence[Mapping[str, Any]] | None, str]:
    """Finds the functions in a prompt; returns them, or `None`, and the rest of the text."""
    decoder = json.JSONDecoder()
    for found in islice(_LIST.finditer(text), _TRIES):
        try:
            value, end = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        named = all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in value)
        if named and (value or not found.start()):
            return value, f"{text[: found.start()]}\n{text[end:]}"
    return None, text
