"""Result rows to tables: one leaderboard per track, and one over all tracks.

A track is an environment. Teachers that look at no state run once and count in every track of the run; controls
and the ceiling stand below the ranking. Only episodes under one protocol are compared; how gains become
estimates, intervals and ranks is `dgym.results.statistics`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from dgym.errors import UsageError
from dgym.results import statistics
from dgym.results.reader import Run
from dgym.results.statistics import Bootstrap, Cell, Difference, Estimate

OVERALL: Final = "overall"
"""Name of the table of teachers that entered all tracks."""

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
        common = self._common()
        for table in self.tables:
            shown = RichTable(title=_title(table), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
            for name in _COLUMNS:
                if name == "teacher":
                    # The only column that folds where room is short.
                    shown.add_column(name, overflow="fold", min_width=14)
                elif name not in left_out:
                    shown.add_column(name, justify="right", no_wrap=True)
            for row, following in zip(table.rows, [*table.rows[1:], None], strict=True):
                cells = [text for name, text in _texts(row).items() if name not in left_out]
                last_ranked = following is not None and following.control and not row.control
                shown.add_row(*map(Text, cells), style="dim" if row.control else "", end_section=last_ranked)
            parts += [shown, *(Text(note, style="dim") for note in table.notes if note not in common), Text("")]
        parts += [Text(note, style="dim") for note in common]
        return Group(*parts, *(Text(note, style="yellow") for note in self.notes))

    def markdown(self) -> str:
        """Renders all columns as Markdown."""
        lines = ["# Leaderboard", ""]
        common = self._common()
        for table in self.tables:
            lines += [f"## {_title(table)}", "", "| " + " | ".join(_COLUMNS) + " |"]
            lines.append("|" + "|".join(":--" if name == "teacher" else "--:" for name in _COLUMNS) + "|")
            for row in table.rows:
                texts = [text.replace("|", "\\|").replace("*", "\\*") for text in _texts(row).values()]
                lines.append("| " + " | ".join(texts) + " |")
            own = [note for note in table.notes if note not in common]
            lines += ["", *(f"- {note}" for note in own), ""]
        lines += [f"- {note.replace('*', chr(92) + '*')}" for note in (*common, *self.notes)]
        return "\n".join(lines).rstrip() + "\n"

    def _common(self) -> list[str]:
        """Returns the notes that stand under every table, to be said once; what was measured stays with its table."""
        first, *rest = self.tables or (None,)
        shared = [n for n in first.notes if all(n in t.notes for t in rest)] if first else []
        return [note for note in shared if not note.startswith(_DETECTABLE)]

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
        return json.dumps({"tables": tables, "notes": list(self.notes)}, indent=2, allow_nan=False) + "\n"


def build(run: Run, bootstrap: Bootstrap | None = None) -> Leaderboard:
    """Builds the leaderboard of a run.

    Args:
        run: The results; episodes of more than one protocol are cut to the protocol of the latest.
        bootstrap: Draws for intervals; 10,000 resamples with seed 0 by default.

    Returns:
        The tables; none if the run holds no episode.
    """
    bootstrap = bootstrap or Bootstrap()
    episodes, notes = _comparable(run.episodes)
    gains = Gains.read(run, episodes)
    lost = (episodes["status"] == "ok") & ~episodes["digest"].isin(gains.chosen)
    if lost.any():
        notes.append(f"{_count(lost.sum(), 'episode')} left out: the test attempts cannot be read.")
        episodes = episodes[~lost]
    new = 100 * (episodes["best_test_new"].astype(float) - episodes["base_test_new"].astype(float))
    episodes = episodes.assign(area=_areas(run, episodes), new=new)
    tracks = {
        str(track): _entrants(episodes[(episodes["environment"] == track) | episodes["state_blind"]], gains)
        for track in sorted(episodes.loc[~episodes["state_blind"], "environment"].unique())
        or sorted(episodes["environment"].unique())
    }
    tables = [_table(track, entrants, bootstrap) for track, entrants in tracks.items()]
    if len(tracks) > 1:
        tables.append(_table(OVERALL, _in_all(list(tracks.values())), bootstrap))
    return Leaderboard(tuple(tables), tuple(notes))


def write(leaderboard: Leaderboard, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes `leaderboard.md`, `leaderboard.csv` and `leaderboard.json` into a folder.

    Returns:
        The files.

    Raises:
        UsageError: If they cannot be written.
    """
    texts = {"md": leaderboard.markdown(), "csv": leaderboard.csv(), "json": leaderboard.json()}
    written = []
    for suffix, text in texts.items():
        path = Path(folder) / f"leaderboard.{suffix}"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
        written.append(path)
    return written


