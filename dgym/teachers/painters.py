"""Painters: what turns a teacher's description of a picture into the picture.

`scene` draws exactly what it is told, in the manner of the domain `vqa`, or nothing; `diffusers` asks a text-to-image
model, which draws something like it; `noise` is the control that draws nothing that was described.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, runtime_checkable

from dgym import registry
from dgym.errors import DgymError, TeacherError, UsageError, one_line, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_MODEL: Final = "stabilityai/sdxl-turbo"
"""What `diffusers` alone stands for; its authors draw with one step, without guidance, at 512 pixels."""


@runtime_checkable
class Painter(Protocol):
    """Draws pictures from descriptions. Several threads may call it at a time.

    Attributes:
        name: As `find_painter` knows it, for tables.
        version: Changes whenever pictures would.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def version(self) -> str: ...  # noqa: D102

    def paint(self, description: str, seed: int) -> bytes:
        """Draws a picture; all randomness comes from `seed`.

        Args:
            description: What is to be seen, in words.
            seed: At least 0 and below 2^63.

        Returns:
            An encoded PNG.

        Raises:
            TeacherError: If no picture can be made of this description.
            DgymError: Any other, if none can be made at all.
        """
        ...


@dataclass(frozen=True)
class SceneRenderer:
    """Draws scenes of coloured shapes exactly as described, in the form that `VqaDomain.pictures` asks for."""

    name: ClassVar[str] = "scene"
    version: ClassVar[str] = "1"

    def paint(self, description: str, seed: int) -> bytes:
        """Draws the scene; the seed does not matter."""
        from dgym.domains.scenes import read_description, render

        scene = read_description(description)
        if scene is None:
            raise TeacherError(f"Not the description of a scene: {description[:200]!r}")
        return render(scene)


@dataclass(frozen=True)
class Noise:
    """A control: pixels at random, 48 by 48, whatever is described."""

    name: ClassVar[str] = "noise"
    version: ClassVar[str] = "1"

    def paint(self, description: str, seed: int) -> bytes:
        """Draws the seed's noise."""
        from PIL import Image

        from dgym.domains.scenes import SIDE, encode

        pixels = random.Random(seed).randbytes(3 * SIDE * SIDE)
        return encode(Image.frombytes("RGB", (SIDE, SIDE), pixels))


@dataclass(frozen=True)
class Diffusers:
    """Draws with a text-to-image model of diffusers, loaded at the first picture.

    Attributes:
        model: A folder, or a name on the Hugging Face hub.
        steps: Denoising steps, at least 1.
        guidance: Scale of classifier-free guidance; up to 1 there is none.
        size: Width and height in pixels, a multiple of 8.
        device: Such as `"cpu"` or `"cuda:0"`; `"auto"` takes a GPU if there is one.

    Raises:
        UsageError: If a setting is out of its range.
    """

    model: str = DEFAULT_MODEL
    steps: int = 1
    guidance: float = 0.0
    size: int = 512
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.guidance < 0 or self.size < 8 or self.size % 8:
            raise UsageError(
                f"steps={self.steps}, guidance={self.guidance}, size={self.size}: an image model needs at least one "
                "step, a guidance of at least 0, and a size that is a multiple of 8."
            )

    def check(self) -> None:
        """Checks that diffusers is installed.

        Raises:
            UsageError: If it is not.
        """
        from dgym.models.images import require

        require()

    @property
    def name(self) -> str:
        """`diffusers`, with the model unless it is the usual one."""
        return "diffusers" if self.model == DEFAULT_MODEL else f"diffusers:{self.model}"

    @property
    def version(self) -> str:
        """Of this code, with the settings that change a picture."""
        return f"1 steps={self.steps} guidance={self.guidance} size={self.size}"

    def paint(self, description: str, seed: int) -> bytes:
        """Draws something like what is described; on one machine, the same seed gives the same bytes."""
        from dgym.models.images import text_to_image

        if not description.strip():
            raise TeacherError("An empty description.")
        # The pipeline and its lock are shared by the whole process, so that a painter stays a plain record.
        drawn = text_to_image(self.model, self.device).draw(
            description, seed, steps=self.steps, guidance=self.guidance, size=self.size
        )
        if drawn is None:
            raise TeacherError(f"The image model's safety checker withheld a picture of {description[:200]!r}")
        buffer = io.BytesIO()
        drawn.convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()


_PAINTERS: Final[Mapping[str, Callable[[], Painter]]] = {
    "scene": SceneRenderer,
    "noise": Noise,
    "diffusers": Diffusers,
}


def find_painter(name: str) -> Painter:
    """Makes a painter by name.

    Args:
        name: `scene`, `noise`, `diffusers`, `diffusers:MODEL` with a folder or a name on the hub, or
            `path/to/file.py:Attr` of a painter, or of a class or function that makes one without arguments.

    Raises:
        UsageError: If there is no such painter, or if it cannot be made.
    """
    kind, _, model = name.partition(":")
    if name in _PAINTERS:
        return _PAINTERS[name]()
    if kind == "diffusers" and model:
        return Diffusers(model)
    if registry.is_file(name):
        return _from_file(name)
    raise unknown_name("painter", name, [*_PAINTERS, "diffusers:MODEL"])


def _from_file(name: str) -> Painter:
    made: Any = registry.load("painter", name)
    if isinstance(made, type) or not isinstance(made, Painter):
        try:
            made = made()
        except DgymError:
            raise
        except Exception as error:
            raise UsageError(f"The painter {name!r} cannot be made: {one_line(error)}") from error
    if not isinstance(made, Painter):
        raise UsageError(
            f"The painter {name!r} is a {type(made).__name__}; it must have name, version and paint(description, seed)."
        )
    return made
