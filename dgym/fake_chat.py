"""A language model that ships and takes microseconds: for tests, documentation and trying things out.

It validates what it is given, so that a wrong call fails here as it would with a real model.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgym.core import Message
from dgym.errors import TeacherError

Answer = Callable[[Sequence[Message], Mapping[str, Any], int], Any]
"""Computes an answer from messages, schema and seed."""

_LABEL_WORDS = 3


@dataclass(frozen=True, slots=True)
class Call:
    """What the fake was asked; see `dgym.core.Chat.complete`."""

    messages: tuple[Message, ...]
    schema: Mapping[str, Any]
    seed: int


class FakeChat:
    """Answers from a script, by a function, or, without either, by rules that make skill discovery work.

    The rules read the JSON lines in the last message. A problem is labelled by its first words, the most
    frequent labels are the categories, and a problem's category is the one that shares most words with it.

    Args:
        answers: Answers in the order of the calls, an exception among them being raised, or a function that
            computes each answer. Answers need not fit the schema: models err.
        model: The model's name, which caches go by.

    Attributes:
        calls: What was asked so far, oldest first.
    """

    def __init__(self, answers: Sequence[Any] | Answer | None = None, model: str = "fake") -> None:
        self.model = model
        self.calls: list[Call] = []
        self._answers = answers if answers is None or callable(answers) else list(answers)

    def complete(self, messages: Sequence[Message], schema: Mapping[str, Any], seed: int) -> Any:
        """Returns the next answer; see `dgym.core.Chat.complete`.

        Raises:
            TeacherError: If the script is at its end, or if no rule fits what is asked.
            TypeError: If messages, schema or seed are not what a model can be given.
            ValueError: If there is no message, or the last one is not the user's.
        """
        if isinstance(messages, str) or not all(isinstance(m, Message) for m in messages):
            raise TypeError("A chat is given a sequence of Message.")
        if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
            raise ValueError("The last message must be the user's, with some content.")
        if not isinstance(schema, Mapping) or schema.get("type") != "object":
            raise TypeError("The schema must be a JSON schema of an object.")
        if type(seed) is not int:
            raise TypeError("The seed must be a whole number.")
        # What goes through JSON is what a real model could have been sent, and could have answered.
        self.calls.append(Call(tuple(messages), json.loads(json.dumps(schema)), seed))
        if self._answers is None:
            answer = _by_rule(messages[-1].content, schema)
        elif callable(self._answers):
            answer = self._answers(messages, schema, seed)
        elif self._answers:
            answer = self._answers.pop(0)
        else:
            raise TeacherError("The fake chat has no answers left.")
        if isinstance(answer, Exception):
            raise answer
        return json.loads(json.dumps(answer))


def _by_rule(text: str, schema: Mapping[str, Any]) -> Any:
    rows = _json_lines(text)
    asked = schema.get("properties", {})
    if "categories" in asked:
        labels = [str(row["label"]) for row in rows if "label" in row]
        return {"categories": labels[: asked["categories"].get("maxItems", 10)]}
    if "skills" in asked:
        problems = [row for row in rows if "problem" in row]
        categories = [str(row["category"]) for row in rows if "category" in row]
        return {"skills": [{"id": p["id"], "skill": _skill(str(p["problem"]), categories)} for p in problems]}
    raise TeacherError(f"The fake chat knows no answer with {', '.join(asked) or 'no fields'}; give it a script.")


def _json_lines(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text)


def _skill(problem: str, categories: Sequence[str]) -> str:
    if not categories:
        return " ".join(_words(problem)[:_LABEL_WORDS]) or "symbols"
    words = Counter(w.casefold() for w in _words(problem))
    shared = [sum(words[w.casefold()] > 0 for w in _words(category)) for category in categories]
    return categories[shared.index(max(shared))]
