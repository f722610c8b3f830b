"""How data is made: policies, engines, and the teachers that combine them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dgym import registry
from dgym.core import Engine, Policy, Teacher
from dgym.errors import DgymError, UsageError, one_line


def make_teacher(name: str, params: Mapping[str, Any] | None = None) -> Teacher:
    """Makes a teacher by name.

    A name may stand for a `Teacher`, for a factory of one, or for a class whose objects have both `plan` and
    `generate`. Such a class enters every environment unless its attribute `environments` names some.

    Args:
        name: Registered name, or `path/to/file.py:Attr`.
        params: Keyword arguments of the factory or class.

    Raises:
        UsageError: If there is no such teacher, or if it cannot be made.
    """
    made = registry.load("teacher", name)
    if callable(made) and not isinstance(made, Teacher):
        try:
            made = made(**(params or {}))
        except DgymError:
            raise
        except Exception as error:
            raise UsageError(f"The teacher {name!r} cannot be made: {one_line(error)}") from error
    if isinstance(made, Teacher):
        return replace(made, name=name)
    if isinstance(made, Policy) and isinstance(made, Engine):
        entered = getattr(made, "environments", None) or registry.names("environment")
        return Teacher(
            name=name,
            policies=dict.fromkeys(entered, made),
            engine=made,
            version=str(getattr(made, "version", "1")),
            privileged=bool(getattr(made, "privileged", False)),
        )
    raise UsageError(
        f"The teacher {name!r} is a {type(made).__name__}; it must be a dgym.Teacher, or have the methods "
        "plan(brief, state) and generate(brief, item)."
    )
