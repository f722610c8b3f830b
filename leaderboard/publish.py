"""Publishes a run of the suite `quick`: copies its leaderboard here, and its table into the README.

python leaderboard/publish.py runs/quick
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MARKS = ("<!-- quick: begin -->\n", "<!-- quick: end -->")
FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.json")


def excerpt(markdown: str) -> str:
    """Returns the tables of a published leaderboard without its title, headings one level down."""
    body = markdown.partition("\n")[2].strip()
    return "\n".join(f"**{line[3:]}**" if line.startswith("## ") else line for line in body.splitlines()) + "\n"


def table_in(readme: str) -> str:
    """Returns what stands between the marks in the README."""
    return readme.partition(MARKS[0])[2].partition(MARKS[1])[0]


def main() -> None:
    """Copies the files and renews the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    folder = parser.parse_args().run
    out = HERE / "quick"
    out.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(folder / name, out / name)
    text = README.read_text(encoding="utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    table = excerpt((out / "leaderboard.md").read_text(encoding="utf-8"))
    README.write_text(before + MARKS[0] + table + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    main()
