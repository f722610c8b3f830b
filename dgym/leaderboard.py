"""Result rows to tables: one leaderboard per track, and one over all tracks.

A track is an environment. Teachers that look at no state run once and count in every track of the run; controls
and the ceiling stand below the ranking. Only episodes under one protocol are compared; how gains become
estimates, intervals and ranks is `dgym.results.statistics`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from dgym.results import statistics
from dgym.results.gains import OVERALL, Entrant, count, tracks_of
from dgym.results.place import write_files
from dgym.results.reader import Run
from dgym.results.statistics import Bootstrap, Difference, Estimate

_DETECTABLE = "Minimum detectable difference"
_PRIVILEGED = "* privileged: the engine uses the domain's own generators."


@dataclass(frozen=True)
class Row:
    """One teacher in one table.

    Attributes:
        teacher: Label; distinct within a leaderboard.
        rank: Best and worst place that the data leave open; `None` for who is not ranked.
        unranked: Why there is no rank; empty when ranked.
        gain: Headline at the chosen iteration, in points.
        interquartile_mean: Of the seeds' gains at the chosen iteration, in points.
        last: Headline at the last iteration, in points; `None` if no episode got there.
        retention: Mean change on the skills that the student had, in points; NaN if it had none.
        new: Mean gain on the slice of new combinations at the chosen iteration, in points; NaN if no domain has one.
        area: Mean height of the gain-by-data curve up to the budget, in points; on selection unless
            every iteration was tested.
        examples: Submitted examples per episode.
        tokens: Submitted response tokens per episode.
        cost: Price of the teacher's calls per episode, in USD.
        student_seconds: Training and answering per episode. These four, retention, new and area are means over finished
            episodes, NaN without one.
        seeds: Fewest seeds in a cell, failed ones included.
        failures: Failed episodes.
        privileged: Whether the engine uses the domain's own generators.
        control: Whether it is a control or the ceiling, shown but never ranked.
    """

    teacher: str
    rank: tuple[int, int] | None
    unranked: str
    gain: Estimate
    interquartile_mean: float
    last: Estimate | None
    retention: float
    new: float
    area: float
    examples: float
    tokens: float
    cost: float
    student_seconds: float
    seeds: int
    failures: int
    privileged: bool
    control: bool

    def flat(self) -> dict[str, Any]:
        """The row as plain values, NaN as `None`: the columns of CSV and JSON."""
        out: dict[str, Any] = {"teacher": self.teacher}
        out["rank_best"], out["rank_worst"] = self.rank or (None, None)
        out["unranked"] = self.unranked
        for name, found in (("gain", self.gain), ("last_gain", self.last)):
            out[name] = None if found is None else found.value
            out[f"{name}_low"], out[f"{name}_high"] = (found.interval if found else None) or (None, None)
        for name in ("interquartile_mean", "retention", "new", "area", "examples", "tokens", "cost", "student_seconds"):
            value = getattr(self, name)
            out[name] = None if math.isnan(value) else value
        return out | {name: getattr(self, name) for name in ("seeds", "failures", "privileged", "control")}


@dataclass(frozen=True)
class Table:
    """One track's ranking.

    Attributes:
        track: Name of the environment, or `OVERALL`.
        rows: Ranked teachers by gain, then controls and ceiling by gain.
        pairs: Names of two teachers and their difference, first minus second.
        minimum_detectable_difference: Between two teachers, in points, with 80 % power at 5 %; `None` without
            a pair of three seeds.
        notes: Remarks for below the table.
    """

    track: str
    rows: tuple[Row, ...]
    pairs: tuple[tuple[str, str, Difference], ...] = ()
    minimum_detectable_difference: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leaderboard:
    """All tables of a run.

    Attributes:
        tables: One per track; the overall table last, if there are several tracks.
        notes: Remarks on the whole, such as episodes that were left out.
    """

    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()

    def rich(self, width: int = 120) -> RenderableType:
        """Renders the essential columns for a terminal.

        Args:
            width: Columns of the terminal; below 110 only the most essential columns are shown.
        """
        left_out = _WIDE if width >= _MEDIUM_WIDTH else (*_WIDE, *_MEDIUM)
        parts: list[RenderableType] = []
        common = self.common_notes()
        for table in self.tables:
            shown = RichTable(title=title(table), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
            for name in COLUMNS:
                if name == "teacher":
                    # The only column that folds where room is short.
                    shown.add_column(name, overflow="fold", min_width=14)
                elif name not in left_out:
                    shown.add_column(name, justify="right", no_wrap=True)
            for row, following in zip(table.rows, [*table.rows[1:], None], strict=True):
                cells = [text for name, text in texts(row).items() if name not in left_out]
                last_ranked = following is not None and following.control and not row.control
                shown.add_row(*map(Text, cells), style="dim" if row.control else "", end_section=last_ranked)
            parts += [shown, *(Text(note, style="dim") for note in self.own_notes(table)), Text("")]
        parts += [Text(note, style="dim") for note in common]
        return Group(*parts, *(Text(note, style="yellow") for note in self.notes))

    def markdown(self) -> str:
        """Renders all columns as Markdown."""
        lines = ["# Leaderboard", ""]
        common = self.common_notes()
        for table in self.tables:
            lines += [f"## {title(table)}", "", "| " + " | ".join(COLUMNS) + " |"]
            lines.append("|" + "|".join(":--" if name == "teacher" else "--:" for name in COLUMNS) + "|")
            for row in table.rows:
                escaped = [text.replace("|", "\\|").replace("*", "\\*") for text in texts(row).values()]
                lines.append("| " + " | ".join(escaped) + " |")
            lines += ["", *(f"- {note}" for note in self.own_notes(table)), ""]
        lines += [f"- {note.replace('*', chr(92) + '*')}" for note in (*common, *self.notes)]
        return "\n".join(lines).rstrip() + "\n"

    def common_notes(self) -> list[str]:
        """Returns the notes that stand under every table, to be said once; what was measured stays with its table."""
        first, *rest = self.tables or (None,)
        shared = [n for n in first.notes if all(n in t.notes for t in rest)] if first else []
        return [note for note in shared if not note.startswith(_DETECTABLE)]

    def own_notes(self, table: Table) -> list[str]:
        """Returns the notes of a table that do not stand under every other."""
        common = self.common_notes()
        return [note for note in table.notes if note not in common]

    def frame(self) -> pd.DataFrame:
        """All rows of all tables, with plain numbers."""
        frame = pd.DataFrame([{"track": t.track} | row.flat() for t in self.tables for row in t.rows])
        whole = [name for name in frame if str(name).startswith("rank_")]
        return frame.astype(dict.fromkeys(whole, "Int64"))

    def csv(self) -> str:
        """Renders `frame` as CSV."""
        text: str = self.frame().to_csv(index=False)
        return text

    def json(self) -> str:
        """Renders everything, pairs included, as JSON; what is missing is null."""
        return json.dumps(self.plain(), indent=2, allow_nan=False) + "\n"

    def plain(self) -> dict[str, Any]:
        """Returns everything, pairs included, as JSON values; what is missing is `None`."""
        tables = [
            {
                "track": table.track,
                "rows": [row.flat() for row in table.rows],
                "pairs": [_flat_pair(*pair) for pair in table.pairs],
                "minimum_detectable_difference": table.minimum_detectable_difference,
                "notes": list(table.notes),
            }
            for table in self.tables
        ]
        return {"tables": tables, "notes": list(self.notes)}


def build(run: Run, bootstrap: Bootstrap | None = None) -> Leaderboard:
    """Builds the leaderboard of a run.

    Args:
        run: The results; episodes of more than one protocol are cut to the protocol of the latest.
        bootstrap: Draws for intervals; 10,000 resamples with seed 0 by default.

    Returns:
        The tables; none if the run holds no episode.
    """
    bootstrap = bootstrap or Bootstrap()
    tracks = tracks_of(run)
    tables = [_table(track, entrants, bootstrap) for track, entrants in tracks.entrants.items()]
    return Leaderboard(tuple(tables), tracks.notes)


def write(leaderboard: Leaderboard, folder: str | os.PathLike[str]) -> list[str]:
    """Writes `leaderboard.md`, `leaderboard.csv` and `leaderboard.json` into a folder, or to its URL.

    Returns:
        The files' paths or URLs.

    Raises:
        UsageError: If they cannot be written.
    """
    return write_files(folder, files({"": leaderboard}))


def files(boards: Mapping[str, Leaderboard]) -> dict[str, str]:
    """Renders the leaderboards of some runs as files, by name: Markdown, CSV and JSON.

    Args:
        boards: By the name of the run; with several, each has a part of its own under that name.
    """
    if len(boards) == 1:
        (board,) = boards.values()
        contents = board.markdown(), board.csv(), board.json()
    else:
        parts = ["# Leaderboard\n"]
        for name, board in boards.items():
            body = board.markdown().removeprefix("# Leaderboard\n").strip()
            parts.append(f"## {name}\n\n{re.sub(r'^## ', '### ', body, flags=re.MULTILINE)}\n")
        frames = [board.frame() for board in boards.values()]
        for name, frame in zip(boards, frames, strict=True):
            frame.insert(0, "run", name)
        table = pd.concat([frame for frame in frames if len(frame)] or frames)
        runs = {name: board.plain() for name, board in boards.items()}
        contents = (
            "\n".join(parts),
            table.to_csv(index=False),
            json.dumps({"runs": runs}, indent=2, allow_nan=False) + "\n",
        )
    return {f"leaderboard.{suffix}": text for suffix, text in zip(("md", "csv", "json"), contents, strict=True)}


# --------------------------------------------------------------------------------------------------------------
# Cells to tables


def _table(track: str, entrants: Sequence[Entrant], bootstrap: Bootstrap) -> Table:
    places = set().union(*(e.places for e in entrants))
    reasons = {e.label: _unranked(e, len(places)) for e in entrants}
    compared = [e for e in entrants if not e.control and e.places == places]
    pairs = statistics.compare([e.chosen for e in compared], bootstrap)
    # The ranks of the teachers with enough seeds are found among themselves.
    eligible = [i for i, e in enumerate(compared) if not reasons[e.label]]
    among = {
        (eligible.index(i), eligible.index(j)): pair
        for (i, j), pair in pairs.items()
        if i in eligible and j in eligible
    }
    intervals = statistics.rank_intervals(len(eligible), among)
    ranks = {compared[i].label: interval for i, interval in zip(eligible, intervals, strict=True)}
    there = [e for e in entrants if e.last]
    gains = statistics.estimates([*(e.chosen for e in entrants), *(e.last for e in there)], bootstrap)
    last = {e.label: found for e, found in zip(there, gains[len(entrants) :], strict=True)}
    rows = [
        _row(e, ranks.get(e.label), reasons[e.label], gain, last.get(e.label))
        for e, gain in zip(entrants, gains, strict=False)
    ]
    rows.sort(key=lambda row: (row.control, -row.gain.value, row.teacher))
    smallest = statistics.minimum_detectable_difference(list(pairs.values()))
    notes = [
        "Points of test score over the untrained student [95 % interval]; the iteration is chosen on selection.",
        "Per episode: examples submitted, seconds of training and answering.",
    ]
    if smallest is not None:
        notes.append(f"{_DETECTABLE} of two teachers (80 % power at 5 %): {smallest:.1f} points.")
    unranked: dict[str, list[str]] = {}
    for row in rows:
        if row.unranked:
            unranked.setdefault(row.unranked, []).append(row.teacher)
    notes += [f"Not ranked: {', '.join(names)}: {reason}." for reason, names in unranked.items()]
    for entrant in entrants:
        stopped = int(entrant.episodes["stopped"].notna().sum())
        if stopped:
            notes.append(
                f"{entrant.label}: {count(stopped, 'episode')} ended early at the limit on spending, "
                "and count with what they had."
            )
    if any(row.privileged for row in rows):
        notes.append(_PRIVILEGED)
    named = tuple((compared[i].label, compared[j].label, pair) for (i, j), pair in pairs.items())
    return Table(track, tuple(rows), named, smallest, tuple(notes))


def _unranked(entrant: Entrant, places: int) -> str:
    if entrant.control:
        return "control or ceiling"
    if len(entrant.chosen) < places:
        return f"{len(entrant.chosen)} of {places} cells"
    seeds = min(len(cell.seeds) for cell in entrant.chosen)
    needed = statistics.MIN_SEEDS_RANK
    return f"{count(seeds, 'seed')}, a rank needs {needed}" if seeds < needed else ""


def _row(entrant: Entrant, rank: tuple[int, int] | None, unranked: str, gain: Estimate, last: Estimate | None) -> Row:
    episodes = entrant.episodes
    return Row(
        teacher=entrant.label,
        rank=rank,
        unranked=unranked,
        gain=gain,
        interquartile_mean=statistics.interquartile_mean(entrant.chosen),
        last=last,
        retention=100 * entrant.mean("retention"),
        new=entrant.mean("new"),
        area=entrant.mean("area"),
        examples=entrant.mean("examples_submitted"),
        tokens=entrant.mean("response_tokens"),
        cost=entrant.mean("cost"),
        student_seconds=entrant.mean("seconds_student"),
        seeds=min(len(cell.seeds) for cell in entrant.chosen),
        failures=int((episodes["status"] != "ok").sum()),
        privileged=entrant.privileged,
        control=entrant.control,
    )


# --------------------------------------------------------------------------------------------------------------
# Text

GAIN: Final = "gain [95 %]"
"""The column of the headline."""

MEANINGS: Final = {
    "rank": "best and worst place that the data leave open; teachers that cannot be told apart share places",
    "teacher": "its name with its parameters; * privileged: the engine uses the domain's own generators",
    GAIN: "headline: points of test score over the untrained student at the iteration chosen on selection, mean over "
    "domains of the mean over seeds, with its bootstrap interval over seeds and problems",
    "IQM": "interquartile mean of the seeds' gains, in points",
    "last [95 %]": "the headline at the last iteration, which shows the harm that the choice hides",
    "retention": "mean change on the skills that the student had, in points",
    "new": "mean gain on new combinations, in points, where the domain holds some out",
    "area": "mean height of the gain-by-data curve up to the budget, in points",
    "examples": "examples submitted in an episode",
    "tokens": "response tokens submitted in an episode",
    "cost $": "price of the teacher's calls in an episode, in US dollars",
    "seconds": "training and answering in an episode",
    "seeds": "fewest seeds in a cell, failed ones included",
    "failed": "failed episodes: each counts as the lower of 0 and the teacher's worst seed",
}
"""What the columns say."""

COLUMNS: Final = tuple(MEANINGS)
"""Columns of a table as text."""

PAIR_COLUMNS: Final = ("first", "second", "difference [95 %]", "P(first better)", "p (Holm)")
"""Columns of pairs of teachers as text."""

_WIDE: Final = ("IQM", "tokens", "cost $")
"""Columns that a terminal of 120 columns has no room for."""

_MEDIUM: Final = ("new", "area", "examples", "seconds", "seeds", "failed")
"""Columns that a terminal of 80 columns has no room for either."""

_MEDIUM_WIDTH: Final = 110


def texts(row: Row) -> dict[str, str]:
    """Returns a row as text, by column."""
    low, high = row.rank or (0, 0)
    rank = "–" if row.rank is None else str(low) if low == high else f"{low}–{high}"
    values = (
        rank,
        row.teacher + ("*" if row.privileged else ""),
        _estimate(row.gain),
        points(row.interquartile_mean),
        _estimate(row.last),
        points(row.retention),
        points(row.new),
        points(row.area),
        _number(row.examples),
        _number(row.tokens),
        _number(row.cost, 2),
        _number(row.student_seconds, 1),
        str(row.seeds),
        str(row.failures),
    )
    return dict(zip(COLUMNS, values, strict=True))


def points(value: float) -> str:
    """Writes points with their sign; NaN as a dash."""
    if math.isnan(value):
        return "–"
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def with_interval(value: float, interval: tuple[float, float] | None) -> str:
    """Writes points with their interval, if there is one."""
    return points(value) + (f" [{points(interval[0])}, {points(interval[1])}]" if interval else "")


def _number(value: float, digits: int = 0) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _estimate(estimate: Estimate | None) -> str:
    return "–" if estimate is None else with_interval(estimate.value, estimate.interval)


def pair_texts(first: str, second: str, pair: Difference) -> tuple[str, ...]:
    """Returns a pair as text, in the order of `PAIR_COLUMNS`."""
    adjusted = "–" if pair.adjusted is None else f"{pair.adjusted:.3f}"
    return first, second, _estimate(pair.gain), f"{pair.improvement:.2f}", adjusted


def _flat_pair(first: str, second: str, pair: Difference) -> dict[str, Any]:
    low, high = pair.gain.interval or (None, None)
    least, most = pair.improvement_interval or (None, None)
    return {
        "first": first,
        "second": second,
        "difference": pair.gain.value,
        "difference_low": low,
        "difference_high": high,
        "probability_of_improvement": pair.improvement,
        "probability_low": least,
        "probability_high": most,
        "p_value": pair.p_value,
        "p_value_holm": pair.adjusted,
    }


def title(table: Table) -> str:
    """Returns a table's heading."""
    return "Overall" if table.track == OVERALL else f"Track: {table.track}"