# --------------------------------------------------------------------------------------------------------------
# Episodes to cells


@dataclass(frozen=True)
class Gains:
    """Gains in points per problem, by digest, at the chosen and at the last iteration; problems by domain."""

    chosen: dict[str, statistics.Array]
    last: dict[str, statistics.Array]
    problems: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, run: Run, episodes: pd.DataFrame) -> Gains:
        """Reads the gains of episodes that finished, those whose test attempts are all there."""
        columns = ["digest", "iteration", "split", "problem", "score"]
        attempts = run.arrow("attempts", columns, where=pc.field("split") == "test").to_pandas()
        chosen, last, problems = {}, {}, {}
        for domain, part in episodes[episodes["status"] == "ok"].groupby("domain"):
            rows = attempts[attempts["digest"].isin(part["digest"])]
            wide = rows.pivot(index=["digest", "iteration"], columns="problem", values="score").dropna(axis="columns")
            problems[str(domain)] = tuple(map(str, wide.columns))
            score = dict(zip(wide.index, wide.to_numpy(dtype=float), strict=True))
            for digest, best, end in zip(part["digest"], part["best_iteration"], part["iterations_run"], strict=True):
                if {(digest, 0), (digest, int(best)), (digest, int(end))} <= score.keys():
                    chosen[digest] = 100 * (score[digest, int(best)] - score[digest, 0])
                    last[digest] = 100 * (score[digest, int(end)] - score[digest, 0])
        return cls(chosen, last, problems)

    def cells(self, episodes: pd.DataFrame, gains: dict[str, statistics.Array]) -> list[Cell]:
        """One teacher's cells, failed episodes counted as `statistics.with_failures` says."""
        out = []
        for (domain, student), part in episodes.sort_values("seed").groupby(["domain", "student"]):
            failed = part["status"] != "ok"
            problems = self.problems.get(str(domain)) or ("none",)
            done = np.array([gains[d] for d in part.loc[~failed, "digest"]]).reshape(-1, len(problems))
            seeds = (*part.loc[~failed, "seed"], *part.loc[failed, "seed"])
            matrix = statistics.with_failures(done, int(failed.sum()))
            out.append(Cell(str(domain), str(student), seeds, problems, matrix))
        return out


@dataclass(frozen=True)
class _Entrant:
    """A teacher in a track: its episodes and its cells at the chosen and at the last iteration."""

    label: str
    episodes: pd.DataFrame
    chosen: list[Cell]
    last: list[Cell]

    @property
    def control(self) -> bool:
        return not bool(self.episodes["ranked"].iloc[0])

    @property
    def places(self) -> set[tuple[str, str]]:
        return {(cell.domain, cell.student) for cell in self.chosen}

    def mean(self, column: str) -> float:
        """Mean over the seeds that finished, then cells, then domains; NaN if there is nothing to average."""
        finished = self.episodes[self.episodes["status"] == "ok"]
        means = finished.groupby(["domain", "student"])[column].mean().groupby("domain").mean()
        return float(means.mean())


