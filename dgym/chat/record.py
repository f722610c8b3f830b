"""Recorded answers: one JSON file per request, named by the digest of all that was asked.

What is recorded is what a model said, before anything is made of it; keys and headers never are. Two processes
that record the same answer write the same file; the last rename wins.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dgym.cache import cache_folder
from dgym.core import Message, digest


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered to one request.

    Attributes:
        text: What it said.
        finish: Why it stopped: `"stop"`, `"length"`, `"content_filter"`.
        refusal: What it said to decline, if it did so in the field for that; else empty.
        tokens_in: Tokens read.
        tokens_out: Tokens written.
        tokens_cached: Tokens read from the provider's cache, among those read.
        model: Which model the endpoint says that it was.
    """

    text: str
    finish: str = "stop"
    refusal: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """All of a request that can move its answer.

    Attributes:
        chat: Digest of endpoint, model and parameters.
        messages: What is said.
        schema: What form the answer must have.
        seed: The random seed.
        attempt: 0, or 1 for a repair.
    """

    chat: str
    messages: tuple[Message, ...]
    schema: Mapping[str, Any]
    seed: int
    attempt: int = 0

    @property
    def digest(self) -> str:
        """Names the record."""
        said = [[m.role, m.content, [_hashed(i) for i in m.images]] for m in self.messages]
        return digest(["chat-1", self.chat, said, self.schema, self.seed, self.attempt])


def _hashed(image: bytes) -> str:
    return hashlib.blake2b(image, digest_size=16).hexdigest()


class Record:
    """A folder of answers.

    Args:
        folder: Where; `chat` in dgym's cache folder unless given.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "chat"

    def find(self, request: Request) -> Reply | None:
        """Returns what was answered before; `None` where there is no record, or none that can be read."""
        try:
            value = json.loads(self._path(request).read_text(encoding="utf-8"))
            return Reply(**value["reply"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def keep(self, request: Request, reply: Reply, about: Mapping[str, Any]) -> None:
        """Records an answer; a folder that cannot be written costs calls later, nothing else.

        Args:
            request: What was asked.
            reply: What was answered.
            about: What else to say for whoever reads the file: endpoint, model, parameters.
        """
        said = [{"role": m.role, "content": m.content, "images": len(m.images)} for m in request.messages]
        asked = {"messages": said, "schema": request.schema, "seed": request.seed, "attempt": request.attempt}
        path = self._path(request)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}-{id(reply):x}.tmp")
            text = json.dumps({"chat": dict(about), "request": asked, "reply": asdict(reply)}, ensure_ascii=False)
            partial.write_text(text, encoding="utf-8", errors="replace")
            partial.replace(path)
        except OSError:
            pass

    def _path(self, request: Request) -> Path:
        name = request.digest
        return self.folder / name[:2] / f"{name}.json"


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Estimates the tokens of some messages without any model's tokenizer: four characters each, 800 an image."""
    return sum(len(m.content) // 4 + 4 + 800 * len(m.images) for m in messages)
