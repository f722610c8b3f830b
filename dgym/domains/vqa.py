"""VQA: short questions about small pictures, of ten types in the manner of GQA.

Every picture is drawn from a scene graph and read back from its pixels (`dgym.domains.scenes`), and every question
is read back from its sentence, so that an answer is computed from what the picture shows. A question is only asked
where it has one answer: "the circle" wherever there is exactly one. A problem's identity is its scene without shade
and offsets, with what is asked of it, in whatever words.

Three pairs of colour and shape are held out: a problem whose picture shows one of them, or whose question names one,
belongs to the test split alone.

The manner of asking is that of GQA (Hudson & Manning 2019, https://arxiv.org/abs/1902.09506).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar, Final, NamedTuple

from PIL import Image

from dgym.core import NEW_COMBINATION, Example, Problem, Split, derive_seed
from dgym.domains.forms import Forms, Slot, one_of
from dgym.domains.procedural import ProceduralDomain, Task, split_of, words_of
from dgym.domains.scenes import (
    COLOURS,
    COLUMNS,
    ROWS,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    Thing,
    draw_scene,
    encode,
    read_scene,
    render,
)

HELD_OUT: Final = frozenset({("red", "triangle"), ("blue", "cross"), ("yellow", "circle")})
"""The pairs of colour and shape that only the test split shows or names; no colour or shape is in two."""

LONGEST_QUESTION: Final = 200
"""How many characters a question has at most; a longer text is none."""

_NEW_PERCENT: Final = 18
_YES_NO: Final = ("yes", "no")
_NUMBERS: Final = tuple(str(n) for n in range(10))
_NUMBER_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Slots = Mapping[str, Any]


# --------------------------------------------------------------------------------------------------------------
# What questions speak of


class Kind(NamedTuple):
    """A description of things: what is empty does not matter.

    Attributes:
        size, colour, shape: What a thing must have.
    """

    size: str = ""
    colour: str = ""
    shape: str = ""

    def fits(self, thing: Thing) -> bool:
        """Whether a thing is described."""
        return self.colour in ("", thing.colour) and self.shape in ("", thing.shape) and self.size in ("", thing.size)

    def words(self, plural: bool = False) -> str:
        """Returns it in English, such as `large red circles`."""
        noun = self.shape or "thing"
        end = "" if not plural else "es" if noun.endswith("s") else "s"
        return " ".join(word for word in (self.size, self.colour, noun + end) if word)


def _kinds(attributes: str) -> list[Kind]:
    named = attributes.split()
    values = {"size": SIZES, "colour": tuple(COLOURS), "shape": SHAPES}
    return [Kind(**dict(zip(named, chosen, strict=True))) for chosen in product(*(values[name] for name in named))]


def _slot(*attributes: str, plural: bool = False) -> Slot:
    """Returns a slot for descriptions by these attributes, such as `"size shape"`."""
    return one_of({kind: kind.words(plural) for names in attributes for kind in _kinds(names)})


def _words(words: Sequence[str]) -> Slot:
    return one_of({word: word for word in words})


_COLOUR, _SHAPE, _SIZE = _words(tuple(COLOURS)), _words(SHAPES), _words(SIZES)
_PLACE: Final = one_of(
    {
        (row, column): "centre" if row == column == 1 else f"{ROWS[row]} {COLUMNS[column]}"
        for row in range(3)
        for column in range(3)
    }
)
_SIDEWAYS: Final = one_of({(0, -1): ("left of", "to the left of"), (0, 1): ("right of", "to the right of")})
_UP_OR_DOWN: Final = one_of({(-1, 0): "above", (1, 0): "below"})
_AROUND: Final = one_of({(0, -1): "left of", (0, 1): "right of", (-1, 0): "above", (1, 0): "below"})
_EDGE: Final = one_of({(0, -1): "left", (0, 1): "right", (-1, 0): "top", (1, 0): "bottom"})


def _only(scene: Scene, kind: Kind) -> Thing | None:
    """Returns the one thing that a description fits, or `None`."""
    found = [thing for thing in scene.things if kind.fits(thing)]
    return found[0] if len(found) == 1 else None


def _some(scene: Scene, kind: Kind) -> bool:
    return any(kind.fits(thing) for thing in scene.things)


def _many(scene: Scene, kind: Kind) -> int:
    return sum(kind.fits(thing) for thing in scene.things)


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


# --------------------------------------------------------------------------------------------------------------
# Structures: what is asked, its answer, and how it is drawn


class Found(NamedTuple):
    """The answer to a question that a scene has an answer to.

    Attributes:
        answer: It.
        things: What one has to look at.
    """

    answer: str
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Structure:
    """One part of a skill: all questions that differ in names only.

    Attributes:
        skill, name: The skill, and the refinement of it.
        forms: Sentences, in lower case.
        solve: Answers a question, or gives `None` where the scene has no single answer.
        draw: Draws a question about a scene, or gives `None` where there is none.
        answers: All answers that such a question may have.
        wanted: Answers that are drawn equally often; empty where the scenes see to that.
        same: Brings the slots of questions that ask the same into one order.
        joined: Whether a colour and a shape in different places of the question speak of one thing.
    """

    skill: str
    name: str
    forms: Forms
    solve: Callable[[Scene, Slots], Found | None]
    draw: Callable[[random.Random, Scene], Slots | None]
    answers: Callable[[Slots], Sequence[str]]
    wanted: tuple[str, ...] = ()
    same: Callable[[Slots], Slots] = lambda slots: slots
    joined: bool = False

    def named(self, slots: Slots) -> set[tuple[str, str]]:
        """Returns the pairs of colour and shape that a question names."""
        kinds = [value for value in slots.values() if isinstance(value, Kind)]
        pairs = {(kind.colour, kind.shape) for kind in kinds if kind.colour and kind.shape}
        if self.joined:
            loose = {value for value in slots.values() if isinstance(value, str)}
            colours = {kind.colour for kind in kinds} | loose & COLOURS.keys()
            shapes = {kind.shape for kind in kinds} | loose & set(SHAPES)
            pairs |= {(colour, shape) for colour in colours for shape in shapes if colour and shape}
        return pairs


@dataclass(frozen=True)
class Asked:
    """A question about a scene, taken apart.

    Attributes:
        structure: What is asked.
        slots: Of what.
        scene: Where.
    """

    structure: Structure
    slots: Slots
    scene: Scene


def _either(slots: Slots) -> Slots:
    """The order of `a` and `b` does not matter."""
    return {**slots, "a": min(slots["a"], slots["b"]), "b": max(slots["a"], slots["b"])}


def _facing(slots: Slots) -> Slots:
    """A is left of B where B is right of A."""
    down, right = slots["side"]
    return slots if (down, right) < (0, 0) else {"a": slots["b"], "b": slots["a"], "side": (-down, -right)}


def _always(*answers: str) -> Callable[[Slots], Sequence[str]]:
    return lambda _: answers


def _given(slots: Slots) -> Sequence[str]:
    return slots["a"], slots["b"]


def _of(thing: Thing, attributes: str) -> Kind:
    return Kind(**{name: getattr(thing, name) for name in attributes.split()})


def _describe(rng: random.Random, scene: Scene, thing: Thing, attributes: Sequence[str]) -> Kind | None:
    """Describes a thing as no other can be; a size is named where it is needed, more often than not."""
    names = rng.choice(attributes)
    kind = _of(thing, names)
    if _only(scene, kind) is None:
        return None
    if "size " in names and rng.random() < 0.7 and _only(scene, kind._replace(size="")) is not None:
        return None
    return kind


def _refer(rng: random.Random, scene: Scene, *attributes: str) -> Kind | None:
    return _describe(rng, scene, rng.choice(scene.things), attributes)


def _refer_twice(rng: random.Random, scene: Scene, *attributes: str) -> Slots | None:
    one, other = rng.sample(scene.things, 2)
    a = _describe(rng, scene, one, attributes)
    b = _describe(rng, scene, other, attributes) if a else None
    return {"a": a, "b": b} if b else None


def _mention(rng: random.Random, scene: Scene, attributes: str, astray: float = 0.5) -> Kind:
    """Describes something that the scene shows, or with some probability something else that it nearly shows."""
    kind = _of(rng.choice(scene.things), attributes)
    if rng.random() < astray:
        names = attributes.split()
        name = rng.choice(names)
        seen = len(names) > 1 and rng.random() < 0.5
        kind = kind._replace(**{name: getattr(rng.choice(scene.things), name) if seen else rng.choice(_VALUES[name])})
    return kind


_VALUES: Final[Mapping[str, Sequence[str]]] = {"colour": tuple(COLOURS), "shape": SHAPES, "size": SIZES}


def _other(rng: random.Random, scene: Scene, name: str, value: str) -> str:
    """Draws another value of an attribute, more often than not one that the scene shows too."""
    seen: list[str] = sorted({getattr(thing, name) for thing in scene.things} - {value})
    return rng.choice(seen if seen and rng.random() < 0.6 else [v for v in _VALUES[name] if v != value])


def _exists(name: str) -> Structure:
    forms = Forms(
        "is there a {d}?",
        "do you see a {d}?",
        "is a {d} in the picture?",
        "does the picture show a {d}?",
        "can you find a {d}?",
        "does the picture contain a {d}?",
        d=_slot(name),
    )
    return Structure(
        "exists",
        _and(name),
        forms,
        lambda scene, s: Found(_yes(_some(scene, s["d"])), scene.things),
        lambda rng, scene: {"d": _mention(rng, scene, name)},
        _always(*_YES_NO),
        _YES_NO,
    )


def _and(attributes: str) -> str:
    return attributes.replace(" ", " and ")


def _attribute_forms(asked: str, subject: str, **slots: Slot) -> Forms:
    return Forms(
        f"what {asked} is the {subject}?",
        f"which {asked} is the {subject}?",
        f"what is the {asked} of the {subject}?",
        f"which {asked} does the {subject} have?",
        f"name the {asked} of the {subject}.",
        f"tell me the {asked} of the {subject}.",
        **slots,
    )


def _query(asked: str, name: str) -> Structure:
    def solve(scene: Scene, slots: Slots) -> Found | None:
        thing = _only(scene, slots["d"])
        return Found(getattr(thing, asked), (thing,)) if thing else None

    def draw(rng: random.Random, scene: Scene) -> Slots | None:
        kind = _refer(rng, scene, name)
        return {"d": kind} if kind else None

    forms = _attribute_forms(asked, "{d}", d=_slot(name))
    return Structure(f"query-{asked}", f"by {_and(name)}", forms, solve, draw, _always(*_VALUES[asked]))


def _query_place(asked: str) -> Structure:
    def solve(scene: Scene, slots: Slots) -> Found | None:
        thing = next((t for t in scene.things if (t.row, t.column) == slots["place"]), None)
        return Found(getattr(thing, asked), (thing,)) if thing else None

    def draw(rng: random.Random, scene: Scene) -> Slots:
        thing = rng.choice(scene.things)
        return {"place": (thing.row, thing.column)}

    forms = _attribute_forms(asked, "thing in the {place}", place=_PLACE)
    return Structure(f"query-{asked}", "by place", forms, solve, draw, _always(*_VALUES[asked]))


def _choose(asked: str, *by: str) -> Structure:
    def solve(scene: Scene, slots: Slots) -> Found | None:
        thing = _only(scene, slots["d"])
        if thing is None or slots["a"] == slots["b"] or getattr(thing, asked) not in (slots["a"], slots["b"]):
            return None
        return Found(getattr(thing, asked), (thing,))

    def draw(rng: random.Random, scene: Scene) -> Slots | None:
        kind = _refer(rng, scene, *by)
        thing = _only(scene, kind) if kind else None
        if thing is None:
            return None
        options = [getattr(thing, asked)]
        options.append(_other(rng, scene, asked, options[0]))
        rng.shuffle(options)
        return {"d": kind, "a": options[0], "b": options[1]}

    a, b = ("a {a}", "a {b}") if asked == "shape" else ("{a}", "{b}")
    forms = Forms(
        f"is the {{d}} {a} or {b}?",
        f"what {asked} is the {{d}}, {{a}} or {{b}}?",
        f"which is the {{d}}, {a} or {b}?",
        f"choose the {asked} of the {{d}}: {{a}} or {{b}}.",
        f"would you call the {{d}} {a} or {b}?",
        f"is the {asked} of the {{d}} {{a}} or {{b}}?",
        d=_slot(*by),
        a=_words(_VALUES[asked]),
        b=_words(_VALUES[asked]),
    )
    return Structure("choose", asked, forms, solve, draw, _given, same=_either, joined=asked != "size")


def _same(asked: str, *by: str) -> Structure:
    def solve(scene: Scene, slots: Slots) -> Found | None:
        one, other = _only(scene, slots["a"]), _only(scene, slots["b"])
        if one is None or other is None or one == other:
            return None
        return Found(_yes(getattr(one, asked) == getattr(other, asked)), (one, other))

    def draw(rng: random.Random, scene: Scene) -> Slots | None:
        return _refer_twice(rng, scene, *by)

    forms = Forms(
        f"are the {{a}} and the {{b}} the same {asked}?",
        f"do the {{a}} and the {{b}} have the same {asked}?",
        f"is the {{a}} the same {asked} as the {{b}}?",
        f"does the {{a}} have the {asked} of the {{b}}?",
        f"do the {{a}} and the {{b}} share a {asked}?",
        a=_slot(*by),
        b=_slot(*by),
    )
    return Structure("compare", f"same {asked}", forms, solve, draw, _always(*_YES_NO), _YES_NO, _either)


def _more(name: str) -> Structure:
    def solve(scene: Scene, slots: Slots) -> Found | None:
        if slots["a"] == slots["b"]:
            return None
        return Found(_yes(_many(scene, slots["a"]) > _many(scene, slots["b"])), scene.things)

    def draw(rng: random.Random, scene: Scene) -> Slots:
        return {"a": _mention(rng, scene, name), "b": _mention(rng, scene, name)}

    forms = Forms(
        "are there more {a} than {b}?",
        "do you see more {a} than {b}?",
        "does the picture show more {a} than {b}?",
        "does the picture have more {a} than {b}?",
        "can you find more {a} than {b}?",
        a=_slot(name, plural=True),
        b=_slot(name, plural=True),
    )
    return Structure("compare", f"more of a {name}", forms, solve, draw, _always(*_YES_NO), _YES_NO)


def _count(name: str) -> Structure:
    forms = Forms(
        "how many {d} are there?",
        "how many {d} do you see?",
        "how many {d} are in the picture?",
        "count the {d}.",
        "what is the number of {d}?",
        "how many {d} does the picture show?",
        d=_slot(name, plural=True),
    )
    return Structure(
        "count",
        f"by {_and(name)}" if name else "all",
        forms,
        lambda scene, s: Found(str(_many(scene, s["d"])), scene.things),
        lambda rng, scene: {"d": _mention(rng, scene, name) if name else Kind()},
        _always(*_NUMBERS[:7]),
        {"": (), "size": _NUMBERS[1:5]}.get(name, _NUMBERS[:4]),
    )


def _side_of(name: str, side: Slot, by: Sequence[str]) -> Structure:
    def solve(scene: Scene, slots: Slots) -> Found | None:
        one, other = _only(scene, slots["a"]), _only(scene, slots["b"])
        if one is None or other is None or one == other:
            return None
        down, right = slots["side"]
        apart = (one.row - other.row) * down + (one.column - other.column) * right
        return Found(_yes(apart > 0), (one, other))

    def draw(rng: random.Random, scene: Scene) -> Slots | None:
        slots = _refer_twice(rng, scene, *by)
        sides = _DIRECTIONS[2:] if side is _UP_OR_DOWN else _DIRECTIONS[:2]
        return {**slots, "side": rng.choice(sides)} if slots else None

    forms = Forms(
        "is the {a} {side} the {b}?",
        "do you see the {a} {side} the {b}?",
        "does the {a} lie {side} the {b}?",
        "can you find the {a} {side} the {b}?",
        "does the {a} stand {side} the {b}?",
        a=_slot(*by),
        b=_slot(*by),
        side=side,
    )
    return Structure("relation", name, forms, solve, draw, _always(*_YES_NO), _YES_NO, _facing)


def _neighbour(asked: str, by: Sequence[str]) -> Structure:
    def solve(scene: Scene, slots: Slots) -> Found | None:
        thing = _only(scene, slots["d"])
        if thing is None:
            return None
        cell = thing.row + slots["side"][0], thing.column + slots["side"][1]
        beside = next((t for t in scene.things if (t.row, t.column) == cell), None)
        return Found(getattr(beside, asked), (thing, beside)) if beside else None

    def draw(rng: random.Random, scene: Scene) -> Slots | None:
        kind = _refer(rng, scene, *by)
        return {"d": kind, "side": rng.choice(_DIRECTIONS)} if kind else None

    # A shape is what is there; a colour needs a thing to have it.
    it, its = ("shape", "shape is") if asked == "shape" else (f"{asked} of the thing", f"{asked} is the thing")
    forms = Forms(
        f"what {its} directly {{side}} the {{d}}?",
        f"which {its} directly {{side}} the {{d}}?",
        f"what is the {it} directly {{side}} the {{d}}?",
        f"name the {it} directly {{side}} the {{d}}.",
        f"tell me the {it} directly {{side}} the {{d}}.",
        d=_slot(*by),
        side=_AROUND,
    )
    return Structure("relation", f"{asked} next to", forms, solve, draw, _always(*_VALUES[asked]))


_DIRECTIONS: Final = ((0, -1), (0, 1), (-1, 0), (1, 0))


def _line(line: str, names: Sequence[str], by: Sequence[str]) -> Structure:
    """Asks for a thing's row or column."""

    def solve(scene: Scene, slots: Slots) -> Found | None:
        thing = _only(scene, slots["d"])
        return Found(names[getattr(thing, line)], (thing,)) if thing else None

    def draw(rng: random.Random, scene: Scene) -> Slots | None:
        kind = _refer(rng, scene, *by)
        return {"d": kind} if kind else None

    forms = Forms(
        f"in which {line} is the {{d}}?",
        f"which {line} is the {{d}} in?",
        f"what {line} is the {{d}} in?",
        f"name the {line} of the {{d}}.",
        f"tell me the {line} of the {{d}}.",
        d=_slot(*by),
    )
    return Structure("position", line, forms, solve, draw, _always(*names))