def _comparable(episodes: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Cuts to the latest protocol and, for each teacher, cell and seed, to the latest version of the episode."""
    notes: list[str] = []
    # Variations exchange more than the teacher: they stand in a table of their own (`dgym.ablation`).
    episodes = episodes[episodes["variation"] == ""].sort_values("finished_at")
    if episodes.empty:
        return episodes.assign(seed="", entrant=""), notes
    same = episodes["protocol"] == episodes["protocol"].iloc[-1]
    if not same.all():
        notes.append(f"{_count((~same).sum(), 'episode')} of another protocol (rules, recipe or engine) left out.")
    episodes = episodes[same]
    episodes = with_seed(episodes)
    # A teacher's file that was edited between two runs makes two entrants, not one mixture.
    pins = episodes["pins"].map(lambda text: str(json.loads(text).get("teacher", "")))
    params = episodes["spec"].map(lambda text: json.dumps(json.loads(text).get("teacher_params"), sort_keys=True))
    episodes = episodes.assign(pin=pins, entrant=episodes["teacher"] + "\n" + params + "\n" + pins)
    latest = episodes.drop_duplicates(["entrant", "environment", "domain", "student", "seed"], keep="last")
    if len(latest) < len(episodes):
        notes.append(f"{_count(len(episodes) - len(latest), 'episode')} left out: run again since something changed.")
    labels = latest.drop_duplicates("entrant").set_index("entrant")
    twice = labels["teacher_label"].duplicated(keep=False)
    labels.loc[twice, "teacher_label"] += " #" + labels.loc[twice, "pin"].str[:6]
    return latest.assign(teacher_label=latest["entrant"].map(labels["teacher_label"])), notes


def with_seed(episodes: pd.DataFrame) -> pd.DataFrame:
    """Adds a column `seed` that names the three seeds of each episode; what shares it can be paired."""
    seed = episodes[["seed_variant", "seed_training", "seed_teacher"]].astype(str).agg("-".join, axis="columns")
    return episodes.assign(seed=seed)


def _areas(run: Run, episodes: pd.DataFrame) -> pd.Series[float]:
    """Area under each episode's gain-by-data curve, in points; on test where the rules test every iteration."""
    columns = ["digest", "iteration", "selection", "test", "examples_submitted"]
    steps = run.arrow("steps", columns).to_pandas().sort_values("iteration")
    areas = {}
    parts = dict(iter(steps.groupby("digest")))
    for digest, spec in zip(episodes["digest"], episodes["spec"], strict=True):
        if digest in parts:
            part, rules = parts[digest], json.loads(spec)["rules"]
            score = part["test" if rules["test_every_iteration"] else "selection"]
            gain = (100 * (score - score.iloc[0])).tolist()
            budget = rules["iterations"] * rules["budget"]["examples_per_iteration"]
            budget = min(budget, rules["budget"]["examples_total"] or budget)
            areas[digest] = statistics.area_under_curve(part["examples_submitted"].cumsum().tolist(), gain, budget)
    return episodes["digest"].map(areas).astype(float)


def _entrants(episodes: pd.DataFrame, gains: Gains) -> list[_Entrant]:
    return [
        _Entrant(
            str(part["teacher_label"].iloc[0]), part, gains.cells(part, gains.chosen), gains.cells(part, gains.last)
        )
        for _, part in episodes.groupby("entrant", sort=True)
    ]


def _in_all(tracks: Sequence[Sequence[_Entrant]]) -> list[_Entrant]:
    """The teachers that entered all tracks, with gains averaged over them."""
    by_label = [{entrant.label: entrant for entrant in entrants} for entrants in tracks]
    out = []
    for label in by_label[0]:
        found = [entrants[label] for entrants in by_label if label in entrants]
        chosen = statistics.average([e.chosen for e in found])
        if len(found) == len(tracks) and chosen:
            episodes = pd.concat([e.episodes for e in found]).drop_duplicates("digest")
            out.append(_Entrant(label, episodes, chosen, statistics.average([e.last for e in found])))
    return out


# --------------------------------------------------------------------------------------------------------------
# Cells to tables


def _table(track: str, entrants: Sequence[_Entrant], bootstrap: Bootstrap) -> Table:
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
    rows = [_row(e, ranks.get(e.label), reasons[e.label], bootstrap) for e in entrants]
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
                f"{entrant.label}: {_count(stopped, 'episode')} ended early at the limit on spending, "
                "and count with what they had."
            )
    if any(row.privileged for row in rows):
        notes.append(_PRIVILEGED)
    named = tuple((compared[i].label, compared[j].label, pair) for (i, j), pair in pairs.items())
    return Table(track, tuple(rows), named, smallest, tuple(notes))


