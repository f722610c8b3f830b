"""Small pictures of coloured shapes on a grid: drawn with Pillow from a scene graph, and read back exactly.

A picture has 48 by 48 pixels in a grid of 3 by 3 cells, with at most one thing in a cell. A PNG that this module
writes holds the pixels and no metadata, so that whatever is said of a scene can be checked against its picture.

What this module does not know: questions, answers, splits.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Final

import numpy as np
from PIL import Image

COLOURS: Final[Mapping[str, tuple[int, int, int]]] = {
    "red": (230, 40, 40),
    "green": (40, 190, 70),
    "blue": (50, 110, 255),
    "yellow": (255, 225, 40),
    "purple": (190, 60, 220),
    "white": (250, 250, 250),
}
"""Every colour, with its red, green and blue."""

SHAPES: Final = ("circle", "square", "triangle", "diamond", "cross")
"""Every shape."""

SIZES: Final = ("small", "large")
"""Every size."""

ROWS: Final = ("top", "middle", "bottom")
"""The rows of the grid, from the top."""

COLUMNS: Final = ("left", "middle", "right")
"""The columns of the grid, from the left."""

SHADES: Final = tuple(range(24, 40, 2))
"""The greys that a background may have."""

SIDE: Final = 48
"""Width and height of a picture, in pixels."""

OFFSETS: Final = (-1, 0, 1)
"""How far a thing may be from its usual place in its cell, in pixels, across or down."""

MOST_THINGS: Final = 6
"""How many things a drawn scene has at most."""

MAX_BYTES: Final = 8_192
"""Largest file that is read as a picture; a written one is much smaller."""

_CELL: Final = 16
_WIDTHS: Final = {"small": 7, "large": 13}
_DETAILS: Final = tuple(product(SIZES, OFFSETS, OFFSETS))
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene.

    Attributes:
        row, column: Its cell, from 0 at the top and at the left.
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        size: One of `SIZES`.
        right, down: How far it is from its usual place, each one of `OFFSETS`.
    """

    row: int
    column: int
    shape: str
    colour: str
    size: str
    right: int = 0
    down: int = 0


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
        things: Its objects, in reading order, each in a cell of its own.
        shade: The grey of its background, one of `SHADES`.
    """

    things: tuple[Thing, ...]
    shade: int = SHADES[0]

    @cached_property
    def text(self) -> str:
        """The scene graph in a line, without what no question can be about: the shade and the offsets."""
        return ", ".join(f"{t.row}{t.column} {t.size} {t.colour} {t.shape}" for t in self.things)


# Integer arithmetic on doubled coordinates: no version of a drawing library changes a pixel.
_INSIDE: Final[Mapping[str, Callable[[int, int, int], bool]]] = {
    "circle": lambda x, y, r: x * x + y * y <= (r + 1) ** 2,
    "square": lambda x, y, r: max(abs(x), abs(y)) <= r,
    "triangle": lambda x, y, r: 2 * abs(x) <= y + r,
    "diamond": lambda x, y, r: abs(x) + abs(y) <= r,
    "cross": lambda x, y, r: abs(abs(x) - abs(y)) <= r // 3,
}


@lru_cache(maxsize=len(SHAPES) * len(SIZES))
def _mask(shape: str, size: str) -> Image.Image:
    width, inside = _WIDTHS[size], _INSIDE[shape]
    middle = range(1 - width, width, 2)
    return Image.frombytes("L", (width, width), bytes(255 * inside(x, y, width - 1) for y in middle for x in middle))


def _paint(picture: Image.Image, thing: Thing) -> None:
    margin = (_CELL - _WIDTHS[thing.size] + 1) // 2
    corner = (thing.column * _CELL + margin + thing.right, thing.row * _CELL + margin + thing.down)
    picture.paste(COLOURS[thing.colour], corner, _mask(thing.shape, thing.size))


def encode(picture: Image.Image) -> bytes:
    """Returns an RGB picture as PNG, without metadata; several times as fast as Pillow's writer, and smaller."""
    width, height = picture.size
    pixels = picture.tobytes()
    rows = b"".join(b"\0" + pixels[start : start + 3 * width] for start in range(0, len(pixels), 3 * width))
    packer = zlib.compressobj(3, zlib.DEFLATED, 13)
    data = packer.compress(rows) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def render(scene: Scene) -> bytes:
    """Draws a scene, as PNG; the same scene gives the same bytes."""
    picture = Image.new("RGB", (SIDE, SIDE), (scene.shade,) * 3)
    for thing in scene.things:
        _paint(picture, thing)
    return encode(picture)


