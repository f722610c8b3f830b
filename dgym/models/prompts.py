"""The one path from a problem to tokens, for base, training and answering alike, with or without images."""

from __future__ import annotations

import io
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from jinja2 import TemplateError

from dgym.errors import StudentError

PLAIN_TEMPLATE: Final = (
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% for m in messages %}{{ m['role'] | capitalize + ':\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] if c['type'] == 'image' %}{{ image_mark }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' and eos_token %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""How a model without a chat template is asked; `image_mark` is what its processor replaces by an image's tokens."""

PER_TOKEN: Final = ("token_type_ids", "mm_token_type_ids")
"""Extras that hold one value for every token rather than something for every image; see `Prompt`."""

_TOKENS: Final = ("input_ids", "attention_mask", "labels")
"""What processors give and a prompt holds otherwise."""

_REMEMBERED: Final = 2_048
"""Prompts kept encoded."""

_REMEMBERED_BYTES: Final = 2**28
"""What the extras of all prompts that are kept may take: an image cut into tiles takes tens of megabytes."""

_PRIVATE: Final = range(0xE000, 0xF900)
"""Unicode's private use area, of which characters stand for what may not be read as control tokens."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem as a model reads it.

    Attributes:
        ids: Token ids up to and including the mark after which the answer stands.
        extras: What the model takes beside them, such as `pixel_values`; what several prompts give is joined along
            the first dimension, which counts images, patches or, always 1, prompts. An extra that is named in
            `PER_TOKEN` has the shape (1, tokens + 1): the last value is that of every token of the answer.
    """

    ids: tuple[int, ...]
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Prompts:
    r"""Encodes problems with a model's own chat template.

    A model that has none is asked in a plain format, `PLAIN_TEMPLATE`: the token that begins a sequence if there is
    one, then `User:`, the images, the text, and `Assistant:`, each name and each text on a line of its own. PaliGemma
    has its own format, which its processor knows: the images' tokens, the token that begins a sequence, the text and
    a line break; all of these are read bidirectionally (`token_type_ids` is 0) and the answer is not (1).

    What a problem or a response says is text: where it spells a control token, such as `<|im_end|>` or an image's
    placeholder, it is encoded as the characters that it consists of.

    Attributes:
        tokenizer: The tokenizer.
        ends: Tokens that end an answer; the first one is what answers are taught to end with. That is the token that
            the chat template puts right after an assistant's message, where it is a special one, and otherwise the
            tokenizer's end-of-sequence token.
        pad: The token for padding; where the tokenizer has none, one that ends, which the masks tell apart.

    Args:
        tokenizer: A transformers tokenizer.
        processor: A transformers processor where the model sees images, else `None`.
        side: Width and height of the images that the model takes, where its processor does not see to that.
        ends: Further tokens that end an answer, such as `generation_config.eos_token_id`.

    Raises:
        StudentError: If no token ends an answer.
    """

    def __init__(
        self, tokenizer: Any, processor: Any = None, side: int | None = None, ends: int | Iterable[int] | None = None
    ) -> None:
        self.tokenizer, self._processor, self._side = tokenizer, processor, side
        own = getattr(processor, "chat_template", None)
        self._asks = processor if own else tokenizer  # whose template is used
        self._plain = not own and not tokenizer.chat_template
        self._prefix = type(processor).__name__ == "PaliGemmaProcessor"
        self._images = _image_ids(tokenizer, processor)
        given = () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)
        special = _control_texts(tokenizer, processor)
        self._controls = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")
        found = (self._turn_end(given), tokenizer.eos_token_id, *given)
        self.ends: tuple[int, ...] = tuple(dict.fromkeys(e for e in found if e is not None))
        if not self.ends:
            raise StudentError("This student's tokenizer has no end-of-sequence token: no answer would ever end.")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(self.ends[0])
        self.pad: int = tokenizer.pad_token_id
        # The same problems are asked after every training.
        self._memory = _Memory()
        # How a tokenizer treats control tokens is a state of it; students on one base may ask at the same time.
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        path: str,
        sees: bool,
        side: int | Sequence[int] | None = None,
        ends: int | Iterable[int] | None = None,
    ) -> Prompts:
        """Loads tokenizer, and processor where the model sees images, from a folder or by hub id.

        Args:
            path: The folder or id.
            sees: Whether the model sees images; see `sees_images`.
            side: Width and height of the images that it takes, such as `vision_config.image_size`, if it says so.
            ends: Further tokens that end an answer, such as `generation_config.eos_token_id`.

        Raises:
            StudentError: If its processor cannot be loaded here.
        """
        from transformers import AutoTokenizer

        if not sees:
            return cls(AutoTokenizer.from_pretrained(path), ends=ends)
        processor = _load_processor(path)
        if not isinstance(side, int | None):
            side = side[0] if len(set(side)) == 1 else None
        resizes = getattr(processor.image_processor, "do_resize", True)
        return cls(processor.tokenizer, processor, None if resizes else side, ends)

    def encode(self, text: str, images: Sequence[bytes] = ()) -> Prompt:
        """Encodes what a student is asked.

        Args:
            text: The problem.
            images: Encoded files, in the order in which the problem shows them.

        Raises:
            StudentError: If there are images and the model sees none, if an image cannot be read, or if the text
                spells an image's placeholder and the tokenizer knows no other way to read that.
        """
        key = (text, tuple(images))
        with self._lock:
            prompt = self._memory.get(key)
            if prompt is None:
                prompt = self._encode(*key)
                self._memory.put(key, prompt)
        return prompt

    def response(self, text: str) -> tuple[int, ...]:
        """Encodes an answer to learn, with the token that ends it.

        Raises:
            StudentError: As `encode` does for its text.
        """
        with self._lock:
            ids = self._literal(text) if self._controls.search(text) else self._tokens(text)
        return (*ids, self.ends[0])

    def save(self, path: str | Path) -> None:
        """Writes what `load` reads into a folder."""
        (self._processor or self.tokenizer).save_pretrained(path)

    def _encode(self, text: str, images: tuple[bytes, ...]) -> Prompt:
        if images and self._processor is None:
            raise StudentError("This student reads text only, and the problem has an image; choose one that sees.")
        # Control tokens that the text spells are cut out, the rest is encoded around them.
        spelled: list[str] = self._controls.findall(text)
        mark = next(c for c in map(chr, _PRIVATE) if c not in text)
        shown = self._ask(self._controls.sub(mark, text) if spelled else text, len(images))
        first, *others = shown.split(mark) if spelled else [shown]
        if len(others) != len(spelled):
            raise StudentError("This student's chat template does not repeat a problem's text as it is.")
        ids, extras = self._read(first, [self._fitted(open_image(i)) for i in images])
        for control, rest in zip(spelled, others, strict=True):
            ids += self._literal(control) + self._tokens(rest)
        for name in extras.keys() & set(PER_TOKEN):
            read = extras[name]
            extras[name] = torch.cat([read, read.new_zeros(1, len(ids) + 1 - read.shape[1])], dim=1)
        if self._prefix:
            extras["token_type_ids"] = torch.tensor([[0] * len(ids) + [1]])
        return Prompt(tuple(ids), extras)

    def _ask(self, text: str, images: int) -> str:
        """Writes a problem as the model is asked it, up to where the answer stands."""
        if self._prefix:
            return f"{self.tokenizer.bos_token or ''}{text}\n"
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        return self._render([{"role": "user", "content": text if self._processor is None else content}], True)

    def _render(self, messages: list[dict[str, Any]], generate: bool) -> str:
        how: dict[str, Any] = {"tokenize": False, "add_generation_prompt": generate}
        if self._plain:
            how |= {"chat_template": PLAIN_TEMPLATE, "image_mark": _image_mark(self.tokenizer, self._processor)}
        shown: str = self._asks.apply_chat_template(messages, **how)
        return shown

    def _read(self, shown: str, pictures: list[Any]) -> tuple[list[int], dict[str, torch.Tensor]]:
        """Encodes the text that holds the images' placeholders, with the images."""
        if self._processor is None or (self._prefix and not pictures):
            return self._tokens(shown), {}
        text = self._processor.image_token * len(pictures) if self._prefix else shown
        try:
            made = self._processor(text=text, images=pictures or None, return_tensors="pt", add_special_tokens=False)
        except (ValueError, IndexError, StopIteration) as error:
            raise StudentError(f"This student's processor cannot read the problem: {error}") from error
        # Gemma 3's marks images, others mean nothing.
        without = _TOKENS if type(self._processor).__name__ == "Gemma3Processor" else (*_TOKENS, "token_type_ids")
        extras = {k: v for k, v in made.items() if k not in without and isinstance(v, torch.Tensor)}
        ids: list[int] = made["input_ids"][0].tolist()
        if self._prefix:
            # The processor puts the rest of its format after the images; see `_ask`.
            ids = [i for i in ids if i in self._images] + self._tokens(shown)
        return ids, extras

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _literal(self, text: str) -> list[int]:
        """Encodes text that spells control tokens as text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if not self._images.isdisjoint(ids):
            spelled = ", ".join(dict.fromkeys(self._controls.findall(text)))
            raise StudentError(f"A text holds {spelled}, which this student can only read as an image.")
        return ids

    def _fitted(self, picture: Any) -> Any:
        """Scales a picture to the size that the model takes; whoever draws for it may draw larger ones."""
        fits = self._side is None or picture.size == (self._side, self._side)
        return picture if fits else picture.resize((self._side, self._side))

    def _turn_end(self, given: tuple[int, ...]) -> int | None:
        """Returns the special token that follows an assistant's message right away, if one does."""
        if self._prefix:
            return None
        said = chr(_PRIVATE[0])
        question: Any = "?" if self._processor is None else [{"type": "text", "text": "?"}]
        for answer in ([{"type": "text", "text": said}], said) if self._processor is not None else (said,):
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            try:
                _, seen, rest = self._render(messages, False).rpartition(said)
            except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError):
                continue  # a template that knows no such message
            if seen:
                ids = self._tokens(rest)
                special = {*self.tokenizer.all_special_ids, *given} | {
                    i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special
                }
                return ids[0] if ids and ids[0] in special - self._images else None
        return None


