"""The leaderboard as one static HTML page: no scripts, nothing loaded, on a phone and in the dark.

Every number is a text of `dgym.leaderboard`, the same as in its Markdown; only the intervals are drawn beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, Final

from dgym import __version__
from dgym.leaderboard import (
    COLUMNS,
    GAIN,
    MEANINGS,
    PAIR_COLUMNS,
    Leaderboard,
    Table,
    files,
    pair_texts,
    texts,
    title,
)
from dgym.results.place import write_files

_WIDTH: Final = 144.0
_EDGE: Final = 8.0
"""Of the drawing of an interval, in units of its own."""


def page(boards: Mapping[str, Leaderboard]) -> str:
    """Renders the leaderboards of some runs as one page.

    Args:
        boards: By the name of the run.
    """
    runs = [
        {
            "id": f"run-{number}",
            "name": name,
            "notes": [*board.common_notes(), *board.notes],
            "tables": [_table(board, table, f"run-{number}-{place}") for place, table in enumerate(board.tables)],
        }
        for number, (name, board) in enumerate(boards.items())
    ]
    html: str = _template().render(
        runs=runs,
        columns=COLUMNS,
        meanings=MEANINGS,
        gain=GAIN,
        pair_columns=PAIR_COLUMNS,
        version=__version__,
    )
    return html


def write(boards: Mapping[str, Leaderboard], folder: str | PathLike[str]) -> list[str]:
    """Writes leaderboards as Markdown, CSV, JSON and one page, `index.html`, into a folder.

    Args:
        boards: By the name of the run.
        folder: Path or URL; made if it does not exist.

    Returns:
        The files' paths or URLs.

    Raises:
        UsageError: If they cannot be written.
    """
    return write_files(folder, files(boards) | {"index.html": page(boards)})


def _table(board: Leaderboard, table: Table, name: str) -> dict[str, Any]:
    ends = [0.0]
    for row in table.rows:
        ends += [row.gain.value, *(row.gain.interval or ())]
    low, high = min(ends), max(ends)
    spread = (high - low) or 1.0

    def place(value: float) -> str:
        return f"{_EDGE + (value - low) / spread * (_WIDTH - 2 * _EDGE):.1f}"

    rows = []
    for before, row in zip([None, *table.rows], table.rows, strict=False):
        classes = ["control"] * row.control + ["line"] * (row.control and before is not None and not before.control)
        rows.append(
            {
                "texts": texts(row),
                "classes": " ".join(classes),
                "point": place(row.gain.value),
                "range": [place(end) for end in row.gain.interval] if row.gain.interval else None,
            }
        )
    return {
        "id": name,
        "track": table.track,
        "title": title(table),
        "rows": rows,
        "zero": place(0.0),
        "low": f"{low:+.0f}" if round(low) else "0",
        "high": f"{high:+.0f}" if round(high) else "0",
        "notes": board.own_notes(table),
        "pairs": [pair_texts(*pair) for pair in table.pairs],
    }


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    source = Path(__file__).with_name("leaderboard_page.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
