"""The protocol between dgym and a teacher's process: lines of JSON over pipes, and the records in them.

A teacher's process reads requests from its standard input and writes replies to its standard output, one JSON object a
line, in UTF-8. `leaderboard/PROTOCOL.md` describes it for any language. Both sides of a Python teacher use this
module, which therefore imports nothing outside the standard library but the records.

What this module does not know: how a process is started, and what a teacher does.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final, Literal, TypeVar

from dgym import core

VERSION: Final = 1
"""Raised whenever a teacher that was written for the version before would not work."""

MAX_DEPTH: Final = 64
"""How deep values may be nested."""

T = TypeVar("T")


class ProtocolError(ValueError):
    """What came is not what the protocol says; the text tells where."""


def to_line(message: Mapping[str, Any]) -> bytes:
    """Writes a message as a line.

    Raises:
        ProtocolError: If it holds something that JSON does not.
    """
    try:
        text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError, too
        raise ProtocolError(f"it cannot be written as JSON: {error}") from error


def from_line(line: bytes) -> dict[str, Any]:
    """Reads a message.

    Raises:
        ProtocolError: If the line is no JSON object, holds numbers that JSON does not know, or is nested too deeply.
    """
    try:
        value = json.loads(line.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a line is not JSON: {_shown(line)}") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"a line is no JSON object: {_shown(line)}")
    if _deeper(value, MAX_DEPTH):
        raise ProtocolError(f"values are nested more than {MAX_DEPTH} deep")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _shown(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace")) + ("…" if len(line) > 80 else "")


def _deeper(value: Any, depth: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(_deeper(part, depth - 1) for part in inside if isinstance(part, dict | list))


def encode(record: Any) -> Any:
    """Turns a record of `dgym.core` into JSON values; images become base64."""
    if is_dataclass(record) and not isinstance(record, type):
        return {f.name: encode(getattr(record, f.name)) for f in fields(record)}
    if isinstance(record, bytes):
        return base64.b64encode(record).decode()
    if isinstance(record, Mapping):
        return {str(key): encode(value) for key, value in record.items()}
    if isinstance(record, Sequence) and not isinstance(record, str):
        return [encode(value) for value in record]
    return record


def decode(kind: type[T], value: Any) -> T:
    """Makes a record of `dgym.core` from JSON values, and checks every field.

    Raises:
        ProtocolError: If a field is missing, unknown or of another type; the text names it.
    """
    made: T = _decoded(kind, value, kind.__name__.lower())
    return made


def _decoded(kind: Any, value: Any, at: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin is Literal:
        return _require(value in typing.get_args(kind), value, at, f"one of {', '.join(typing.get_args(kind))}")
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return _require(type(None) in typing.get_args(kind), value, at, "not null")
        (inner,) = (k for k in typing.get_args(kind) if k is not type(None))
        return _decoded(inner, value, at)
    if origin is tuple:
        _require(isinstance(value, list), value, at, "a list")
        return tuple(_decoded(typing.get_args(kind)[0], part, f"{at}[{i}]") for i, part in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        _require(isinstance(value, dict), value, at, "an object")
        return {key: _decoded(typing.get_args(kind)[1], part, f"{at}.{key}") for key, part in value.items()}
    if is_dataclass(kind):
        return _record(kind, value, at)
    return _plain(kind, value, at)


def _record(kind: Any, value: Any, at: str) -> Any:
    _require(isinstance(value, dict), value, at, "an object")
    hints = _hints(kind)
    if unknown := sorted(set(value) - set(hints)):
        raise ProtocolError(f"{at} has no field {unknown[0]!r}; it has {', '.join(hints)}")
    for f in fields(kind):
        if f.name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise ProtocolError(f"{at} lacks {f.name!r}")
    made = {name: _decoded(hints[name], part, f"{at}.{name}") for name, part in value.items()}
    try:
        return kind(**made)
    except ValueError as error:
        raise ProtocolError(f"{at}: {error}") from error


def _plain(kind: Any, value: Any, at: str) -> Any:
    if kind is bytes:
        try:
            return base64.b64decode(_require(isinstance(value, str), value, at, "base64"), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ProtocolError(f"{at} is no base64") from error
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(_require(number, value, at, "a number"))
    names = {str: "a text", int: "a whole number", bool: "true or false"}
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return _require(right, value, at, names[kind])


def _require(holds: bool, value: Any, at: str, what: str) -> Any:
    if not holds:
        raise ProtocolError(f"{at} must be {what}, and is {str(value)[:60]!r}")
    return value


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, vars(core))
    return {f.name: hints[f.name] for f in fields(kind)}