class _Memory:
    """Keeps the prompts that were used last, as many as are small enough together."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, tuple[bytes, ...]], Prompt] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[str, tuple[bytes, ...]]) -> Prompt | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: tuple[str, tuple[bytes, ...]], prompt: Prompt) -> None:
        self._kept[key] = prompt
        self._bytes += _size(prompt)
        while len(self._kept) > _REMEMBERED or self._bytes > _REMEMBERED_BYTES:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(prompt: Prompt) -> int:
    return sum(v.nbytes for v in prompt.extras.values())


def sees_images(config: Any) -> bool:
    """Whether a model of this transformers config reads images beside text."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


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


def _load_processor(path: str) -> Any:
    """Loads a processor, without what it has for videos where the packages for these are missing."""
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(path)
    except (ImportError, OSError) as error:
        # Packages for videos are missing, or the folder was written where they were.
        processor = _without_video(path, error)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise StudentError(f"The student {path!r} sees images, and there is no processor for them beside it.")
    return processor


def _without_video(path: str, error: Exception) -> Any:
    """Loads the part of a processor that reads images and text.

    Args:
        path: Folder or hub id.
        error: Why the whole one cannot be loaded.
    """
    from transformers import PROCESSOR_MAPPING, AutoConfig, Idefics3Processor

    try:
        kind = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(path))]
        parts = [a for a in kind.get_attributes() if a != "video_processor"]
        if kind.__name__ == "SmolVLMProcessor":
            # It reads images as Idefics 3 does, and cannot be made without packages for videos.
            kind = Idefics3Processor
        else:
            kind = type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda _: parts)})
        return kind.from_pretrained(path)
    except (ImportError, OSError, KeyError, TypeError, ValueError) as other:
        raise StudentError(f"The processor of the student {path!r} cannot be loaded: {error}") from other


