"""Small pictures of coloured shapes on a grid: drawn with Pillow from a scene graph, and read back exactly.

A scene can also be told in words (`describe`), and read from words (`read_description`).

A picture has 48 by 48 pixels in a grid of 3 by 3 cells, with at most one thing in a cell. A PNG that this module
writes holds the pixels and no metadata, so that whatever is said of a scene can be checked against its picture.

What this module does not know: questions, answers, splits.
"""

from __future__ import annotations

import io
import random
import re
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

FEWEST_THINGS: Final = 2
"""How many things a drawn scene has at least."""

MOST_THINGS: Final = 6
"""How many things a drawn scene has at most."""

MAX_BYTES: Final = 8_192
"""Largest file that is read as a picture; a written one is much smaller."""

USUAL_SIZE: Final = "large"
"""The size of a thing that is described without one."""

MAX_DESCRIPTION: Final = 2_000
"""Longest text that is read as a description, in characters."""

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
    count = rng.randint(FEWEST_THINGS, MOST_THINGS)
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


def describe(scene: Scene) -> str:
    """Tells in plain English what a scene shows; `read_description` turns it back into the scene.

    Offsets and shade are told only where they are not the usual ones.
    """
    told = [_tell(thing) for thing in scene.things]
    if scene.shade != SHADES[0]:
        told.append(f"the background is grey {scene.shade}")
    return "; ".join(told)


def _tell(thing: Thing) -> str:
    centre = thing.row == thing.column == 1
    place = "in the middle" if centre else f"at the {ROWS[thing.row]} {COLUMNS[thing.column]}"
    ways = {"left": -thing.right, "right": thing.right, "up": -thing.down, "down": thing.down}
    moved = " and ".join(f"1 pixel {way}" for way, pixels in ways.items() if pixels > 0)
    return f"a {thing.size} {thing.colour} {thing.shape} {place}" + (f", {moved}" if moved else "")


# How a description is read. Words are brought into one form, phrases into single marks in capital letters, which no
# word has; what is left over then is something that was not understood.
_FILLERS: Final = frozenset(("a", "an", "the", "is", "are", "there", "at", "in", "on", "to", "against", "located"))
_SAME: Final[Mapping[str, str]] = {
    "centre": "middle",
    "center": "middle",
    "upper": "top",
    "lower": "bottom",
    "big": "large",
    "little": "small",
    "gray": "grey",
    "one": "1",
    "pixels": "pixel",
}
_DARK: Final = r"(?:dark |plain )*(?:dark|grey)"
_PHRASES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), mark)
    for pattern, mark in (
        (r"^(?:picture|image|scene|grid) (?:of|with|shows)\b", ""),
        # A phrase about the background ends what went before, or its neighbours might pass for a thing's attributes.
        (rf"\bbackground {_DARK}(?: (\d+))?(?=$| [;,])", r"; BACKGROUND\1 ;"),
        (rf"\b{_DARK} background\b(?: with\b)?", "; BACKGROUND ;"),
        (r"\b(?:1 )?pixel (left|right|up|down)\b", r"MOVED\1"),
        (r"\bof (?=(?:top|bottom) (?:row|edge|side)|(?:left|right) (?:column|edge|side)|middle (?:row|column))", ""),
        (r"\bof (?:picture|image|scene|grid)\b", ""),
        (r"\bmiddle (row|column)\b", r"MIDDLE\1"),
        (r"\b(top|bottom) (?:row|edge|side)\b", r"\1"),
        (r"\b(left|right) (?:column|edge|side)\b", r"\1"),
        (r"\b(top|bottom|middle) (left|right|middle) (?:corner|cell)\b", r"\1 \2"),
        (r"\bmiddle cell\b", "middle"),
    )
)
_BACKGROUND: Final = re.compile(r"BACKGROUND(\d*)")
_MOVES: Final[Mapping[str, tuple[str, int]]] = {
    "MOVEDleft": ("right", -1),
    "MOVEDright": ("right", 1),
    "MOVEDup": ("down", -1),
    "MOVEDdown": ("down", 1),
}
_MOST_PIECES: Final = 8


