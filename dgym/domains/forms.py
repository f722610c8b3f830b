"""Sentences with slots that can be written and read back: the same template renders a problem and parses it.

forms = Forms("Add {n} to x.", "What is x plus {n}?", n=NUMBER)
forms.render(rng, n=3)            # "What is x plus 3?"
forms.read("Add 3 to x.")         # {"n": 3}
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Slot:
    """What may stand in a place of a sentence.

    Attributes:
        pattern: Regular expression of its text, without capturing groups.
        read: Turns that text into a value; a `ValueError` means that the sentence is another one.
        show: Turns a value into one of the texts for it.
    """

    pattern: str
    read: Callable[[str], Any]
    show: Callable[[Any, random.Random], str]


NUMBER: Final = Slot(r"-?\d+", int, lambda value, _: str(value))
"""A whole number."""


def one_of(words: Mapping[Any, str | Sequence[str]]) -> Slot:
    """Returns a slot for values with one or several texts each; a text stands for one value only.

    Raises:
        ValueError: If two values share a text.
    """
    texts = {value: (text,) if isinstance(text, str) else tuple(text) for value, text in words.items()}
    meaning = {text: value for value, given in texts.items() for text in given}
    if len(meaning) != sum(len(given) for given in texts.values()):
        raise ValueError("two values share a text")
    pattern = "|".join(re.escape(text) for text in sorted(meaning, key=len, reverse=True))
    return Slot(f"(?:{pattern})", meaning.__getitem__, lambda value, rng: rng.choice(texts[value]))


class Forms:
    """Several sentences that say the same.

    Args:
        *sentences: Texts with `{slot}` places; a slot that comes twice has the same text both times.
        **slots: What stands in each place.

    Raises:
        ValueError: If a sentence names an unknown slot, or lacks one.
    """

    def __init__(self, *sentences: str, **slots: Slot) -> None:
        self.sentences, self.slots = sentences, slots
        self._patterns = [(s.partition("{")[0], self._compile(s)) for s in sentences]

    def render(self, rng: random.Random, **values: Any) -> str:
        """Writes one of the sentences, drawn at random."""
        sentence = rng.choice(self.sentences)
        return sentence.format_map({name: slot.show(values[name], rng) for name, slot in self.slots.items()})

    def read(self, text: str) -> dict[str, Any] | None:
        """Returns the values of a text that is one of the sentences as a whole, else `None`."""
        for head, pattern in self._patterns:
            # The literal beginning tells most sentences apart, much faster than the pattern.
            match = pattern.fullmatch(text) if text.startswith(head) else None
            if match is not None:
                try:
                    return {name: slot.read(match[name]) for name, slot in self.slots.items()}
                except (ValueError, KeyError):
                    continue
        return None

    def _compile(self, sentence: str) -> re.Pattern[str]:
        parts = re.split(r"\{(\w+)\}", sentence)
        if {*parts[1::2]} != {*self.slots}:
            raise ValueError(f"{sentence!r} does not name each of {sorted(self.slots)}")
        out, seen = "", set[str]()
        for i, part in enumerate(parts):
            if i % 2 == 0:
                out += re.escape(part)
            else:
                out += f"(?P={part})" if part in seen else f"(?P<{part}>{self.slots[part].pattern})"
                seen.add(part)
        return re.compile(out)
