"""Which plans the domain is about: its skills, what only its test split shows, and what is off the domain.

A skill is the tuple of tools of a plan; its structures differ in what is given, what is optional and which call
consumes which output.

What this module does not know: splits, grading.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from dgym.domains.tools.grammar import MAX_REQUEST, Structure, skeleton, unframed

SKILLS: Final[Mapping[str, Mapping[str, str]]] = {
    # One call
    "convert": {
        "plain": "convert(amount={n}, source={a}, target={b})",
        "with a fee": "convert(amount={n}, source={a}, target={b}, fee={fee})",
        "at the rate of a day": "convert(amount={n}, source={a}, target={b}, day={day})",
    },
    "alarm": {
        "on a day": "alarm(time={time}, day={day})",
        "with a label": "alarm(time={time}, label={label})",
        "on a day with a label": "alarm(time={time}, day={day}, label={label})",
    },
    "resize": {
        "width": "resize(image={image}, width={width})",
        "width and height": "resize(image={image}, width={width}, height={height})",
        "width and format": "resize(image={image}, width={width}, format={format})",
    },
    "tip": {
        "plain": "tip(amount={n}, percent={percent})",
        "shared": "tip(amount={n}, percent={percent}, people={people})",
        "in a currency": "tip(amount={n}, percent={percent}, currency={currency})",
    },
    # Two calls
    "locate+weather": {
        "at a time": "locate(person={person}); weather(city=$1, time={time})",
        "on a day at a time": "locate(person={person}); weather(city=$1, day={day}, time={time})",
        "in a unit at a time": "locate(person={person}); weather(city=$1, time={time}, unit={unit})",
    },
    "scan+translate": {
        "plain": "scan(image={image}); translate(text=$1, language={language})",
        "in a tone": "scan(image={image}); translate(text=$1, language={language}, tone={tone})",
        "from a given language": "scan(image={image}, language={from}); translate(text=$1, language={language})",
    },
    "transcribe+summarize": {
        "plain": "transcribe(audio={audio}); summarize(text=$1)",
        "to a length": "transcribe(audio={audio}); summarize(text=$1, sentences={n})",
        "from a given language": "transcribe(audio={audio}, language={language}); summarize(text=$1)",
    },
    "hotel+convert": {
        "plain": "hotel(city={city}, nights={n}); convert(amount=$1, source={a}, target={b})",
        "with stars": "hotel(city={city}, nights={n}, stars={s}); convert(amount=$1, source={a}, target={b})",
        "from a day": "hotel(city={city}, nights={n}, day={day}); convert(amount=$1, source={a}, target={b})",
    },
    # Three calls
    "news+summarize+mail": {
        "to a length": "news(topic={topic}); summarize(text=$1, sentences={n}); mail(person={person}, text=$2)",
        "of a number of headlines": "news(topic={topic}, count={n}); summarize(text=$1); mail(person={p}, text=$2)",
        "at a time": "news(topic={topic}); summarize(text=$1); mail(person={person}, text=$2, time={time})",
    },
    "free+schedule+invite": {
        "plain": "free(person={p}, day={day}); schedule(title={title}, time=$1); invite(event=$2, person={q})",
        "of some minutes": "free(person={p}, day={day}); schedule(title={title}, time=$1, minutes={n}); "
        "invite(event=$2, person={q})",
        "after a time": "free(person={p}, day={day}, after={time}); schedule(title={title}, time=$1); "
        "invite(event=$2, person={q})",
    },
    "crop+blur+share": {
        "plain": "crop(image={image}, width={w}, height={h}); blur(image=$1); share(file=$2, person={person})",
        "at a strength": "crop(image={image}, width={w}, height={h}); blur(image=$1, strength={n}); "
        "share(file=$2, person={person})",
        "for some days": "crop(image={image}, width={w}, height={h}); blur(image=$1); "
        "share(file=$2, person={person}, days={n})",
    },
    "locate+find+distance": {
        "from a given city": "locate(person={person}); find(kind={kind}, city=$1); distance(start={city}, goal=$2)",
        "to a given city": "locate(person={person}); find(kind={kind}, city=$1); distance(start=$2, goal={city})",
        "by a given means": "locate(person={person}); find(kind={kind}, city=$1); "
        "distance(start={city}, goal=$2, mode={mode})",
    },
    # Four calls
    "read+translate+speak+save": {
        "plain": "read(document={document}); translate(text=$1, language={language}); speak(text=$2); "
        "save(file=$3, folder={folder})",
        "of a page": "read(document={document}, page={page}); translate(text=$1, language={language}); speak(text=$2); "
        "save(file=$3, folder={folder})",
        "in a voice": "read(document={document}); translate(text=$1, language={language}); "
        "speak(text=$2, voice={voice}); save(file=$3, folder={folder})",
    },
    "song+trim+tempo+play": {
        "plain": "song(artist={artist}); trim(audio=$1, seconds={n}); tempo(audio=$2, percent={percent}); "
        "play(audio=$3, room={room})",
        "from a year": "song(artist={artist}, year={year}); trim(audio=$1, seconds={n}); "
        "tempo(audio=$2, percent={percent}); play(audio=$3, room={room})",
        "at a volume": "song(artist={artist}); trim(audio=$1, seconds={n}); tempo(audio=$2, percent={percent}); "
        "play(audio=$3, room={room}, volume={volume})",
    },
    "stock+stock+subtract+mail": {
        "plain": "stock(company={a}); stock(company={b}); subtract(first=$1, second=$2); mail(person={p}, text=$3)",
        "on given days": "stock(company={a}, day={d}); stock(company={b}, day={e}); subtract(first=$1, second=$2); "
        "mail(person={person}, text=$3)",
        "at a time": "stock(company={a}); stock(company={b}); subtract(first=$1, second=$2); "
        "mail(person={person}, text=$3, time={time})",
    },
    "recipe+basket+coupon+deliver": {
        "plain": "recipe(dish={dish}); basket(items=$1, shop={shop}); coupon(order=$2, code={code}); "
        "deliver(order=$3, time={time})",
        "for some people": "recipe(dish={dish}, people={n}); basket(items=$1, shop={shop}); "
        "coupon(order=$2, code={code}); deliver(order=$3, time={time})",
        "on a day": "recipe(dish={dish}); basket(items=$1, shop={shop}); coupon(order=$2, code={code}); "
        "deliver(order=$3, time={time}, day={day})",
    },
}
"""The skills, each with its structures: a plan, with `{slot}` for what the request gives."""

TEST_ONLY: Final[Mapping[str, Mapping[str, str]]] = {
    "scan+summarize": {
        "plain": "scan(image={image}); summarize(text=$1)",
        "to a length": "scan(image={image}); summarize(text=$1, sentences={n})",
        "from a given language": "scan(image={image}, language={language}); summarize(text=$1)",
    },
    "transcribe+translate": {
        "plain": "transcribe(audio={audio}); translate(text=$1, language={language})",
        "in a tone": "transcribe(audio={audio}); translate(text=$1, language={language}, tone={tone})",
        "from a given language": "transcribe(audio={audio}, language={from}); translate(text=$1, language={language})",
    },
    "crop+share": {
        "plain": "crop(image={image}, width={w}, height={h}); share(file=$1, person={person})",
        "for some days": "crop(image={image}, width={w}, height={h}); share(file=$1, person={person}, days={n})",
    },
    "locate+weather+mail": {
        "of a time": "locate(person={p}); weather(city=$1, time={time}); mail(person={q}, text=$2)",
        "of a day": "locate(person={p}); weather(city=$1, day={day}); mail(person={q}, text=$2)",
    },
    "read+summarize+mail": {
        "plain": "read(document={document}); summarize(text=$1); mail(person={person}, text=$2)",
        "to a length": "read(document={document}); summarize(text=$1, sentences={n}); mail(person={person}, text=$2)",
        "of a page": "read(document={document}, page={page}); summarize(text=$1); mail(person={person}, text=$2)",
    },
    "scan+translate+speak+save": {
        "plain": "scan(image={image}); translate(text=$1, language={language}); speak(text=$2); "
        "save(file=$3, folder={folder})",
        "in a voice": "scan(image={image}); translate(text=$1, language={language}); speak(text=$2, voice={voice}); "
        "save(file=$3, folder={folder})",
    },
}
"""Further tuples of tools that only the test split shows; each tool is part of a skill, the tuple is none."""

OFF_DOMAIN: Final[Mapping[str, Mapping[str, str]]] = {
    "lights": {
        "plain": "lights(room={room}, percent={n})",
        "at a time": "lights(room={room}, percent={n}, time={time})",
    },
    "taxi": {
        "plain": "taxi(city={city}, time={time})",
        "for some people": "taxi(city={city}, time={time}, people={n})",
        "on a day": "taxi(city={city}, time={time}, day={day})",
    },
    "workout": {
        "on a day": "workout(sport={sport}, minutes={n}, day={day})",
        "at a time": "workout(sport={sport}, minutes={n}, time={time})",
    },
}
"""Requests for tools beyond the catalogue."""


@lru_cache(maxsize=1)
def structures() -> dict[str, tuple[Structure, ...]]:
    """Returns the structures of every skill, of what only the test split shows, and off the domain."""
    every = {**SKILLS, **TEST_ONLY, **OFF_DOMAIN}
    return {skill: tuple(Structure(skill, *entry) for entry in parts.items()) for skill, parts in every.items()}


@lru_cache(maxsize=1)
def _by_clause() -> dict[str, tuple[Structure, tuple[str, ...]]]:
    out: dict[str, tuple[Structure, tuple[str, ...]]] = {}
    for parts in structures().values():
        for structure in parts:
            for clause in (clause for group in structure.clauses for clause in group):
                entry = (structure, clause.slots)
                if out.setdefault(clause.key, entry) != entry:
                    raise ValueError(f"{clause.key!r} says two plans, {structure.skill} and {out[clause.key][0].skill}")
    return out


def read_request(text: str) -> tuple[Structure, dict[str, str]] | None:
    """Returns the structure and the values that a request speaks of; `None` for any other text."""
    if len(text) > MAX_REQUEST:
        return None
    key, values = skeleton(unframed(text))
    structure, slots = _by_clause().get(key, (None, ()))
    if structure is None or len(slots) != len(values):
        return None
    out = dict(zip(slots, values, strict=True))
    # Where a sentence names a value twice, both must agree.
    return (structure, out) if all(out[s] == v for s, v in zip(slots, values, strict=True)) else None
