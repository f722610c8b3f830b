"""Publishes a run: tables, leaderboard and paired differences go into a folder of its name here.

The leaderboard of `quick` also goes into the README. For example `python leaderboard/publish.py runs/quick`.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

from dgym import ablation
from dgym.results import open as open_run
from dgym.results.compact import compact

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MARKS = ("<!-- quick: begin -->\n", "<!-- quick: end -->")
FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.json")
LIMIT = 25_000_000
"""Largest table, in bytes."""


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
    parser.add_argument("run", type=Path)
    folder = parser.parse_args().run
    out = HERE / folder.name
    out.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(folder / name, out / name)
    for table, size in compact(open_run(folder), out).items():
        print(f"{table}: {size / 1e6:.2f} MB")
        if size > LIMIT:
            raise SystemExit(f"{table} is too large to be published: {size:,} of {LIMIT:,} bytes.")
    found = ablation.contrasts(open_run(out))
    if found:
        ablation.write(found, out)
    if folder.name != "quick":
        return
    text = README.read_text(encoding="utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    table = excerpt((out / "leaderboard.md").read_text(encoding="utf-8"))
    README.write_text(before + MARKS[0] + table + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    main()
