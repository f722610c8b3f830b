"""Plain values as bytes, and equality that a program cannot talk its way through.

A plain value is `None` or exactly a `bool`, `int`, `float`, `str`, `bytes`, `list`, `tuple`, `dict` or `set` of
plain values; an instance of a subclass is not plain, because its methods are the program's. Nothing here calls a
method of a value that is not plain, recurses without a bound, or does unbounded work on what a program sent.

This file also runs inside the sandbox, where it is loaded by its path; it imports the standard library only.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final

MAX_DEPTH: Final = 100
"""Deepest nesting of containers."""

MAX_NODES: Final = 200_000
"""Most values in one message, containers included."""

_COLLISIONS = 32
_LENGTH = struct.Struct(">I")
_DOUBLE = struct.Struct(">d")
_CONTAINERS: Final[dict[type, bytes]] = {list: b"L", tuple: b"U", dict: b"M", set: b"E"}
_TAGS: Final = frozenset(b"LUME")


class PlainError(ValueError):
    """A value is not plain, too large or too deep, or bytes do not stand for a value."""


def encode(value: object, max_bytes: int = 1 << 30) -> bytes:
    """Writes a plain value as bytes: one tag per value, then its length and content.

    Args:
        value: The value.
        max_bytes: Most bytes to write.

    Returns:
        The bytes.

    Raises:
        PlainError: If the value is not plain, is nested too deeply or holds too much.
    """
    out: list[bytes] = []
    nodes = size = 0
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        nodes += 1
        kind = type(item)
        if item is None:
            piece = b"N"
        elif kind is bool:
            piece = b"T" if item else b"F"
        elif kind is int:
            piece = _sized(b"I", item.to_bytes(item.bit_length() // 8 + 1, "big", signed=True))
        elif kind is float:
            piece = b"D" + _DOUBLE.pack(item)
        elif kind is str:
            piece = _sized(b"S", item.encode("utf-8", "surrogatepass"))
        elif kind is bytes:
            piece = _sized(b"B", item)
        elif kind in _CONTAINERS:
            if depth >= MAX_DEPTH:
                raise PlainError(f"nested more than {MAX_DEPTH} deep")
            flat: list[object] = [x for pair in item.items() for x in pair] if kind is dict else list(item)
            if nodes + len(stack) + len(flat) > MAX_NODES:
                raise PlainError(f"more than {MAX_NODES} values")
            piece = _CONTAINERS[kind] + _LENGTH.pack(len(flat))
            stack.extend((x, depth + 1) for x in reversed(flat))
        else:
            raise PlainError(f"{kind.__name__[:100]} is not a plain value")
        size += len(piece)
        if size > max_bytes:
            raise PlainError(f"more than {max_bytes} bytes")
        out.append(piece)
    return b"".join(out)


def _sized(tag: bytes, content: bytes) -> bytes:
    if len(content) >= 1 << 32:
        raise PlainError("more than 4 GiB")
    return tag + _LENGTH.pack(len(content)) + content


def decode(data: bytes) -> Any:
    """Reads what `encode` wrote; safe on any bytes.

    Args:
        data: The bytes, all of them.

    Returns:
        The value.

    Raises:
        PlainError: If the bytes do not stand for exactly one value within the limits.
    """
    try:
        return _decode(data)
    except (struct.error, IndexError, TypeError, UnicodeDecodeError) as error:
        raise PlainError(f"not a message: {error}") from error


def _decode(data: bytes) -> Any:
    at = nodes = 0
    # One entry per open container: its tag, how many values it still lacks, and those it has.
    stack: list[tuple[int, int, list[Any]]] = []
    while True:
        tag = data[at]
        at += 1
        nodes += 1
        if nodes > MAX_NODES:
            raise PlainError(f"more than {MAX_NODES} values")
        value: Any
        if tag in b"NTF":
            value = None if tag == 78 else tag == 84
        elif tag == 68:
            (value,) = _DOUBLE.unpack_from(data, at)
            at += 8
        else:
            (length,) = _LENGTH.unpack_from(data, at)
            at += 4
            if length > len(data) - at:
                raise PlainError("cut short")
            if tag in _TAGS:
                if len(stack) >= MAX_DEPTH:
                    raise PlainError(f"nested more than {MAX_DEPTH} deep")
                stack.append((tag, length, []))
                value = None
            else:
                content = data[at : at + length]
                at += length
                if tag == 73:
                    value = int.from_bytes(content, "big", signed=True)
                elif tag == 83:
                    value = content.decode("utf-8", "surrogatepass")
                elif tag == 66:
                    value = content
                else:
                    raise PlainError("unknown tag")
        if tag not in _TAGS:
            if not stack:
                break
            stack[-1][2].append(value)
        while stack and len(stack[-1][2]) == stack[-1][1]:
            done, _, items = stack.pop()
            value = _container(done, items)
            if not stack:
                break
            stack[-1][2].append(value)
        if not stack:
            break
    if at != len(data):
        raise PlainError("bytes left over")
    return value


def _container(tag: int, items: list[Any]) -> Any:
    if tag == 76:
        return items
    if tag == 85:
        return tuple(items)
    keys = items[::2] if tag == 77 else items
    if len(keys) > _COLLISIONS:
        # Keys chosen to collide would make this table quadratic to build, in the process that grades.
        hashes = sorted(map(hash, keys))
        if any(map(int.__eq__, hashes, hashes[_COLLISIONS:])):
            raise PlainError("keys that collide")
    if tag == 69:
        return set(items)
    if len(items) % 2:
        raise PlainError("a key without a value")
    return dict(zip(keys, items[1::2], strict=True))


def same(value: object, expected: object) -> bool:
    """Whether two plain values are equal in type and content.

    `True` is not `1` and `1` is not `1.0`. Floats agree within a relative 1e-9, and NaN equals NaN. The order of a
    dict does not matter. Elements of sets and keys of dicts are paired in sorted order. Anything that is not plain,
    too deep or too large is equal to nothing, itself included.

    Args:
        value: What was returned.
        expected: What should have been.

    Returns:
        Whether they are the same. Never raises.
    """
    try:
        return _same(value, expected)
    except (PlainError, RecursionError, MemoryError, RuntimeError, OverflowError):
        return False


def _same(value: object, expected: object) -> bool:
    nodes = 0
    stack: list[tuple[Any, Any, int]] = [(value, expected, 0)]
    while stack:
        a, b, depth = stack.pop()
        kind = type(a)
        if type(b) is not kind:
            return False
        if kind is float:
            if not (math.isclose(a, b, rel_tol=1e-9) or (math.isnan(a) and math.isnan(b))):
                return False
        elif kind is int or kind is str or kind is bool or kind is bytes:
            if a != b:
                return False
        elif a is None:
            continue
        elif kind in _CONTAINERS:
            nodes += len(a)
            if len(a) != len(b) or depth >= MAX_DEPTH or nodes > MAX_NODES:
                return False
            if kind is dict:
                keys = sorted(a, key=_order), sorted(b, key=_order)
                for x, y in zip(*keys, strict=True):
                    stack.append((x, y, depth + 1))
                    stack.append((a[x], b[y], depth + 1))
            elif kind is set:
                pairs = zip(sorted(a, key=_order), sorted(b, key=_order), strict=True)
                stack.extend((x, y, depth + 1) for x, y in pairs)
            else:
                stack.extend((x, y, depth + 1) for x, y in zip(a, b, strict=True))
        else:
            return False
    return True


def _order(item: Any, depth: int = 0) -> tuple[Any, ...]:
    """Returns a sort key for a hashable plain value; keys of different types never meet."""
    kind = type(item)
    if item is None:
        return (0,)
    if kind is float:
        return (3, 0, 0.0) if math.isnan(item) else (3, 1, item)
    if kind is tuple and depth < MAX_DEPTH:
        return (6, *(_order(x, depth + 1) for x in item))
    rank = {bool: 1, int: 2, str: 4, bytes: 5}.get(kind)
    if rank is None:
        raise PlainError("not a plain key")
    return (rank, item)