def _image_ids(tokenizer: Any, processor: Any) -> frozenset[int]:
    """Returns the tokens in whose place a model puts what it sees."""
    if processor is None:
        return frozenset()
    # Before images are put in, Gemma 3 has another placeholder than afterwards.
    kinds = ("image_token_id", "image_token_ids", "video_token_id")
    found = [getattr(processor, k, None) for k in kinds] + [getattr(tokenizer, "image_token_id", None)]
    flat = [i for f in found for i in (f if isinstance(f, list | tuple) else [f])]
    return frozenset(i for i in flat if i is not None)


def _control_texts(tokenizer: Any, processor: Any) -> set[str]:
    """Returns what is not read as text: special tokens, and what a processor looks for in a text."""
    found = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found |= {*tokenizer.all_special_tokens, *getattr(processor, "all_special_multimodal_tokens", ())}
    return {f for f in map(str, found) if f.strip()}


def _image_mark(tokenizer: Any, processor: Any) -> str:
    """Returns what stands for an image in a text until the processor puts the image's tokens there."""
    mark: str | None = getattr(processor, "image_token", None)
    if mark is None:
        return ""
    around = ("<|vision_start|>", "<|vision_end|>")  # Qwen-VL counts positions by them
    known = tokenizer.get_added_vocab()
    return mark.join(around) if mark == "<|image_pad|>" and all(a in known for a in around) else mark
