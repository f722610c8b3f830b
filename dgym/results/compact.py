"""Merging a run into one file a table, as it is published: `episodes.parquet`, `steps.parquet`, ...

A folder of such files is read like any run; domain, environment and teacher are then columns like all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa

from dgym.errors import UsageError
from dgym.results.place import Place
from dgym.results.reader import Run, codes
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
        out: Folder or URL for the files, another than the run's.

    Returns:
        The size of each file in bytes, by table.

    Raises:
        UsageError: If the run has no episode, or if the folder is the run's own, whose part files would be hidden.
        InfrastructureError: If a file cannot be written.
    """
    domains = sorted(set(run.arrow("episodes", ["domain"]).column(0).to_pylist()))
    if not domains:
        raise UsageError(f"There is no episode in {run.name!r} to merge.")
    place = Place.of(out)
    if place.same_as(run.name):
        raise UsageError(f"Merged tables in {place.name!r} itself would hide its part files: name another folder.")
    return {name: write_table(name, _pieces(run, name, domains), place) for name in TABLES}


def write_table(name: str, pieces: Iterable[pa.Table], out: str | PathLike[str] | Place) -> int:
    """Writes a table into one file.

    Args:
        name: Which table.
        pieces: Its rows, which are sorted here; of several pieces, the later ones belong after the earlier.
        out: Folder or URL for the file.

    Returns:
        The size of the file in bytes.

    Raises:
        InfrastructureError: If it cannot be written.
    """
    path = Place.of(out).shown(f"{name}.parquet")
    schema = TABLES[name].read_schema.with_metadata(TABLES[name].schema.metadata)
    rows = (_sorted(piece, _ORDER[name]).cast(schema) for piece in pieces)
    return write_parquet(rows, path, schema=schema, level=19)


def _pieces(run: Run, name: str, domains: Iterable[str]) -> Iterator[pa.Table]:
    if name != "attempts":
        yield run.arrow(name, encoded=True)
        return
    # By far the largest table is read and sorted in pieces that stand one after the other.
    for domain in domains:
        for split in ("feedback", "selection", "test"):
            piece = run.arrow(name, where=[("domain", "==", domain), ("split", "==", split)], encoded=True)
            if piece.num_rows:
                yield piece


def _sorted(rows: pa.Table, keys: Iterable[str]) -> pa.Table:
    places: list[Any] = []
    for key in keys:
        if not pa.types.is_integer(rows.schema.field(key).type):
            values, which = codes(rows, key)
            rank = np.empty(len(values) + 1, dtype=np.int64)
            rank[np.argsort(values, kind="stable")] = np.arange(len(values))
            rank[-1] = len(values)  # null comes last
            places.append(rank[which])
        else:
            places.append(rows.column(key).fill_null(np.iinfo(np.int64).max).to_numpy())
    return rows.take(pa.array(np.lexsort(places[::-1])))
