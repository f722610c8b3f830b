"""What the teacher sees: one module an environment."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from dgym import registry
from dgym.core import Curriculum, Environment
from dgym.errors import DgymError, UsageError
from dgym.skills.curriculum import FREE


def make_environment(name: str, curriculum: Curriculum = FREE, skills: Mapping[str, str] | None = None) -> Environment:
    """Makes an environment by name.

    Args:
        name: Registered name, or `path/to/file.py:Attr`.
        curriculum: What the user wants taught; for environments with skills.
        skills: Discovered skills, by problem id; `None` for the domain's own.

    Raises:
        UsageError: If there is no such environment, or if it has no skills and is given a curriculum or skills.
    """
    made: Any = registry.load("environment", name)
    wanted = {} if curriculum == FREE and skills is None else {"curriculum": curriculum, "skills": skills}
    if wanted and not _has_skills(made):
        others = ", ".join(n for n in registry.names("environment") if _is_registered_with_skills(n))
        what = "no curriculum" if curriculum != FREE else "no discovered skills"
        raise UsageError(f"The environment {name!r} shows no skills and takes {what}; those with skills: {others}.")
    environment: Environment = made(**wanted)
    return environment


def _is_registered_with_skills(name: str) -> bool:
    try:
        return _has_skills(registry.load("environment", name))
    except DgymError:  # a plugin that cannot be imported
        return False


def _has_skills(made: Any) -> bool:
    try:
        return {"curriculum", "skills"} <= set(inspect.signature(made).parameters)
    except (TypeError, ValueError):
        return False
