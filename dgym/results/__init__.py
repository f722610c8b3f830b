"""Results: Parquet schema, writer, reader and the statistics of the leaderboard.

`open` gives a run's tables as pandas frames in a notebook::

    from dgym import results

    run = results.open("runs/quick")
    run.steps.pivot_table("selection", "iteration", "teacher")
"""

from dgym.results.reader import Run, open  # noqa: A004 (used as results.open)
from dgym.results.writer import EpisodeWriter, finished

__all__ = ["EpisodeWriter", "Run", "finished", "open"]