def _corner(by: Sequence[str]) -> Structure:
    def solve(scene: Scene, slots: Slots) -> Found | None:
        thing = _only(scene, slots["d"])
        return Found(_yes(thing.row != 1 != thing.column), (thing,)) if thing else None

    def draw(rng: random.Random, scene: Scene) -> Slots | None:
        kind = _refer(rng, scene, *by)
        return {"d": kind} if kind else None

    forms = Forms(
        "is the {d} in a corner?",
        "do you see the {d} in a corner?",
        "is it true that the {d} is in a corner?",
        "can you find the {d} in a corner?",
        "does the picture show the {d} in a corner?",
        d=_slot(*by),
    )
    return Structure("position", "corner", forms, solve, draw, _always(*_YES_NO), _YES_NO)


def _outermost() -> Structure:
    def solve(scene: Scene, slots: Slots) -> Found | None:
        down, right = slots["edge"]
        reach = [thing.row * down + thing.column * right for thing in scene.things]
        if not reach or reach.count(max(reach)) > 1:
            return None
        thing = scene.things[reach.index(max(reach))]
        return Found(thing.shape, (thing,))

    def draw(rng: random.Random, _: Scene) -> Slots:
        return {"edge": rng.choice(_DIRECTIONS)}

    forms = Forms(
        "what shape is nearest the {edge} edge?",
        "which shape is nearest the {edge} edge?",
        "what is the shape nearest the {edge} edge?",
        "name the shape nearest the {edge} edge.",
        "tell me the shape nearest the {edge} edge.",
        edge=_EDGE,
    )
    return Structure(
        "position",
        "nearest an edge",
        forms,
        solve,
        draw,
        _always(*SHAPES),
    )


