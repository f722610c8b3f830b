"""What a language model is shown of a Brief and a State: rows of plain values, and the images beside them.

Every prompt of a teacher is made here, from Brief, State and plan items alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dgym.chat.ledger import purpose
from dgym.chat.prompts import Prompts
from dgym.chat.structured import M, ask
from dgym.core import Brief, Chat, Example, Message, Observation

PROMPTS: Final = Prompts(Path(__file__).parent / "prompts")
"""The prompt files of all language-model teachers."""

MAX_TEXT: Final = 2_000
"""Most characters of a problem's or an answer's text that are shown; students can write without end."""


@dataclass
class Shown:
    """Rows for a prompt, with the images that they number.

    Attributes:
        see: Whether images are attached at all.
        images: The images so far, in the order of their numbers.
    """

    see: bool = True
    images: list[bytes] = field(default_factory=list)

    def errors(self, observations: Sequence[Observation]) -> list[dict[str, Any]]:
        """Returns failed problems with the student's answers, numbered from 1."""
        return [
            self._row({"id": n, "problem": o.prompt, "student": o.response, "right": o.reference}, o.images)
            for n, o in enumerate(observations, 1)
        ]

    def problems(self, observations: Sequence[Observation]) -> list[dict[str, Any]]:
        """Returns problems for an engine, with the student's answer where it was wrong."""
        return [
            self._row(
                {"problem": o.prompt, "right": o.reference} | ({} if o.correct else {"student": o.response}), o.images
            )
            for o in observations
        ]

    def samples(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Returns problems with their answers."""
        return [self._row({"problem": e.prompt, "right": e.response}, e.images) for e in examples]

    def questions(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Returns problems without answers, numbered from 1."""
        return [self._row({"id": n, "problem": e.prompt}, e.images) for n, e in enumerate(examples, 1)]

    def _row(self, row: Mapping[str, Any], images: Sequence[bytes]) -> dict[str, Any]:
        out: dict[str, Any] = {name: cut(v) if isinstance(v, str) else v for name, v in row.items()}
        if images and self.see:
            out["pictures"] = list(range(len(self.images) + 1, len(self.images) + len(images) + 1))
            self.images += images
        return out


def cut(text: str) -> str:
    """Cuts a text to what is shown."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} [...]"


def drawn(observations: Sequence[Observation], count: int, seed: int) -> list[Observation]:
    """Draws some failed problems, all of them if there are no more, in their order."""
    chosen = random.Random(seed).sample(range(len(observations)), min(count, len(observations)))
    return [observations[i] for i in sorted(chosen)]


def put(
    chat: Chat,
    brief: Brief,
    step: str,
    values: Mapping[str, Any],
    kind: type[M],
    seed: int,
    shown: Shown | None = None,
) -> M:
    """Asks a language model one step of a teacher's work.

    Args:
        chat: Whom to ask.
        brief: The episode's brief; the system message is made of it.
        step: Name of the prompt file.
        values: What the prompt needs beside the brief.
        kind: What the answer must fit.
        seed: The call's random seed.
        shown: The images that the values' rows number.

    Raises:
        LostAnswerError: If the model gives no usable answer.
    """
    shown = shown or Shown()
    first = Shown(shown.see)
    system = PROMPTS.render(
        "system", {"brief": brief, "samples": first.samples(brief.samples), "pictured": bool(first.images)}
    )
    said = PROMPTS.render(step, {**values, "pictured": bool(shown.images)})
    messages = [Message("system", system), Message("user", said, tuple(shown.images))]
    if first.images:
        # Endpoints take images in a user's message only.
        messages = [Message("user", system, tuple(first.images)), Message("user", said, tuple(shown.images))]
    with purpose(step):
        return ask(chat, messages, kind, seed)
