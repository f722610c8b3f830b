"""Merging a run into one file a table, as it is published: `episodes.parquet`, `steps.parquet`, ...

A folder of such files is read like any run; domain, environment and teacher are then columns like all others.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from dgym.results.reader import Run
from dgym.results.schema import TABLES
from dgym.results.writer import write_parquet

_ORDER = {
    "episodes": ("domain", "environment", "teacher", "seed_variant", "digest"),
    "steps": ("digest", "iteration"),
    # Answers to one problem stand together: most of them are equal, and compress to nothing.
    "attempts": ("domain", "split", "problem", "iteration", "digest"),
    "examples": ("digest", "iteration", "item"),
    "calls": ("digest", "iteration", "generation", "item"),
}


def compact(run: Run, out: str | PathLike[str]) -> dict[str, int]:
    """Writes every table of a run into one file, rows in a fixed order.

    Args:
        run: What to merge.
        out: Folder for the files.

    Returns:
        The size of each file in bytes, by table.

    Raises:
        InfrastructureError: If a file cannot be written.
    """
    sizes = {}
    for name, table in TABLES.items():
        rows = run.arrow(name).sort_by([(column, "ascending") for column in _ORDER[name]])
        path = Path(out) / f"{name}.parquet"
        write_parquet(rows.replace_schema_metadata(table.schema.metadata), path, level=19)
        sizes[name] = path.stat().st_size
    return sizes