def _both(name: str, word: str) -> Structure:
    """Joins two conditions of one sort, so that no single thing meets both."""
    join = all if word == "and" else any

    def solve(scene: Scene, slots: Slots) -> Found | None:
        if slots["a"] == slots["b"] or _attributes(slots["a"]) != _attributes(slots["b"]):
            return None
        return Found(_yes(join(_some(scene, slots[x]) for x in "ab")), scene.things)

    def draw(rng: random.Random, scene: Scene) -> Slots:
        attributes = rng.choice(_SORTS)
        return {x: _mention(rng, scene, attributes, 0.5 if word == "and" else 0.9) for x in "ab"}

    both = "both " if word == "and" else "either "
    forms = Forms(
        f"is there {both}a {{a}} {word} a {{b}}?",
        f"is there a {{a}} {word} a {{b}}?",
        f"do you see {both}a {{a}} {word} a {{b}}?",
        f"does the picture show {both}a {{a}} {word} a {{b}}?",
        f"can you find {both}a {{a}} {word} a {{b}}?",
        a=_slot(*_SORTS),
        b=_slot(*_SORTS),
    )
    return Structure("logical", name, forms, solve, draw, _always(*_YES_NO), _YES_NO, _either)


_SORTS: Final = ("shape", "colour", "colour shape")


