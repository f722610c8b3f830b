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

from dgym.results.documentation import columns
from dgym.results.frames import allocations, compare, compare_runs, costs, curves, skills
from dgym.results.reader import Run, open  # noqa: A004 (used as results.open)
from dgym.results.writer import EpisodeWriter, finished

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
