"""The small students that ship: names, variants, weights on disk. Loads no torch until one is needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dgym.core import Base
from dgym.errors import StudentError
from dgym.models.weights import folder_bytes


@dataclass(frozen=True)
class MicroFamily:
    """Variants of one small student; see `dgym.core.StudentFamily`.

    Attributes:
        name: Registered name, and the folder's.
        variants: All variants.
        drawn: Those that a seed may draw.
    """

    name: str
    variants: tuple[str, ...] = ("a", "b", "c", "u")
    drawn: tuple[str, ...] = ("a", "b", "c")

    def draw(self, seed: int) -> str:
        """Draws a variant: consecutive seeds take turns, so that a few seeds see them all."""
        return self.drawn[(seed - 1) % len(self.drawn)]

    def folder(self, variant: str) -> Path:
        """Returns where a variant's weights, tokenizer and card lie."""
        return Path(__file__).parent / "weights" / f"{self.name}-{variant}"

    def digest(self, variant: str) -> str:
        """Hashes weights, config and tokenizer."""
        return _digest(self.folder(variant))

    def bytes(self, variant: str, precision: str) -> int:
        """Returns how much memory a variant's weights take, without loading them."""
        return folder_bytes(self.folder(variant), precision)

    def load(self, variant: str, device: str, precision: str, threads: int) -> Base:
        """Loads a variant; sets the process's number of torch threads."""
        import torch

        from dgym.students.base import Base as TextBase

        torch.set_num_threads(threads)
        return TextBase(str(self.folder(variant)), self.digest(variant), device, precision)


def micro_math() -> MicroFamily:
    """A student of a million parameters for the domain `math`."""
    return MicroFamily("micro-math")


def micro_code() -> MicroFamily:
    """A student of a million parameters for the domain `code`."""
    return MicroFamily("micro-code")


def micro_tools() -> MicroFamily:
    """A student of a million parameters for the domain `tools`."""
    return MicroFamily("micro-tools")


def micro_vqa() -> MicroFamily:
    """A student of over a million parameters that sees, for the domain `vqa`."""
    return MicroFamily("micro-vqa")


@lru_cache(maxsize=64)
def _digest(folder: Path) -> str:
    total = hashlib.blake2b(digest_size=16)
    try:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            total.update((folder / name).read_bytes())
        for name in ("chat_template.jinja", "processor_config.json"):
            if (folder / name).is_file():
                total.update((folder / name).read_bytes())
    except OSError as error:
        raise StudentError(f"The student in {str(folder)!r} is incomplete: {error.strerror}.") from error
    return total.hexdigest()