def _attributes(kind: Kind) -> tuple[bool, ...]:
    return tuple(bool(value) for value in kind)


def _but_not() -> Structure:
    def draw(rng: random.Random, scene: Scene) -> Slots:
        thing = rng.choice(scene.things)
        return {"d": _of(thing, "shape"), "colour": thing.colour}

    def solve(scene: Scene, slots: Slots) -> Found:
        kind = slots["d"]
        return Found(_yes(any(kind.fits(t) and t.colour != slots["colour"] for t in scene.things)), scene.things)

    forms = Forms(
        "is there a {d} that is not {colour}?",
        "do you see a {d} that is not {colour}?",
        "does the picture show a {d} that is not {colour}?",
        "can you find a {d} that is not {colour}?",
        "does the picture contain a {d} that is not {colour}?",
        d=_slot("shape"),
        colour=_COLOUR,
    )
    return Structure("logical", "not", forms, solve, draw, _always(*_YES_NO), _YES_NO, joined=True)


def _every() -> Structure:
    def draw(rng: random.Random, scene: Scene) -> Slots | None:
        thing = rng.choice(scene.things)
        kind = _of(thing, "shape")
        # Of a single thing the question would be another skill's.
        return {"d": kind, "colour": thing.colour} if _many(scene, kind) > 1 else None

    def solve(scene: Scene, slots: Slots) -> Found | None:
        described = tuple(thing for thing in scene.things if slots["d"].fits(thing))
        if not described:
            return None
        return Found(_yes(all(thing.colour == slots["colour"] for thing in described)), described)

    forms = Forms(
        "is every {d} {colour}?",
        "is each {d} {colour}?",
        "is it true that every {d} is {colour}?",
        "does every {d} look {colour}?",
        "would you call every {d} {colour}?",
        d=_slot("shape"),
        colour=_COLOUR,
    )
    return Structure("logical", "every", forms, solve, draw, _always(*_YES_NO), _YES_NO, joined=True)


