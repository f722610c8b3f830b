"""The catalogue: typed tools of everyday areas, and the values that procedural requests name.

What this module does not know: how a plan is written down, how a request is phrased.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        name: What a plan calls it.
        area: What part of life it is for; tools of one area are easily mistaken for one another.
        description: What it does, in a sentence.
        required: Type of each parameter that a call must give, in order.
        optional: Type of each parameter that a call may give, in order.
        returns: Type of its output.
    """

    name: str
    area: str
    description: str
    required: Mapping[str, str]
    optional: Mapping[str, str]
    returns: str

    @property
    def parameters(self) -> dict[str, str]:
        """The type of every parameter, required ones first."""
        return {**self.required, **self.optional}

    @property
    def signature(self) -> str:
        """Name and parameters, as in a prompt: optional ones follow a semicolon."""
        optional = f"; {', '.join(self.optional)}" if self.optional else ""
        return f"{self.name}({', '.join(self.required)}{optional})"

    def schema(self) -> dict[str, Any]:
        """Returns the tool as a mapping like a JSON schema; `format` is the type in the catalogue's terms."""
        properties = {
            name: {"type": "number" if kind in ("number", "amount") else "string", "format": kind}
            for name, kind in self.parameters.items()
        }
        return {
            "name": self.name,
            "description": self.description,
            "parameters": {"type": "object", "properties": properties, "required": list(self.required)},
            "returns": {"format": self.returns},
        }


def _tool(area: str, signature: str, description: str) -> Tool:
    """Reads `name(parameter: type, ...; optional: type, ...) -> type`."""
    match = re.fullmatch(r"(\w+)\(([^;]*)(?:; (.*))?\) -> (\w+)", signature)
    if match is None:
        raise ValueError(f"{signature!r} is no signature")
    name, required, optional, returns = match.groups()

    def typed(text: str | None) -> dict[str, str]:
        return dict(part.split(": ", 1) for part in text.split(", ")) if text else {}

    return Tool(name, area, description, typed(required), typed(optional), returns)


CATALOGUE: Final[Mapping[str, Tool]] = {
    tool.name: tool
    for tool in (
        _tool("travel", "locate(person: person) -> city", "The city where a contact lives."),
        _tool("travel", "weather(city: city; day: day, time: time, unit: word) -> text", "The weather in a city."),
        _tool("travel", "find(kind: word, city: city; stars: number) -> place", "The best place of a kind in a city."),
        _tool(
            "travel", "distance(start: place, goal: place; mode: word) -> amount", "The distance between two places."
        ),
        _tool(
            "travel", "hotel(city: city, nights: number; stars: number, day: day) -> amount", "The price of a hotel."
        ),
        _tool(
            "money",
            "convert(amount: amount, source: currency, target: currency; fee: number, day: day) -> amount",
            "An amount of money in another currency.",
        ),
        _tool(
            "money",
            "tip(amount: amount, percent: number; people: number, currency: currency) -> amount",
            "The tip on a bill, for each of the people who share it.",
        ),
        _tool("money", "stock(company: word; day: day) -> amount", "The share price of a company."),
        _tool("money", "subtract(first: amount, second: amount) -> amount", "The difference between two amounts."),
        _tool("calendar", "alarm(time: time; day: day, label: text) -> receipt", "Sets an alarm."),
        _tool("calendar", "free(person: person, day: day; after: time) -> time", "The first free hour of a contact."),
        _tool("calendar", "schedule(title: text, time: time; minutes: number) -> event", "Puts an event in the diary."),
        _tool("calendar", "invite(event: event, person: person) -> receipt", "Invites a contact to an event."),
        _tool("mail", "mail(person: person, text: text; time: time) -> receipt", "Mails a text to a contact."),
        _tool("mail", "news(topic: word; count: number, day: day) -> text", "A list of headlines about a topic."),
        _tool("mail", "share(file: file, person: person; days: number) -> receipt", "Shares a file with a contact."),
        _tool("mail", "save(file: file, folder: word) -> receipt", "Saves a file in a folder."),
        _tool("text", "translate(text: text, language: language; tone: word) -> text", "A text in another language."),
        _tool("text", "summarize(text: text; sentences: number) -> text", "A summary of a text."),
        _tool("text", "read(document: document; page: number) -> text", "The text of a document, or of a page."),
        _tool("text", "speak(text: text; voice: word) -> audio", "A text read aloud."),
        _tool("text", "transcribe(audio: audio; language: language) -> text", "The words spoken in a recording."),
        _tool("image", "scan(image: image; language: language) -> text", "The text that is seen in an image."),
        _tool(
            "image", "resize(image: image, width: number; height: number, format: word) -> image", "Resizes an image."
        ),
        _tool(
            "image", "crop(image: image, width: number, height: number) -> image", "Cuts the middle out of an image."
        ),
        _tool("image", "blur(image: image; strength: number) -> image", "Blurs an image."),
        _tool("music", "song(artist: word; year: number) -> audio", "A song by an artist."),
        _tool("music", "trim(audio: audio, seconds: number) -> audio", "The beginning of a recording."),
        _tool("music", "tempo(audio: audio, percent: number) -> audio", "A recording, slower or faster."),
        _tool("music", "play(audio: audio, room: word; volume: number) -> receipt", "Plays a recording in a room."),
        _tool("food", "recipe(dish: word; people: number) -> text", "The ingredients of a dish."),
        _tool("food", "basket(items: text, shop: word) -> order", "Puts items into the basket of a shop."),
        _tool("food", "coupon(order: order, code: number) -> order", "Uses a coupon for an order."),
        _tool("food", "deliver(order: order, time: time; day: day) -> receipt", "Has an order delivered."),
    )
}
"""Every tool, by name."""

