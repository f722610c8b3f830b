"""English for plans: every way in which this domain says one, as a table from sentence to plan.

A tool has noun phrases for its output and commands for its use (`PHRASES`). A plan is cut into stretches of calls;
each stretch is one command, in which the earlier calls' outputs stand as noun phrases inside each other:
`mail a summary of the headlines to Anna` is one stretch of three calls, and `get the headlines, then summarize
them` two of one. Later stretches refer back by a pronoun or a noun.

What this module does not know: prompts, splits, which plans are skills.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Final, TypeVar

from dgym.domains.tools.catalogue import CATALOGUE, OTHER_TOOLS, VALUES, Tool, choices, value_class
from dgym.domains.tools.plans import Call, Plan, Ref, parse_plan

_T = TypeVar("_T")

EVERY_TOOL: Final[Mapping[str, Tool]] = {**CATALOGUE, **OTHER_TOOLS}
"""The catalogue and the tools beyond it."""


@dataclass(frozen=True)
class Phrases:
    """How a tool is spoken of.

    In a phrase, `{name}` is a parameter, `{=name}` one that must be given in the request, and what stands in brackets
    is left out together with its parameter. A phrase that begins with `~` takes the last two outputs unsaid.

    Attributes:
        nouns: Noun phrases for the output; none where the output is of no use.
        commands: Imperatives.
        back: How a later call refers to the output.
        it: Whether the very next call may also say "it".
    """

    nouns: tuple[str, ...]
    commands: tuple[str, ...]
    back: str = ""
    it: bool = True


def _asked(*nouns: str, back: str, it: bool = True, verbs: tuple[str, ...] = ("get", "look up")) -> Phrases:
    return Phrases(nouns, tuple(f"{verb} {noun}" for verb, noun in product(verbs, nouns)), back, it)


PHRASES: Final[Mapping[str, Phrases]] = {
    "locate": _asked(
        "the city where {person} lives", "the home town of {person}", back="that city", it=False, verbs=("look up",)
    ),
    "weather": _asked(
        "the weather[ in {unit}][ on {day}][ at {time}] in {city}",
        "the forecast[ in {unit}][ for {day}][ at {time}] for {city}",
        back="the forecast",
    ),
    "find": _asked(
        "the best[ {stars}-star] {kind} in {city}",
        "the nicest {kind}[ with {stars} stars] in {city}",
        back="that place",
        it=False,
        verbs=("find", "look for"),
    ),
    "distance": _asked(
        "the distance[ by {mode}] from {start} to {goal}",
        "the length of the trip[ by {mode}] from {start} to {goal}",
        back="the distance",
        verbs=("work out", "look up"),
    ),
    "hotel": _asked(
        "the price of {nights} nights in a[ {stars}-star] hotel in {city}[ from {day}]",
        "the cost of a[ {stars}-star] hotel in {city} for {nights} nights[ from {day}]",
        back="the price",
    ),
    "convert": Phrases(
        (
            "{amount} converted from {source} to {target}[ at a fee of {fee} percent][ at the rate of {day}]",
            "{amount} changed from {source} into {target}[ at a fee of {fee} percent][ at the rate of {day}]",
        ),
        (
            "convert {amount} from {source} to {target}[ at a fee of {fee} percent][ at the rate of {day}]",
            "change {amount} from {source} into {target}[ at a fee of {fee} percent][ at the rate of {day}]",
            "convert {=amount} {source} to {target}[ at a fee of {fee} percent][ at the rate of {day}]",
            "turn {=amount} {source} into {target}[ at a fee of {fee} percent][ at the rate of {day}]",
        ),
        "the result",
    ),
    "tip": Phrases(
        (
            "a tip of {percent} percent on {amount}[ {currency}][ shared by {people} people]",
            "the tip at {percent} percent for a bill of {amount}[ {currency}][ split among {people} people]",
        ),
        (
            "work out a tip of {percent} percent on {amount}[ {currency}][ shared by {people} people]",
            "compute the tip at {percent} percent for a bill of {amount}[ {currency}][ split among {people} people]",
            "tell me the tip on {amount}[ {currency}] at {percent} percent[ for each of {people} people]",
        ),
        "the tip",
    ),
    "stock": _asked(
        "the share price of {company}[ on {day}]", "the price of {company} shares[ on {day}]", back="the price"
    ),
    "subtract": Phrases(
        ("the difference between {first} and {second}", "the gap between {first} and {second}"),
        (
            "work out the difference between {first} and {second}",
            "compute the gap between {first} and {second}",
            "~work out the difference",
            "~subtract the second from the first",
        ),
        "the difference",
    ),
    "alarm": Phrases(
        (),
        (
            "set an alarm for {time}[ on {day}][ called {label}]",
            "wake me[ on {day}] at {time}[ with the label {label}]",
            "start an alarm[ called {label}] at {time}[ on {day}]",
            "ring[ on {day}] at {time}[ for {label}]",
        ),
    ),
    "free": _asked(
        "the first free hour of {person}[ after {after}] on {day}",
        "the next hour on {day}[ after {after}] when {person} is free",
        back="that hour",
        it=False,
        verbs=("find", "look up"),
    ),
    "schedule": Phrases(
        (
            "a meeting {title}[ of {minutes} minutes] at {time}",
            "a meeting called {title}[ for {minutes} minutes] at {time}",
        ),
        (
            "schedule a meeting {title}[ of {minutes} minutes] at {time}",
            "set up a meeting called {title}[ for {minutes} minutes] at {time}",
        ),
        "the meeting",
    ),
    "invite": Phrases((), ("invite {person} to {event}", "ask {person} to join {event}")),
    "mail": Phrases((), ("mail {text} to {person}[ at {time}]", "email {text} to {person}[ at {time}]")),
    "news": _asked(
        "a list of[ {count}] headlines about {topic}[ from {day}]",
        "a list of[ {count}] news stories on {topic}[ from {day}]",
        back="the list",
    ),
    "share": Phrases(
        (), ("share {file} with {person}[ for {days} days]", "give {person} access to {file}[ for {days} days]")
    ),
    "save": Phrases((), ("save {file} in the folder {folder}", "store {file} in the {folder} folder")),
    "translate": Phrases(
        ("a[ {tone}] {language} translation of {text}", "a[ {tone}] {language} version of {text}"),
        ("translate {text} into[ {tone}] {language}", "put {text} into[ {tone}] {language}"),
        "the translation",
    ),
    "summarize": Phrases(
        ("a summary[ in {sentences} sentences] of {text}", "an outline[ in {sentences} sentences] of {text}"),
        ("summarize {text}[ in {sentences} sentences]", "condense {text}[ to {sentences} sentences]"),
        "the summary",
    ),
    "read": Phrases(
        ("the contents of[ page {page} of] {document}", "what is written[ on page {page}] in {document}"),
        ("open[ page {page} of] {document}", "read[ page {page} of] {document}"),
        "the text",
    ),
    "speak": Phrases(
        ("a recording of {text}[ in a {voice} voice]", "an audio version[ in a {voice} voice] of {text}"),
        ("read {text} aloud[ in a {voice} voice]", "speak {text}[ in a {voice} voice]"),
        "the recording",
    ),
    "transcribe": Phrases(
        ("a transcript of[ the {language} recording] {audio}", "the[ {language}] words spoken in {audio}"),
        ("transcribe[ the {language} recording] {audio}", "write down the[ {language}] words spoken in {audio}"),
        "the transcript",
    ),
    "scan": Phrases(
        ("the[ {language}] text seen in {image}", "the[ {language}] writing on {image}"),
        ("scan the[ {language}] text in {image}", "copy the[ {language}] writing on {image}"),
        "the text",
    ),
    "resize": Phrases(
        (
            "{image} at a width of {width}[ and a height of {height}][ as {format}]",
            "{image} made {width} wide[ and {height} high][ as {format}]",
        ),
        (
            "resize {image} to a width of {width}[ and a height of {height}][ as {format}]",
            "scale {image} to {width} pixels[ by {height} pixels][ as {format}]",
            "make {image} {width} pixels wide[ and {height} pixels high][ as {format}]",
        ),
        "the image",
    ),
    "crop": Phrases(
        ("the middle {width} by {height} of {image}", "{image} cut to {width} by {height}"),
        ("crop {image} to {width} by {height}", "cut {image} down to {width} by {height}"),
        "the cut image",
    ),
    "blur": Phrases(
        ("a blurred copy of {image}[ at strength {strength}]", "a version of {image} blurred[ at strength {strength}]"),
        ("blur {image}[ at strength {strength}]", "make {image} blurry[ at strength {strength}]"),
        "the blurred image",
    ),
    "song": _asked(
        "a song by {artist}[ from {year}]", "a track[ from {year}] by {artist}", back="the song", verbs=("find", "get")
    ),
    "trim": Phrases(
        ("the first {seconds} seconds of {audio}", "a clip of the first {seconds} seconds of {audio}"),
        ("cut {audio} to {seconds} seconds", "trim {audio} to {seconds} seconds"),
        "the clip",
    ),
    "tempo": Phrases(
        ("{audio} at {percent} percent speed", "{audio} slowed to {percent} percent"),
        ("slow {audio} to {percent} percent", "set the speed of {audio} to {percent} percent"),
        "the slow version",
    ),
    "play": Phrases(
        (),
        ("play {audio} in the {room}[ at volume {volume}]", "let me hear {audio} in the {room}[ at volume {volume}]"),
    ),
    "recipe": _asked(
        "the ingredients of {dish}[ for {people} people]",
        "the groceries for {dish}[ for {people} people]",
        back="them",
        it=False,
    ),
    "basket": Phrases(
        ("an order of {items} from {shop}", "a basket at {shop} with {items}"),
        ("order {items} from {shop}", "put {items} into a basket at {shop}"),
        "the order",
    ),
    "coupon": Phrases(
        ("{order} with coupon {code}", "{order} reduced by coupon {code}"),
        ("use coupon {code} for {order}", "apply coupon {code} to {order}"),
        "the order",
    ),
    "deliver": Phrases((), ("deliver {order}[ on {day}] at {time}", "have {order} delivered[ on {day}] at {time}")),
    "lights": Phrases(
        (),
        (
            "dim the lights in the {room} to {percent} percent[ at {time}]",
            "set the {room} lights to {percent} percent[ at {time}]",
        ),
    ),
    "taxi": Phrases(
        (),
        (
            "order a taxi[ for {people} people] in {city} at {time}[ on {day}]",
            "book a cab in {city}[ for {people} people][ on {day}] at {time}",
        ),
    ),
    "workout": Phrases(
        (),
        (
            "note down {minutes} minutes of {sport}[ on {day}][ at {time}]",
            "record a workout of {minutes} minutes of {sport}[ on {day}][ at {time}]",
        ),
    ),
}
"""Phrases of every tool."""

_COMMAND_FRAMES: Final = ("{}.", "Please {}.", "Can you {}?", "I want you to {}.", "{}, please.")
_NOUN_FRAMES: Final = ("I need {}.", "Show me {}.", "Give me {}.")

MAX_REQUEST: Final = 600
"""A longer text is no request of this domain."""

_TOKEN = re.compile(r'"[^"<>]{1,80}"|[a-z0-9]++(?:[.:][a-z0-9]++)*+', re.IGNORECASE)
_FILES: Final = {"png": "image", "mp3": "audio", "pdf": "document"}


def _words() -> dict[str, tuple[str, str]]:
    open_classes = ("title", "image", "audio", "document", "time")
    out: dict[str, tuple[str, str]] = {}
    for kind, values in VALUES.items():
        if kind not in open_classes:
            for value in values:
                if out.setdefault(value.casefold(), (kind, value)) != (kind, value):
                    raise ValueError(f"{value!r} is of two classes")
    return out


_WORDS: Final = _words()


def _classify(token: str) -> tuple[str, str] | None:
    """Returns class and canonical text of a token that is a value."""
    word = token.casefold()
    found = _WORDS.get(word)
    if found is not None:
        return found
    if word[0] == '"':
        return "title", " ".join(word[1:-1].split())
    if word.isdecimal():
        return ("number", str(int(word))) if len(word) < 10 else None
    hour, colon, minute = word.partition(":")
    if colon and hour.isdecimal() and minute.isdecimal() and len(minute) == 2:
        return ("time", f"{int(hour):02d}:{minute}") if len(hour) < 3 and int(hour) < 24 and int(minute) < 60 else None
    stem, _, ending = word.rpartition(".")
    return (_FILES[ending], word) if stem and ending in _FILES else None


def skeleton(text: str) -> tuple[str, list[str]]:
    """Replaces every value in a text by its class; returns the rest in lower case, and the values."""
    values: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        found = _classify(match[0])
        if found is None:
            return match[0]
        values.append(found[1])
        return f"<{found[0]}>"

    return _TOKEN.sub(replaced, text).lower(), values


def unframed(text: str) -> str:
    """Strips what makes a clause a sentence, such as "please"; a noun phrase is marked as one."""
    text = " ".join(text.split()).strip(" .?!")
    text = text[: -len(_PLEASE)].rstrip(" ,") if text[-len(_PLEASE) :].lower() == _PLEASE else text
    start = text[:20].lower()
    for prefix in _COMMAND_PREFIXES:
        if start.startswith(prefix):
            return text[len(prefix) :]
    for prefix in _NOUN_PREFIXES:
        if start.startswith(prefix):
            return _NOUN + text[len(prefix) :]
    return text


_PLEASE: Final = ", please"
_COMMAND_PREFIXES: Final = ("please ", "can you ", "could you ", "i want you to ")
_NOUN_PREFIXES: Final = ("i need ", "show me ", "give me ")
_NOUN: Final = "= "


@dataclass(frozen=True)
class Slot:
    """A value that a request gives.

    Attributes:
        name: Its name within the structure.
        kind: Its class, a key of `VALUES`, or `"number"`.
        choices: What it may be.
    """

    name: str
    kind: str
    choices: Sequence[str]


@dataclass(frozen=True)
class Clause:
    """One way to say a structure, without a frame such as "please".

    Attributes:
        text: With `%s` in place of each value.
        slots: The slots in the order of the text.
        key: What `skeleton` makes of such a clause.
        noun: Whether it is a noun phrase rather than a command.
    """

    text: str
    slots: tuple[str, ...]
    key: str
    noun: bool


class Structure:
    """A plan with slots in place of values, and all its clauses.

    Args:
        skill: The skill that it belongs to.
        name: The refinement's name.
        notation: The plan, each given value as `{slot}`.
    """

    def __init__(self, skill: str, name: str, notation: str) -> None:
        plan = parse_plan(notation)
        if plan is None:
            raise ValueError(f"{notation!r} is no plan")
        self.skill, self.name, self.plan = skill, name, plan
        slots: dict[str, Slot] = {}
        for call in plan:
            for parameter, value in call.arguments:
                if not isinstance(value, Ref):
                    kind = EVERY_TOOL[call.tool].parameters[parameter]
                    slots[value] = Slot(value, value_class(parameter, kind), choices(parameter, kind))
        self.slots = tuple(slots.values())
        groups = [tuple(self._clause(text, noun) for text in texts) for noun, texts in self._groups()]
        self.clauses: tuple[tuple[Clause, ...], ...] = tuple(group for group in groups if group)

    def draw(self, rng: random.Random) -> dict[str, str]:
        """Draws a value for every slot; two slots of a class of names differ."""
        out: dict[str, str] = {}
        taken: set[str] = set()
        for slot in self.slots:
            value = pick(slot.choices, rng)
            while value in taken:
                value = pick(slot.choices, rng)
            out[slot.name] = value
            if slot.kind != "number":
                taken.add(value)
        return out

    def render(self, values: Mapping[str, str], rng: random.Random) -> str:
        """Writes one of the sentences, each way to cut the plan as often as any other."""
        clause = pick(pick(self.clauses, rng), rng)
        text = clause.text % tuple([values[name] for name in clause.slots])
        text = pick(_NOUN_FRAMES if clause.noun else _COMMAND_FRAMES, rng).format(text)
        return text[0].upper() + text[1:]

    def filled(self, values: Mapping[str, str]) -> Plan:
        """Returns the plan with values in place of slots."""
        return tuple(
            [
                Call(c.tool, tuple([(n, v if isinstance(v, Ref) else values[v]) for n, v in c.arguments]))
                for c in self.plan
            ]
        )

    def _clause(self, text: str, noun: bool) -> Clause:
        names = tuple(re.findall(r"\{\w+\}", text))
        key = text
        for slot in self.slots:
            text = text.replace(slot.name, '"%s"' if slot.kind == "title" else "%s")
            key = key.replace(slot.name, f"<{slot.kind}>")
        return Clause(text, names, (_NOUN if noun else "") + key.lower(), noun)

    # Sentences -----------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[tuple[bool, list[str]]]:
        """Writes noun phrases, and commands by the way that the plan is cut into stretches."""
        last = len(self.plan) - 1
        if self._covers(0, last):
            yield True, list(self._say(last, 0, "noun"))
        for cuts in product((False, True), repeat=last):
            ends = [i for i, cut in enumerate(cuts) if cut] + [last]
            stretches = list(zip([0, *(end + 1 for end in ends[:-1])], ends, strict=True))
            if all(self._covers(*stretch) for stretch in stretches):
                said = [list(self._say(end, start, "command")) for start, end in stretches]
                yield False, [text for parts in product(*said) for text in _joined(parts)]

    def _covers(self, start: int, end: int) -> bool:
        """Whether a stretch's last call needs all its others, each just once."""
        used = [v.call - 1 for call in self.plan[start : end + 1] for _, v in call.arguments if isinstance(v, Ref)]
        return sorted(call for call in used if call >= start) == list(range(start, end))

    def _say(self, place: int, start: int, form: str) -> Iterator[str]:
        """Says a call in all ways, with earlier calls from `start` on as noun phrases and others referred to."""
        call, phrases = self.plan[place], PHRASES[self.plan[place].tool]
        for phrase in phrases.nouns if form == "noun" else phrases.commands:
            text = _chosen(phrase, call.arguments)
            if text is None:
                continue
            given = dict(call.arguments)
            if text.startswith("~"):
                refs = sorted(v.call - 1 for v in given.values() if isinstance(v, Ref))
                if start == place and refs == [place - 2, place - 1]:
                    yield text[1:]
                continue
            parts = re.split(r"\{(\w+)\}", text)
            direct = form == "command"
            options = [self._mentions(given[name], place, start, direct) for name in parts[1::2]]
            for chosen in product(*options):
                parts[1::2] = chosen
                yield "".join(parts)

    def _mentions(self, value: str | Ref, place: int, start: int, direct: bool) -> list[str]:
        if not isinstance(value, Ref):
            return [value]
        source = value.call - 1
        if source >= start:
            return list(self._say(source, start, "noun"))
        phrases = PHRASES[self.plan[source].tool]
        unclear = any(PHRASES[c.tool].back == phrases.back for i, c in enumerate(self.plan[:place]) if i != source)
        out = [] if unclear and source != place - 1 else [phrases.back]
        # Deep in a noun phrase, "it" would be clumsy.
        return [*out, "it"] if phrases.it and source == start - 1 and (direct or not out) else out


@lru_cache(maxsize=10_000)
def _chosen(phrase: str, arguments: tuple[tuple[str, str | Ref], ...]) -> str | None:
    """Drops the brackets of absent parameters; `None` where a phrase does not say just what is given."""
    given = dict(arguments)
    text = re.sub(r"\[([^\]]*\{(\w+)\}[^\]]*)\]", lambda match: match[1] if match[2] in given else "", phrase)
    if any(isinstance(given.get(name), Ref) for name in re.findall(r"\{=(\w+)\}", text)):
        return None
    text = text.replace("{=", "{")
    return text if text.startswith("~") or sorted(re.findall(r"\{(\w+)\}", text)) == sorted(given) else None


def _joined(parts: Sequence[str]) -> Iterator[str]:
    if len(parts) == 1:
        yield parts[0]
        return
    yield ", ".join(parts[:-1]) + " and " + parts[-1]
    yield ", then ".join(parts)
    yield "first " + ", then ".join(parts[:-1]) + (" and then " if len(parts) == 2 else " and finally ") + parts[-1]


def pick(options: Sequence[_T], rng: random.Random) -> _T:
    """Draws one of several; much faster than `rng.choice`."""
    return options[int(rng.random() * len(options))]
