"""dgym: a testbed and benchmark for teachers, agents that write training data.

The vocabulary stands in `dgym.core`, the loop in `dgym.episode`. Importing this package loads neither torch nor
Ray; `make` does, when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgym.core import (
    Brief,
    Budget,
    Example,
    Observation,
    Plan,
    PlanItem,
    Rules,
    SkillReport,
    State,
    Teacher,
)
from dgym.errors import DgymError, TeacherError, UsageError

if TYPE_CHECKING:
    from dgym.gym import make

__version__ = "0.1.0"

__all__ = [
    "Brief",
    "Budget",
    "DgymError",
    "Example",
    "Observation",
    "Plan",
    "PlanItem",
    "Rules",
    "SkillReport",
    "State",
    "Teacher",
    "TeacherError",
    "UsageError",
    "__version__",
    "make",
]


def __getattr__(name: str) -> object:
    # `make` comes with pydantic and the student hosts; a plain import should not.
    if name == "make":
        from dgym.gym import make

        return make
    raise AttributeError(f"module 'dgym' has no attribute {name!r}")
