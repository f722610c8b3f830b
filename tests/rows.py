"""Comparing runs: all rows of all tables, without times and what depends on what was recorded before."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dgym import results

MAY_DIFFER = ("retries", "cache_hit", "deaths")
TABLES = ("episodes", "steps", "attempts", "examples", "calls")


def rows(run: Path) -> dict[str, pd.DataFrame]:
    """Returns every table of a run, sorted, without the columns that may differ between runs."""
    out = {}
    for table in TABLES:
        frame = getattr(results.open(run), table)
        frame = frame[[c for c in frame if not (c.startswith("seconds") or c.endswith("_at") or c in MAY_DIFFER)]]
        keys = [c for c in ("digest", "iteration", "generation", "split", "problem", "item", "prompt") if c in frame]
        out[table] = frame.sort_values(keys, kind="stable").reset_index(drop=True)
    return out


def assert_same_rows(left: Path, right: Path) -> None:
    """Fails unless two runs have the same rows."""
    ours, theirs = rows(left), rows(right)
    for table in TABLES:
        assert len(ours[table]) > 0, table
        pd.testing.assert_frame_equal(ours[table], theirs[table])