def read_description(text: str) -> Scene | None:
    """Reads what a picture is to show from a description in plain English, such as those of `describe`.

    A thing has a colour, a shape, a row and a column, in any order, and may have a size (else `USUAL_SIZE`). Things
    are separated by semicolons, full stops or lines, or by commas or "and" where only one reading is possible.

    Returns:
        The scene; `None` where a thing cannot be placed or two share a cell, where there are fewer than
        `FEWEST_THINGS` or more than `MOST_THINGS`, and where anything was said that is not understood, so that a
        picture never shows less than its description.
    """
    if len(text) > MAX_DESCRIPTION:
        return None
    plain = re.sub(r"^\s*(?:[*•]|\d+[.)])\s", "\n", text.lower(), flags=re.MULTILINE)
    plain = re.sub(r"[-–—:()]", " ", plain)
    if re.search(r"[^a-z0-9\s;.,]", plain):
        return None
    words = [_SAME.get(word, word) for word in re.findall(r"[a-z0-9]+|,|[;.\n]", plain)]
    separators = {"and": ",", ".": ";", "\n": ";"}
    plain = " ".join(separators.get(word, word) for word in words if word not in _FILLERS)
    for pattern, mark in _PHRASES:
        plain = pattern.sub(mark, plain)
    things: list[Thing] = []
    shades: list[int] = []
    for part in plain.split(";"):
        pieces = [piece.split() for piece in part.split(",") if piece.strip()]
        background = _BACKGROUND.fullmatch(pieces[0][0]) if len(pieces) == 1 and len(pieces[0]) == 1 else None
        if background:
            shades.append(int(background[1] or SHADES[0]))
            continue
        read = _read_things(pieces)
        if read is None:
            return None
        things += read
    cells = {(thing.row, thing.column) for thing in things}
    if len(cells) < len(things) or not FEWEST_THINGS <= len(things) <= MOST_THINGS:
        return None
    if len(shades) > 1 or not set(shades) <= set(SHADES):
        return None
    return Scene(tuple(sorted(things, key=lambda t: (t.row, t.column))), *shades)


def _read_things(pieces: list[list[str]]) -> tuple[Thing, ...] | None:
    """Reads the things that consecutive pieces of text tell of; `None` if there is not exactly one reading."""
    # From the end: all readings of what follows a piece, of which two are as bad as many.
    readings: list[list[tuple[Thing, ...]]] = [[] for _ in pieces] + [[()]]
    for first in reversed(range(len(pieces))):
        words: list[str] = []
        for last in range(first, min(first + _MOST_PIECES, len(pieces))):
            words += pieces[last]
            thing = _read_thing(words) if readings[last + 1] else None
            if thing is not None:
                readings[first] += [(thing, *rest) for rest in readings[last + 1]]
        readings[first] = readings[first][:2]
    return readings[0][0] if len(readings[0]) == 1 else None


def _read_thing(words: list[str]) -> Thing | None:
    """Reads one thing from its words, in any order; `None` if one is lacking, contradicted or not understood."""
    looks = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES}
    found: dict[str, list[str]] = {name: [word for word in words if word in values] for name, values in looks.items()}
    moves = [_MOVES[word] for word in words if word in _MOVES]
    rest = [word for word in words if word not in _MOVES and not any(word in values for values in looks.values())]
    place = _read_place(rest)
    if place is None or not len(found["shape"]) == len(found["colour"]) == 1 or len(found["size"]) > 1:
        return None
    moved = dict(moves)
    if len(moved) < len(moves):
        return None
    size = found["size"][0] if found["size"] else USUAL_SIZE
    return Thing(*place, found["shape"][0], found["colour"][0], size, **moved)


def _read_place(words: list[str]) -> tuple[int, int] | None:
    """Reads a cell from words of place; `None` if there is none, more than one, or any other word."""
    rows = {1 if word == "MIDDLErow" else ROWS.index(word) for word in words if word in ("top", "bottom", "MIDDLErow")}
    columns = {
        1 if word == "MIDDLEcolumn" else COLUMNS.index(word)
        for word in words
        if word in ("left", "right", "MIDDLEcolumn")
    }
    if not set(words) <= {*ROWS, *COLUMNS, "MIDDLErow", "MIDDLEcolumn"}:
        return None
    if "middle" in words:
        # It is said of whatever is not named otherwise.
        if rows and columns and 1 not in rows | columns:
            return None
        rows, columns = rows or {1}, columns or {1}
    return (rows.pop(), columns.pop()) if len(rows) == len(columns) == 1 else None
