"""A run as one HTML file: what to look at first, and enough to check and reproduce it.

`write` gathers a run's values (`data`): rows of charts (`frames`), skill trees (`trees`), samples (`samples`) and
provenance (`provenance`); and renders them (`page`, with the template and specifications beside it). Whatever is a
statistic comes from `dgym.results` and `dgym.leaderboard`.
"""

from __future__ import annotations

from os import PathLike

from dgym.results.reader import Run
from dgym.results.statistics import Bootstrap


def write(run: Run, out: str | PathLike[str], *, command: str = "", bootstrap: Bootstrap | None = None) -> str:
    """Writes a run's report as one self-contained HTML file.

    Args:
        run: The results.
        out: The file's path or URL.
        command: What made the page, to be shown on it.
        bootstrap: Draws for intervals, as in `dgym.leaderboard.build`.

    Returns:
        The file's path or URL.

    Raises:
        UsageError: If no episode has ended, if a published table cannot be read, or if the file cannot be written.
    """
    from dgym.report.data import gather
    from dgym.report.page import render
    from dgym.results.place import write_file

    text = render(gather(run, command, bootstrap))
    # What a model wrote may hold what has no place in UTF-8.
    return write_file(out, text.encode("utf-8", "replace"))


__all__ = ["write"]