def _unranked(entrant: _Entrant, places: int) -> str:
    if entrant.control:
        return "control or ceiling"
    if len(entrant.chosen) < places:
        return f"{len(entrant.chosen)} of {places} cells"
    seeds = min(len(cell.seeds) for cell in entrant.chosen)
    needed = statistics.MIN_SEEDS_RANK
    return f"{_count(seeds, 'seed')}, a rank needs {needed}" if seeds < needed else ""


def _row(entrant: _Entrant, rank: tuple[int, int] | None, unranked: str, bootstrap: Bootstrap) -> Row:
    episodes = entrant.episodes
    return Row(
        teacher=entrant.label,
        rank=rank,
        unranked=unranked,
        gain=statistics.estimate(entrant.chosen, bootstrap),
        interquartile_mean=statistics.interquartile_mean(entrant.chosen),
        last=statistics.estimate(entrant.last, bootstrap) if entrant.last else None,
        retention=100 * entrant.mean("retention"),
        new=entrant.mean("new"),
        area=entrant.mean("area"),
        examples=entrant.mean("examples_submitted"),
        tokens=entrant.mean("response_tokens"),
        cost=entrant.mean("cost"),
        student_seconds=entrant.mean("seconds_student"),
        seeds=min(len(cell.seeds) for cell in entrant.chosen),
        failures=int((episodes["status"] != "ok").sum()),
        privileged=bool(episodes["privileged"].any()),
        control=entrant.control,
    )


# --------------------------------------------------------------------------------------------------------------
# Text

_COLUMNS: Final = (
    "rank",
    "teacher",
    "gain [95 %]",
    "IQM",
    "last [95 %]",
    "retention",
    "new",
    "area",
    "examples",
    "tokens",
    "cost $",
    "seconds",
    "seeds",
    "failed",
)

_WIDE: Final = ("IQM", "tokens", "cost $")
"""Columns that a terminal of 120 columns has no room for."""

_MEDIUM: Final = ("new", "area", "examples", "seconds", "seeds", "failed")
"""Columns that a terminal of 80 columns has no room for either."""

_MEDIUM_WIDTH: Final = 110


def _texts(row: Row) -> dict[str, str]:
    low, high = row.rank or (0, 0)
    rank = "–" if row.rank is None else str(low) if low == high else f"{low}–{high}"
    values = (
        rank,
        row.teacher + ("*" if row.privileged else ""),
        _estimate(row.gain),
        _points(row.interquartile_mean),
        _estimate(row.last),
        _points(row.retention),
        _points(row.new),
        _points(row.area),
        _number(row.examples),
        _number(row.tokens),
        _number(row.cost, 2),
        _number(row.student_seconds, 1),
        str(row.seeds),
        str(row.failures),
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _points(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def _number(value: float, digits: int = 0) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    interval = estimate.interval
    return _points(estimate.value) + (f" [{_points(interval[0])}, {_points(interval[1])}]" if interval else "")


def _flat_pair(first: str, second: str, pair: Difference) -> dict[str, Any]:
    low, high = pair.gain.interval or (None, None)
    return {
        "first": first,
        "second": second,
        "difference": pair.gain.value,
        "difference_low": low,
        "difference_high": high,
        "probability_of_improvement": pair.improvement,
        "p_value": pair.p_value,
        "p_value_holm": pair.adjusted,
    }


def _title(table: Table) -> str:
    return "Overall" if table.track == OVERALL else f"Track: {table.track}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