OTHER_TOOLS: Final[Mapping[str, Tool]] = {
    tool.name: tool
    for tool in (
        _tool("home", "lights(room: word, percent: number; time: time) -> receipt", "Dims the lights in a room."),
        _tool("ride", "taxi(city: city, time: time; people: number, day: day) -> receipt", "Orders a taxi."),
        _tool("sport", "workout(sport: word, minutes: number; day: day, time: time) -> receipt", "Records a workout."),
    )
}
"""Tools beyond the catalogue: what the domain's examples off the domain are about."""

ACCEPTS: Final[Mapping[str, frozenset[str]]] = {
    "text": frozenset({"text", "amount", "number", "time", "city", "place"}),
    "file": frozenset({"image", "audio", "document", "file"}),
    "place": frozenset({"place", "city"}),
    "amount": frozenset({"amount", "number"}),
}
"""Types of output that a parameter of a type takes, where that is more than its own."""

_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?")
_TIME = re.compile(r"(?:[01]?\d|2[0-3]):[0-5]\d")
_PATTERNS: Final[Mapping[str, re.Pattern[str]]] = {
    "number": _NUMBER,
    "amount": _NUMBER,
    "time": _TIME,
    "day": re.compile(rf"{'|'.join(_DAYS)}|today|tomorrow|yesterday|\d{{4}}-\d\d-\d\d", re.IGNORECASE),
    "image": re.compile(r"[^\s/]{1,80}\.(?:png|jpe?g|gif|webp)", re.IGNORECASE),
    "audio": re.compile(r"[^\s/]{1,80}\.(?:mp3|wav|ogg)", re.IGNORECASE),
    "document": re.compile(r"[^\s/]{1,80}\.(?:pdf|docx?|txt|md)", re.IGNORECASE),
    "file": re.compile(r"[^\s/]{1,80}\.\w{1,5}", re.IGNORECASE),
}
_ONLY_OUTPUTS: Final = frozenset({"event", "order", "receipt"})


def fits(value: str, kind: str) -> bool:
    """Whether a value given in a request may stand for a parameter of a type."""
    if kind in _ONLY_OUTPUTS or not value.strip():
        return False
    pattern = _PATTERNS.get(kind)
    if pattern is not None:
        return pattern.fullmatch(value) is not None
    # Names are an open class, but a bare number or a clock time is none.
    return kind == "text" or any(c.isalpha() for c in value)


def _list(words: str, separator: str = " ") -> tuple[str, ...]:
    return tuple(words.split(separator))