def _verify(asked: str, *by: str) -> Structure:
    def solve(scene: Scene, slots: Slots) -> Found | None:
        thing = _only(scene, slots["d"])
        return Found(_yes(getattr(thing, asked) == slots["a"]), (thing,)) if thing else None

    def draw(rng: random.Random, scene: Scene) -> Slots | None:
        kind = _refer(rng, scene, *by)
        thing = _only(scene, kind) if kind else None
        if thing is None:
            return None
        value: str = getattr(thing, asked)
        return {"d": kind, "a": value if rng.random() < 0.5 else _other(rng, scene, asked, value)}

    a, like = ("a {a}", "like ") if asked == "shape" else ("{a}", "")
    forms = Forms(
        f"is the {{d}} {a}?",
        f"does the {{d}} look {like}{a}?",
        f"is it true that the {{d}} is {a}?",
        f"would you call the {{d}} {a}?",
        f"is the {asked} of the {{d}} {{a}}?",
        d=_slot(*by),
        a=_words(_VALUES[asked]),
    )
    return Structure("verify", asked, forms, solve, draw, _always(*_YES_NO), _YES_NO, joined=asked != "size")


_REFERRING: Final = ("shape", "colour", "colour shape", "size shape")
_PLAIN: Final = ("shape", "colour", "colour shape")

