"""Language models as a teacher in isolation has them: each question goes over the pipe, and dgym asks.

In a teacher's process `dgym.chat` is this: `find_chat(NAME)` gives a model that was granted. Keys, endpoints and the
network stay outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dgym.core import Message
from dgym.errors import TeacherError
from dgym.isolation.protocol import encode

exchange: Callable[[dict[str, Any]], dict[str, Any]] | None = None
"""Sends a question and waits for its answer; set by the process's main loop."""


class GrantedChat:
    """A language model behind the pipe; see `dgym.core.Chat`."""

    def __init__(self, model: str) -> None:
        self.model = model

    def complete(self, messages: Sequence[Message], schema: Mapping[str, Any], seed: int) -> Any:
        """Asks the model; see `dgym.core.Chat.complete`.

        Raises:
            TeacherError: If the model was not granted, or gives no answer.
        """
        if exchange is None:
            raise TeacherError("Language models can only be asked while a plan or an item is worked on.")
        question = {"model": self.model, "messages": encode(list(messages)), "schema": dict(schema), "seed": seed}
        answer = exchange(question)
        if "error" in answer:
            raise TeacherError(str(answer["error"]))
        return answer.get("value")


def find_chat(name: str) -> GrantedChat:
    """Returns a language model by name; whether it was granted shows when it is asked."""
    return GrantedChat(name)
