"""The leaderboard's page: every number on it is one of the Markdown's, and nothing is loaded or run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dgym import leaderboard, leaderboard_page, results
from dgym.errors import UsageError
from dgym.results.statistics import Bootstrap
from tests.test_leaderboard import run_episode

PUBLISHED = Path(__file__).parents[1] / "leaderboard"
BOOTSTRAP = Bootstrap(500)


class Page(HTMLParser):
    """Reads the tables of a page: cells as text, without the small print of headings; links, ids and tags."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.ids, self.links, self.tags = [], set(), [], []
        self._cell = self._small = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids |= {given["id"]} if "id" in given else set()
        self.links += [given[k] for k in ("href", "src") if k in given]
        self._small = tag == "small"
        if tag == "table":
            self.tables.append((given["class"], []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._small = False
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._cell and not self._small:
            self.tables[-1][1][-1][-1] += data.strip()

    def boards(self):
        return [table for kind, table in self.tables if kind == "board"]


def tables_of(markdown):
    """The tables of a leaderboard in Markdown, teacher first as on the page."""
    found = []
    for block in re.findall(r"^\| rank .*?\n\n", markdown, flags=re.DOTALL | re.MULTILINE):
        lines = [line.strip("| \n").replace("\\*", "*").split(" | ") for line in block.strip().splitlines()]
        found.append([[cells[1], cells[0], *cells[2:]] for cells in (lines[0], *lines[2:])])
    return found


@pytest.fixture
def board(tmp_path):
    for seed in range(1, 6):
        for environment in ("open-ended", "skill-list"):
            run_episode(tmp_path, "weakness", seed, 10, 25 + seed, last=24, environment=environment)
        run_episode(tmp_path, "<b>&x.py:T", seed, 10, 14 + seed % 3, state_blind=True, privileged=True)
        run_episode(tmp_path, "no-data", seed, 10, 10, state_blind=True, ranked=False)
    return leaderboard.build(results.open(tmp_path), BOOTSTRAP)


def test_every_cell_is_that_of_the_markdown(board):
    page = Page(leaderboard_page.page({"mine": board}))
    assert page.boards() == tables_of(board.markdown())
    assert len(page.boards()) == 3
    assert page.boards()[0][0] == ["teacher", "rank", *leaderboard.COLUMNS[2:]]
    pairs = [table for kind, table in page.tables if kind == "pairs"]
    assert [row for table in pairs for row in table[1:]] == [
        list(leaderboard.pair_texts(*pair)) for table in board.tables for pair in table.pairs
    ]


def test_intervals_are_drawn_to_scale(board):
    html = leaderboard_page.page({"mine": board})
    first = board.tables[0]
    ends = [0.0, *(end for row in first.rows for end in row.gain.interval)]
    (low, high), point = (
        re.search(r'class="range" x1="([\d.]+)" x2="([\d.]+)"', html).groups(),
        re.search(r'circle cx="([\d.]+)"', html),
    )
    place = lambda value: 8 + (value - min(ends)) / (max(ends) - min(ends)) * 128  # noqa: E731
    row = first.rows[0]
    assert (float(low), float(high)) == pytest.approx([place(end) for end in row.gain.interval], abs=0.06)
    assert float(point[1]) == pytest.approx(place(row.gain.value), abs=0.06)


def test_nothing_is_loaded_and_every_link_leads_somewhere(board):
    page = Page(leaderboard_page.page({"one": board, "two": board}))
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    assert len(page.boards()) == 6


def test_files_of_several_runs_hold_each_under_its_name(board, tmp_path):
    written = [Path(file) for file in leaderboard_page.write({"one": board, "two": board}, tmp_path / "out")]
    assert [path.name for path in written] == ["leaderboard.md", "leaderboard.csv", "leaderboard.json", "index.html"]
    text = written[0].read_text()
    assert tables_of(text) == tables_of(board.markdown()) * 2
    assert re.findall(r"^## (.*)", text, flags=re.MULTILINE) == ["one", "two"]
    assert text.count("\n### Overall\n") == 2
    lines = written[1].read_text().splitlines()
    assert lines[0].startswith("run,track,teacher")
    assert len(lines) == 1 + 2 * (len(board.csv().splitlines()) - 1)
    assert Path(leaderboard_page.write({"one": board}, tmp_path)[0]).read_text() == board.markdown()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        leaderboard_page.write({"one": board}, tmp_path / "file")


def test_a_run_without_episodes_has_a_place_on_the_page(board):
    html = leaderboard_page.page({"some": board, "none": leaderboard.Leaderboard((), ("Nothing yet.",))})
    assert "No episode to rank." in html
    assert "Nothing yet." in html


def test_the_published_page_shows_the_published_leaderboards() -> None:
    """Those are what the code makes of the published tables: see `test_documents.py`."""
    page = Page((PUBLISHED / "index.html").read_text(encoding="utf-8"))
    together = (PUBLISHED / "leaderboard.md").read_text(encoding="utf-8")
    names = re.findall(r"^## (.*)", together, flags=re.MULTILINE)
    assert set(names) == {path.parent.name for path in PUBLISHED.glob("*/episodes.parquet")}
    each = [table for n in names for table in tables_of((PUBLISHED / n / "leaderboard.md").read_text("utf-8"))]
    assert page.boards() == tables_of(together) == each
