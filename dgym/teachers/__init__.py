"""How data is made: policies, engines, and the teachers that combine them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from dgym import registry
from dgym.chat import is_chat
from dgym.core import Teacher
from dgym.errors import DgymError, UsageError, one_line


def split_name(name: str) -> tuple[str, str]:
    """Splits a teacher's name into the registered one and that of its language model, or of what it isolates.

    The latter may be empty.
    """
    if name.startswith(registry.ISOLATED):
        return "isolated", name.removeprefix(registry.ISOLATED)
    if registry.is_file(name) or name in registry.names("teacher"):
        return name, ""
    entry, at, chat = name.partition("@")
    if at and entry and chat:
        return entry, chat
    return ("agent", name) if is_chat(name) else (name, "")


def full_name(name: str) -> str:
    """Returns a teacher's full name: `agent@CHAT` for a language model alone."""
    entry, chat = split_name(name)
    return f"{entry}@{chat}" if chat else name


def make_teacher(name: str, params: Mapping[str, Any] | None = None) -> Teacher:
    """Makes a teacher by name.

    A name may stand for a `Teacher`, for a factory of one, or for a class whose objects have both `plan` and
    `generate`. Such a class enters every environment unless its attribute `environments` names some.

    Args:
        name: Registered name, `path/to/file.py:Attr`, or with a language model `NAME@CHAT`; `CHAT` alone, such as
            `openai:gpt-4o-mini`, is `agent@CHAT`. `isolated@` before any of the first two, or before a folder, is that
            teacher in a process of its own (`dgym.isolation`).
        params: Keyword arguments of the factory or class.

    Raises:
        UsageError: If there is no such teacher, or if it cannot be made.
    """
    entry, chat = split_name(name)
    if entry == "isolated":
        params = {"teacher": chat, **(params or {})}
    elif chat:
        params = {"chat": chat, **(params or {})}
    elif entry in registry.names("chat") and entry not in registry.names("teacher"):
        raise UsageError(f"{entry!r} provides language models; name one, {entry}:MODEL, or write agent@{entry}.")
    # Isolation stands above teachers, and is found by name like what is registered.
    made = import_module("dgym.isolation").isolated if entry == "isolated" else registry.load("teacher", entry)
    if callable(made) and not isinstance(made, Teacher):
        try:
            made = made(**(params or {}))
        except DgymError:
            raise
        except Exception as error:
            raise UsageError(f"The teacher {name!r} cannot be made: {one_line(error)}") from error
    teacher = Teacher.of(made, name, registry.names("environment"))
    if teacher is None:
        raise UsageError(
            f"The teacher {name!r} is a {type(made).__name__}; it must be a dgym.Teacher, or have the methods "
            "plan(brief, state) and generate(brief, item)."
        )
    # A twin is told apart from other models' by the model it shares with it.
    twin = f"{teacher.twin}@{chat}" if teacher.twin and chat else teacher.twin
    return replace(teacher, name=name, twin=twin)