STRUCTURES: Final[tuple[Structure, ...]] = (
    *(_exists(name) for name in ("colour", "shape", "colour shape", "size shape")),
    _query("colour", "shape"),
    _query("colour", "size shape"),
    _query_place("colour"),
    _query("shape", "colour"),
    _query("shape", "size colour"),
    _query_place("shape"),
    _choose("colour", "shape", "size shape"),
    _choose("shape", "colour", "size colour"),
    _choose("size", *_PLAIN),
    _same("colour", "shape", "size shape"),
    _same("shape", "colour", "size colour"),
    _same("size", *_PLAIN),
    _more("colour"),
    _more("shape"),
    *(_count(name) for name in ("", "colour", "shape", "size", "colour shape")),
    _side_of("left or right", _SIDEWAYS, _REFERRING),
    _side_of("above or below", _UP_OR_DOWN, _REFERRING),
    _neighbour("shape", _REFERRING),
    _neighbour("colour", _REFERRING),
    _line("row", ROWS, _REFERRING),
    _line("column", COLUMNS, _REFERRING),
    _corner(_REFERRING),
    _outermost(),
    _both("and", "and"),
    _both("or", "or"),
    _but_not(),
    _every(),
    _verify("colour", "shape", "size shape"),
    _verify("shape", "colour", "size colour"),
    _verify("size", *_PLAIN),
)
"""Every structure; those of a skill stand together."""


# --------------------------------------------------------------------------------------------------------------
# Reading


@lru_cache(maxsize=50_000)
def read_question(sentence: str) -> tuple[Structure, Slots] | None:
    """Recognises a question from its sentence; `None` for any other text."""
    text = " ".join(sentence.lower().split()) if len(sentence) <= LONGEST_QUESTION else ""
    for structure in STRUCTURES:
        slots = structure.forms.read(text)
        if slots is not None:
            return structure, slots
    return None


def _shown(value: object) -> str:
    return value.words() if isinstance(value, Kind) else str(value)


def _task(asked: Asked, found: Found) -> Task:
    structure, scene = asked.structure, asked.scene
    slots = structure.same(asked.slots)
    what = "; ".join(f"{name} {_shown(slots[name])}" for name in sorted(slots))
    pairs = {(thing.colour, thing.shape) for thing in scene.things} | structure.named(slots)
    return Task(
        structure.skill,
        f"{structure.name}|{what}|{scene.text}",
        found.answer,
        structure.name,
        ", ".join(sorted(" ".join(pair) for pair in pairs)),
        asked,
    )


