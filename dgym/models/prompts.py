"""The one path from a problem to tokens, for base, training and answering alike, with or without images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dgym.errors import StudentError

_REMEMBERED = 2_048
"""Prompts kept encoded, some tens of kilobytes each where they show an image."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem as a model reads it.

    Attributes:
        ids: Token ids up to and including the mark after which the answer stands.
        extras: What the model takes beside them, such as `pixel_values`; the first dimension counts images.
    """

    ids: tuple[int, ...]
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Prompts:
    """Encodes problems with a model's own chat template.

    Args:
        tokenizer: A transformers tokenizer.
        processor: A transformers processor where the model sees images, else `None`.
        side: Width and height of the images that the model takes, where its processor does not see to that.
    """

    def __init__(self, tokenizer: Any, processor: Any = None, side: int | None = None) -> None:
        self.tokenizer, self._processor, self._side = tokenizer, processor, side
        # The same problems are asked after every training.
        self._encoded = lru_cache(maxsize=_REMEMBERED)(self._encode)

    @classmethod
    def load(cls, path: str, sees: bool, side: int | None = None) -> Prompts:
        """Loads tokenizer, and processor where the model sees images, from a folder or by hub id.

        Args:
            path: The folder or id.
            sees: Whether the model sees images.
            side: Width and height of the images that it takes.
        """
        from transformers import AutoProcessor, AutoTokenizer

        if not sees:
            return cls(AutoTokenizer.from_pretrained(path))
        processor = AutoProcessor.from_pretrained(path)
        resizes = getattr(processor.image_processor, "do_resize", True)
        return cls(processor.tokenizer, processor, None if resizes else side)

    def encode(self, text: str, images: Sequence[bytes] = ()) -> Prompt:
        """Encodes what a student is asked.

        Args:
            text: The problem.
            images: Encoded files, in the order in which the problem shows them.

        Raises:
            StudentError: If there are images and the model sees none, or if an image cannot be read.
        """
        return self._encoded(text, tuple(images))

    def _encode(self, text: str, images: tuple[bytes, ...]) -> Prompt:
        if self._processor is None:
            if images:
                raise StudentError("This student reads text only, and the problem has an image; choose one that sees.")
            shown = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            return Prompt(tuple(self.tokenizer(shown, add_special_tokens=False)["input_ids"]))
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
        shown = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        pictures = [self._fitted(open_image(i)) for i in images] or None
        made = self._processor(text=shown, images=pictures, return_tensors="pt", add_special_tokens=False)
        extras = {k: v for k, v in made.items() if k not in ("input_ids", "attention_mask", "token_type_ids")}
        return Prompt(tuple(made["input_ids"][0].tolist()), extras)

    def _fitted(self, picture: Any) -> Any:
        """Scales a picture to the size that the model takes; whoever draws for it may draw larger ones."""
        fits = self._side is None or picture.size == (self._side, self._side)
        return picture if fits else picture.resize((self._side, self._side))

    def save(self, path: str | Path) -> None:
        """Writes what `load` reads into a folder."""
        (self._processor or self.tokenizer).save_pretrained(path)

    def response(self, text: str) -> tuple[int, ...]:
        """Encodes an answer to learn, with the end-of-sequence token."""
        return (*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id)


def open_image(data: bytes) -> Any:
    """Decodes an image.

    Raises:
        StudentError: If it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise StudentError(f"An image of {len(data)} bytes cannot be read: {error}") from error