VALUES: Final[Mapping[str, Sequence[str]]] = {
    "city": (
        *_list("Oslo Rome Paris Tokyo Lima Cairo Berlin Madrid Dublin Vienna"),
        *_list("Prague Athens Boston Delhi Seoul Sydney Toronto Nairobi Lisbon Warsaw"),
    ),
    "person": (
        *_list("Anna Ben Carla David Emma Felix Grace Hugo Ivan Julia"),
        *_list("Karl Laura Maria Nora Oscar Paul Rosa Simon Tina Victor"),
    ),
    "day": _DAYS,
    "language": _list("French German Spanish Polish Turkish Dutch Greek Swedish Danish Japanese"),
    "currency": _list("USD EUR GBP JPY CHF INR SEK PLN"),
    "unit": ("Celsius", "Fahrenheit", "Kelvin"),
    "tone": ("formal", "casual", "polite", "simple"),
    "kind": _list("bakery museum pharmacy library cinema gym market florist"),
    "mode": ("foot", "bike", "car", "bus"),
    "company": _list("Nokia Tesla Apple Shell Sony Intel Volvo Bayer Nestle Pfizer Boeing Philips"),
    "topic": _list("chess robots tennis space climate rowing cycling physics opera sailing energy fashion"),
    "folder": _list("Travel School Family Archive Taxes Garden Sports Holiday"),
    "voice": ("calm", "deep", "bright", "soft"),
    "format": ("jpeg", "webp", "gif", "tiff"),
    "artist": _list("Abba Adele Bjork Coldplay Drake Madonna Prince Rihanna Shakira Sting"),
    "room": _list("kitchen bedroom garage bathroom office hall"),
    "dish": _list("pizza lasagna paella ramen goulash curry risotto chili moussaka falafel"),
    "shop": ("Lidl", "Tesco", "Aldi", "Spar", "Rewe", "Coop"),
    "sport": ("swimming", "running", "skiing", "boxing"),
    "title": _list(
        "team lunch, budget talk, book club, board games, piano lesson, tax review, "
        "staff party, bike tour, movie night, design talk, garden tour, dance class",
        ", ",
    ),
    "image": tuple(f"{stem}{n}.png" for stem in ("photo", "sketch", "poster") for n in range(1, 1000)),
    "audio": tuple(f"{stem}{n}.mp3" for stem in ("memo", "call", "voice") for n in range(1, 1000)),
    "document": tuple(f"{stem}{n}.pdf" for stem in ("report", "letter", "paper") for n in range(1, 1000)),
    "time": tuple(f"{hour:02d}:{minute:02d}" for hour in range(24) for minute in range(0, 60, 5)),
}
"""What procedural requests name, by class of value; a word belongs to one class only."""

RANGES: Final[Mapping[str, range]] = {
    "amount": range(2, 1000),
    "code": range(100, 1000),
    "count": range(2, 31),
    "days": range(2, 31),
    "fee": range(2, 10),
    "height": range(100, 1000),
    "minutes": range(10, 91),
    "nights": range(2, 31),
    "page": range(1, 100),
    "people": range(2, 21),
    "percent": range(5, 100),
    "seconds": range(5, 100),
    "sentences": range(2, 21),
    "stars": range(2, 6),
    "strength": range(2, 51),
    "volume": range(1, 31),
    "width": range(100, 1000),
    "year": range(1970, 2025),
}
"""Whole numbers that procedural requests name, by parameter."""


def value_class(parameter: str, kind: str) -> str:
    """Returns the key of `VALUES` for a parameter of a type, or `"number"` where `RANGES` has it."""
    if kind in ("number", "amount"):
        return "number"
    if parameter in ("title", "label"):
        return "title"
    if kind == "place":
        return "city"
    return parameter if kind == "word" else kind


def choices(parameter: str, kind: str) -> Sequence[str]:
    """Returns the values that a procedural request may give to a parameter of a type."""
    name = value_class(parameter, kind)
    return _NUMBERS.get(parameter, _NUMBERS["amount"]) if name == "number" else VALUES.get(name, VALUES["title"])


_NUMBERS: Final = {parameter: tuple(map(str, numbers)) for parameter, numbers in RANGES.items()}