def _plain(response: str) -> str:
    """Strips a response of what does not matter."""
    word = response.strip().lower().removesuffix(".").rstrip()
    return str(_NUMBER_WORDS.index(word)) if word in _NUMBER_WORDS else word


_HELD_OUT_NAMES: Final = frozenset(" ".join(pair) for pair in HELD_OUT)


class VqaDomain(ProceduralDomain):
    """The domain `vqa` (see the module's text)."""

    name: ClassVar[str] = "vqa"
    version: ClassVar[str] = "1"
    description: ClassVar[str] = (
        "Questions about a picture of 48 by 48 pixels: two to six small or large shapes (circle, square, triangle, "
        "diamond, cross) in six colours on a dark grid of three rows and three columns. Questions ask whether "
        "something is there, for a colour or a shape, to choose or to compare, to count, where things are and how "
        "they stand to each other."
    )
    answer_format: ClassVar[str] = (
        "One word or number and nothing else: 'yes', 'no', a colour ('red'), a shape ('circle'), a size ('small'), "
        "a count ('3'), a row ('top', 'middle', 'bottom') or a column ('left', 'middle', 'right')."
    )
    pictures: ClassVar[str] = (
        "Name two to six things, separated by semicolons, each with its size (small, large), colour (red, green, "
        "blue, yellow, purple, white), shape (circle, square, triangle, diamond, cross), row (top, middle, bottom) "
        "and column (left, middle, right), no two of them in the same cell of the grid. For example: 'a large red "
        "circle at the top left; a small blue square in the middle; a large green cross at the bottom middle'. Say "
        "nothing else, of other colours, of how things stand to each other or of the background: a picture is only "
        "drawn where every word is understood."
    )

    def refinements(self) -> Mapping[str, Sequence[str]]:
        """Returns every question type with its structures."""
        out: dict[str, list[str]] = {}
        for structure in STRUCTURES:
            out.setdefault(structure.skill, []).append(structure.name)
        return out

    def off_domain(self) -> Sequence[str]:
        """Returns kinds of problem with a picture that is of no use, or of another sort."""
        return tuple(_OFF_DOMAIN)

    def stream(self, skill: str, seed: int) -> Iterator[tuple[Task, Example]]:
        """Draws correct examples of a question type, or of a kind off the domain, without end."""
        rng = random.Random(derive_seed("stream", self.name, skill, seed))
        if skill in _OFF_DOMAIN:
            while True:
                prompt, answer, identity, picture = _OFF_DOMAIN[skill](rng)
                yield Task(skill, identity, answer), Example(prompt, answer, skill, images=(picture,))
        structures = [structure for structure in STRUCTURES if structure.skill == skill]
        while True:
            asked = _draw(rng, rng.choice(structures))
            if asked is None:
                continue
            task = _task(*asked)
            sentence = asked[0].structure.forms.render(rng, **asked[0].slots)
            prompt = sentence[0].upper() + sentence[1:]
            yield task, Example(prompt, task.answer, skill, images=(render(asked[0].scene),))

    def parse(self, prompt: str, images: tuple[bytes, ...] = ()) -> Task | None:
        """Recognises a question that the one picture given has an answer to."""
        question = read_question(prompt)
        scene = read_scene(images[0]) if question and len(images) == 1 else None
        if question is None or scene is None:
            return None
        structure, slots = question
        found = structure.solve(scene, slots)
        return None if found is None else _task(Asked(structure, slots, scene), found)

    def right(self, task: Task, response: str) -> bool:
        """Whether a response is the answer, whatever its case and with or without a full stop."""
        return _plain(response) == task.answer

    def place(self, task: Task) -> tuple[Split, str]:
        """Returns the split of a task: test where its picture or question has a held-out pair, else by hash."""
        if not _HELD_OUT_NAMES.isdisjoint(task.combination.split(", ")):
            return "test", NEW_COMBINATION
        return split_of(task.key), ""

    def check(self, example: Example) -> bool | None:
        """Grades a response by the picture; a question that its picture has no answer to is wrong in itself."""
        task = self.recognise(example.prompt, example.images)
        if task is not None:
            return self.right(task, example.response)
        if len(example.images) != 1 or read_question(example.prompt) is None:
            return None
        return None if read_scene(example.images[0]) is None else False

    def infer_skill(self, prompt: str, images: tuple[bytes, ...] = ()) -> str | None:
        """Recognises a question's type from its sentence alone."""
        question = read_question(prompt)
        return None if question is None else question[0].skill

    def fingerprints(self, prompt: str, images: tuple[bytes, ...] = ()) -> tuple[str, ...]:
        """Returns a known question's identity; for any other text its words and pictures, and each scene."""
        task = self.recognise(prompt, images)
        if task is not None:
            return (task.key,)
        scenes = [read_scene(image) for image in images]
        looks = [
            f"|{hashlib.blake2b(image, digest_size=8).hexdigest() if scene is None else scene.text}"
            for image, scene in zip(images, scenes, strict=True)
        ]
        text = f"text|{words_of(prompt)}{''.join(looks)}"
        return (text, *(f"scene|{scene.text}" for scene in scenes if scene is not None))

    def overlap_keys(self, problem: Problem) -> tuple[str, ...]:
        """Returns a problem's identity and its scene, which betrays it where it is asked in other words."""
        scenes = [read_scene(image) for image in problem.images]
        prints = self.fingerprints(problem.prompt, problem.images)
        return tuple(dict.fromkeys((*prints, *(f"scene|{scene.text}" for scene in scenes if scene is not None))))

    def wrong_answer(self, example: Example, seed: int) -> Example:
        """Returns the example with another answer that its question might have had."""
        task = self.recognise(example.prompt, example.images)
        if task is None:
            return super().wrong_answer(example, seed)
        rng = random.Random(derive_seed("wrong", seed, example.prompt, task.key))
        asked: Asked = task.data
        wrong = [a for a in asked.structure.answers(asked.slots) if a != task.answer]
        wrong = [a for a in wrong if a != _plain(example.response)] or wrong
        if task.answer.isdigit():
            wrong.sort(key=lambda answer: abs(int(answer) - int(task.answer)))
            wrong = wrong[:2]
        return Example(example.prompt, rng.choice(wrong), example.skill, example.item, example.images)


