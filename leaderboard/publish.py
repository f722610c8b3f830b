"""Publishes a run: tables, leaderboard and paired differences go into a folder of its name here.

The leaderboards of all published runs are also written together, as Markdown, CSV, JSON and the page `index.html`, and
that of `quick` goes into the README. Every number is made from the published tables. For example
`python leaderboard/publish.py runs/quick`; without a run, what is published is written anew.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from dgym import ablation, leaderboard, leaderboard_page
from dgym.results import documentation
from dgym.results import open as open_run
from dgym.results.compact import compact

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MARKS = ("<!-- quick: begin -->\n", "<!-- quick: end -->")
RUNS = ("quick", "standard", "standard-u", "ablation", "smollm2")
"""Published runs in the order in which they are shown; others come after them."""

LIMIT = 25_000_000
"""Largest table, in bytes."""


def published() -> list[str]:
    """Returns the names of the published runs."""
    there = {path.parent.name for path in HERE.glob("*/episodes.parquet")}
    return [name for name in (*RUNS, *sorted(there - {*RUNS})) if name in there]


def excerpt(markdown: str) -> str:
    """Returns the last table of a published leaderboard, the overall one if there are several, with its notes."""
    last = markdown.rpartition("## ")[2].partition("\n")[2].strip()
    return re.sub(r"\n{3,}", "\n\n", last) + "\n"


def table_in(readme: str) -> str:
    """Returns what stands between the marks in the README."""
    return readme.partition(MARKS[0])[2].partition(MARKS[1])[0]


def main() -> None:
    """Writes the files and renews the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    folder = parser.parse_args().run
    if folder is not None:
        run = open_run(folder)
        sizes = compact(run, HERE / folder.name)
        if run.partial:
            raise SystemExit(f"The run is not whole: {' '.join(run.partial)}")
        for table, size in sizes.items():
            print(f"{table}: {size / 1e6:.2f} MB")
            if size > LIMIT:
                raise SystemExit(f"{table} is too large to be published: {size:,} of {LIMIT:,} bytes.")
    boards = {}
    for name in published():
        run = open_run(HERE / name)
        boards[name] = leaderboard.build(run)
        leaderboard.write(boards[name], HERE / name)
        found = ablation.contrasts(run)
        if found:
            ablation.write(found, HERE / name)
    leaderboard_page.write(boards, HERE)
    (HERE / "columns.md").write_text(documentation.markdown(), encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    table = excerpt((HERE / "quick" / "leaderboard.md").read_text(encoding="utf-8"))
    README.write_text(before + MARKS[0] + table + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    main()