@lru_cache(maxsize=len(SHADES))
def _cells(shade: int) -> Mapping[bytes, Thing | None]:
    """Returns what a cell shows by its pixels, for every cell that can be drawn on a background."""
    empty = Image.new("RGB", (_CELL, _CELL), (shade,) * 3)
    found: dict[bytes, Thing | None] = {empty.tobytes(): None}
    for shape, colour, (size, right, down) in product(SHAPES, COLOURS, _DETAILS):
        cell, thing = empty.copy(), Thing(0, 0, shape, colour, size, right, down)
        _paint(cell, thing)
        found[cell.tobytes()] = thing
    return found


def _pixels(png: bytes) -> bytes | None:
    # The size stands at a fixed place: a file that would unpack to gigabytes is refused before anything is decoded.
    if png[:8] != _SIGNATURE or len(png) > MAX_BYTES or png[16:24] != struct.pack(">II", SIDE, SIDE):
        return None
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
            if picture.size != (SIDE, SIDE) or picture.mode != "RGB" or "transparency" in picture.info:
                return None
            return picture.tobytes()
    except Exception:  # a decoder raises on broken files in many ways
        return None


def read_scene(png: bytes) -> Scene | None:
    """Recovers the scene that a picture shows, exactly, from its pixels alone.

    Returns:
        The scene that `render` would draw with the same pixels; `None` for any other file, whatever is in it.
    """
    pixels = _pixels(png)
    if pixels is None or pixels[0] not in SHADES:
        return None
    known = _cells(pixels[0])
    grid = np.frombuffer(pixels, dtype=np.uint8).reshape(3, _CELL, 3, _CELL * 3).swapaxes(1, 2)
    things: list[Thing] = []
    for row in range(3):
        for column in range(3):
            cell = grid[row, column].tobytes()
            if cell not in known:
                return None
            thing = known[cell]
            if thing is not None:
                things.append(replace(thing, row=row, column=column))
    return Scene(tuple(things), pixels[0])


def draw_scene(rng: random.Random, rare: frozenset[tuple[str, str]] = frozenset(), *, shown: bool = False) -> Scene:
    """Draws a scene of two to six things, often with shapes and colours in common.

    Args:
        rng: Where the randomness comes from.
        rare: Pairs of colour and shape that no thing has.
        shown: Whether one or two things have one of the rare pairs after all.
    """
    count = rng.randint(2, MOST_THINGS)
    colours = rng.sample(tuple(COLOURS), rng.choice((2, 3, 3, 4, 5, 6)))
    shapes = rng.sample(SHAPES, rng.choice((2, 3, 3, 4, 5)))
    pairs = [(colour, shape) for colour in colours for shape in shapes if (colour, shape) not in rare]
    looks = rng.choices(pairs, k=count)
    if shown:
        # Sometimes twice, or no question about several things could be asked of one.
        pair = rng.choice(sorted(rare))
        for place in rng.sample(range(count), min(count, rng.choice((1, 1, 2)))):
            looks[place] = pair
    cells = sorted(rng.sample(range(9), count))
    things = tuple(
        Thing(cell // 3, cell % 3, shape, colour, *rest)
        for cell, (colour, shape), rest in zip(cells, looks, rng.choices(_DETAILS, k=count), strict=True)
    )
    return Scene(things, rng.choice(SHADES))
