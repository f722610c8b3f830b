"""Results: five tables of a run, what they mean, and the frames and statistics made of them.

`open` gives a run's tables in a notebook, from a folder or a URL::

    from dgym import results

    run = results.open("runs/quick")
    run.steps.pivot_table("selection", "iteration", "teacher")
    run.frame("attempts", ["skill", "score"], where=[("split", "==", "test")])
    run.columns("attempts")

    results.compare(run, "weakness", "uniform")
    results.curves(run), results.skills(run), results.allocations(run), results.costs(run)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from dgym.results.reader import Run, open  # noqa: A004 (used as results.open)
from dgym.results.writer import EpisodeWriter, finished

if TYPE_CHECKING:
    from dgym.results.documentation import columns
    from dgym.results.frames import allocations, compare, compare_runs, costs, curves, skills

__all__ = [
    "EpisodeWriter",
    "Run",
    "allocations",
    "columns",
    "compare",
    "compare_runs",
    "costs",
    "curves",
    "finished",
    "open",
    "skills",
]


def __getattr__(name: str) -> object:
    # What makes frames comes with pandas, which the many processes of a run that only write need not wait for.
    if name in __all__:
        module = "documentation" if name == "columns" else "frames"
        return getattr(import_module(f"dgym.results.{module}"), name)
    raise AttributeError(f"module 'dgym.results' has no attribute {name!r}")