# --------------------------------------------------------------------------------------------------------------
# Drawing


def _draw(rng: random.Random, structure: Structure) -> tuple[Asked, Found] | None:
    """Draws a question of a structure with its answer; `None` if that takes too long."""
    wanted = rng.choice(structure.wanted) if structure.wanted else None
    new = rng.randrange(100) < _NEW_PERCENT
    for _ in range(200):
        scene = draw_scene(rng, HELD_OUT, shown=new)
        for _ in range(3):
            slots = structure.draw(rng, scene)
            found = structure.solve(scene, slots) if slots is not None else None
            if slots is None or found is None or (wanted and found.answer != wanted):
                continue
            held_out = HELD_OUT & ({(thing.colour, thing.shape) for thing in found.things} | structure.named(slots))
            # A new combination must matter to its question, and no other question may name one.
            if bool(held_out) == new:
                return Asked(structure, slots, scene), found
    return None


_Drawn = tuple[str, str, str, bytes]  # prompt, answer, identity, picture


def _arithmetic(rng: random.Random) -> _Drawn:
    a, b, scene = rng.randrange(10, 100), rng.randrange(2, 10), draw_scene(rng, HELD_OUT)
    return f"What is {a} plus {b}?", str(a + b), f"{a} {b} {scene.text}", render(scene)


def _spelling(rng: random.Random) -> _Drawn:
    word, scene = "".join(rng.choices("abdefgiklmnoprstu", k=5)), draw_scene(rng, HELD_OUT)
    return f"Spell {word} backwards.", word[::-1], f"{word} {scene.text}", render(scene)


def _background(rng: random.Random) -> _Drawn:
    light = rng.random() < 0.5
    scene = Scene(draw_scene(rng, HELD_OUT).things, rng.randrange(190, 220) if light else rng.randrange(24, 54))
    prompt = rng.choice(("Is the background dark or light?", "Do you see a dark or a light background?"))
    return prompt, "light" if light else "dark", f"{scene.shade} {scene.text}", render(scene)


def _stripes(rng: random.Random) -> _Drawn:
    count, colour, shade = rng.randrange(1, 8), rng.choice(tuple(COLOURS)), rng.randrange(20, 60)
    starts = [6 * slot + rng.randrange(3) for slot in sorted(rng.sample(range(8), count))]
    picture = Image.new("RGB", (SIDE, SIDE), (shade,) * 3)
    for start in starts:
        picture.paste(COLOURS[colour], (start, 0, start + 3, SIDE))
    prompt = rng.choice(("How many stripes are there?", "How many stripes do you see?"))
    return prompt, str(count), f"{colour} {shade} {starts}", encode(picture)


_OFF_DOMAIN: Final[Mapping[str, Callable[[random.Random], _Drawn]]] = {
    "arithmetic": _arithmetic,
    "spelling": _spelling,
    "background": _background,
    "stripes": _stripes,
}
