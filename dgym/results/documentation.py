"""What every column means: the tables of a run and the frames made of them, from the schema that they are written by.

Nothing here is written twice: names, types, units and meanings are those of `dgym.results.schema` and
`dgym.results.frames`.
"""

from __future__ import annotations

import pandas as pd

from dgym.errors import unknown_name
from dgym.results.frames import FRAMES
from dgym.results.schema import PARTITIONS, TABLES, Column, Table


def columns(table: str | None = None) -> pd.DataFrame:
    """Lists columns.

    Args:
        table: A table of a run, such as `"attempts"`, or a frame made of them, such as `"curves"`; all by default.

    Returns:
        One row per column: `table`, `name`, `type` (Arrow's), `unit` (a unit or range; empty for names, flags and
        text) and `meaning`.

    Raises:
        UsageError: If there is no such table.
    """
    rows = [
        {"table": one.name, "name": c.name, "type": str(c.type), "unit": c.unit, "meaning": c.meaning}
        for one in documented(table)
        for c in columns_of(one)
    ]
    return pd.DataFrame(rows)


def documented(table: str | None = None) -> list[Table]:
    """Returns the tables and frames that are documented, or one of them.

    Raises:
        UsageError: If there is no such table.
    """
    first = TABLES["episodes"]
    known = {one.name: one for one in (first, *TABLES.values(), *FRAMES.values())}
    if table is None:
        return list(known.values())
    if table not in known:
        raise unknown_name("table", table, known)
    return [known[table]]


def columns_of(table: Table) -> tuple[Column, ...]:
    """Returns a table's columns as they are read: of a run's table with those that stand in the folder names."""
    return (*PARTITIONS, *table.columns) if table.name in TABLES else table.columns


def markdown(table: str | None = None) -> str:
    """Writes the documentation of columns as Markdown.

    Raises:
        UsageError: If there is no such table.
    """
    lines = ["# Columns of results", ""]
    for one in documented(table):
        what = "a table of every run" if one.name in TABLES else f"`results.{one.name}`"
        lines += [f"## {one.name}", "", f"{one.meaning} ({what})", ""]
        lines += ["| column | type | unit | meaning |", "|:--|:--|:--|:--|"]
        lines += [f"| `{c.name}` | `{c.type}` | {c.unit} | {c.meaning} |" for c in columns_of(one)]
        lines.append("")
    return "\n".join(lines)
