"""The rows of every chart, as frames: what `page.js` filters and Vega-Lite draws.

Gains, intervals, ranks and pairs are the leaderboard's, curves, skills and allocations those of `dgym.results`; here
they are chosen, named for a reader and given the places that a chart shows them in: teachers as they are ranked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pandas as pd

from dgym import results
from dgym.ablation import Contrast
from dgym.leaderboard import GAIN, Leaderboard, Table, pair_texts, texts
from dgym.results.frames import efficient
from dgym.results.gains import OVERALL, Tracks
from dgym.results.reader import Run
from dgym.results.statistics import LEVEL, Bootstrap, Difference
from dgym.skills.curriculum import root

SHOWN: Final = 6
"""Teachers whose curves are drawn before anybody chooses."""

SKILLS: Final = 60
"""Most skills of one chart."""

UNCLAIMED: Final = "(no skill claimed)"
"""What stands for the skill of examples for which the teacher claims none."""

OTHERS: Final = "(other skills)"
"""What stands for claimed skills beyond `SKILLS`."""

MEAN: Final = "mean over domains"
"""What stands for the domain of a curve over all of them."""


@dataclass(frozen=True)
class Teacher:
    """How a teacher is drawn.

    Attributes:
        order: Place among teachers, or among controls: gives colour and line.
        control: Whether it is a control or the ceiling.
        shown: Whether its curves are drawn before anybody chooses.
    """

    order: int
    control: bool
    shown: bool


@dataclass(frozen=True)
class Cost:
    """What stands for cost: money where teachers cost some, else the student's time.

    Attributes:
        of_row: The field of `dgym.leaderboard.Row`.
        of_curve: The column of `dgym.results.curves`.
        name: What `of_row` is, for an axis.
        name_so_far: What `of_curve` is, for an axis.
        note: What a reader must know.
    """

    of_row: str
    of_curve: str
    name: str
    name_so_far: str
    note: str


def cost_of(board: Leaderboard) -> Cost:
    """Chooses what stands for cost in a run."""
    costs = [row.cost for table in board.tables for row in table.rows]
    if any(cost > 0 for cost in costs):
        note = "Cost is the price of the teacher's calls."
        if any(math.isnan(cost) for cost in costs):
            note += " Teachers whose price is unknown are left out."
        return Cost(
            "cost", "cost", "price of the teacher's calls, USD an episode", "price of the teacher's calls, USD", note
        )
    return Cost(
        "student_seconds",
        "seconds",
        "training and answering, seconds an episode",
        "time of all stages, seconds",
        "No teacher's calls cost anything in this run; what stands for cost is time.",
    )


def teachers_of(tables: Sequence[Table]) -> dict[str, Teacher]:
    """Returns how each teacher is drawn, by name: those of the first table first, controls last."""
    rows = {row.teacher: row for table in reversed(tables) for row in table.rows}
    names = list(dict.fromkeys(row.teacher for table in tables for row in table.rows))
    ranked = [name for name in names if not rows[name].control]
    controls = [name for name in names if rows[name].control]
    # Controls may lose so much that nothing else can be told on the same axis.
    return {
        **{name: Teacher(order, False, order < SHOWN) for order, name in enumerate(ranked)},
        **{name: Teacher(order, True, not ranked) for order, name in enumerate(controls)},
    }


def columns_of(tables: Sequence[Table]) -> dict[tuple[str, str], int]:
    """Returns the place of each teacher on each track's leaderboard, by track and teacher."""
    return {(table.track, row.teacher): i for table in tables for i, row in enumerate(table.rows)}


def placed(rows: pd.DataFrame, tables: Sequence[Table]) -> pd.DataFrame:
    """Adds `column`: the place of each row's teacher on its track's leaderboard."""
    places = columns_of(tables)
    return rows.assign(column=[places[key] for key in zip(rows["track"], rows["teacher"], strict=True)])


def strength(rows: pd.DataFrame, column: str, by: Sequence[str]) -> Any:
    """Says how strongly each row is coloured: its value over the largest of its chart, in [-1, 1]."""
    largest = rows[column].abs().groupby([rows[name] for name in by]).transform("max").clip(lower=1)
    return rows[column] / largest


def ranking(tables: Sequence[Table]) -> pd.DataFrame:
    """Rows for gains with intervals: one per track and teacher."""
    rows = []
    for table in tables:
        for column, row in enumerate(table.rows):
            written = texts(row)
            low, high = row.gain.interval or (None, None)
            rows.append(
                {
                    "track": table.track,
                    "teacher": row.teacher,
                    "column": column,
                    "gain": row.gain.value,
                    "low": low,
                    "high": high,
                    "text": written[GAIN],
                    "last": written["last [95 %]"],
                    "rank": written["rank"],
                    "seeds": row.seeds,
                }
            )
    return pd.DataFrame(rows)


def cells(tracks: Tracks, tables: Sequence[Table]) -> pd.DataFrame:
    """Rows for gains by domain: the score of each cell, in points."""
    rows = [
        {
            "track": track,
            "teacher": entrant.label,
            "domain": cell.domain,
            "student": cell.student,
            "gain": cell.score,
            "seeds": len(cell.seeds),
        }
        for track, entrants in tracks.entrants.items()
        for entrant in entrants
        for cell in entrant.chosen
    ]
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows)
    frame = frame.assign(place=place(frame), strength=strength(frame, "gain", ["track"]))
    frame["line"] = frame["place"].rank(method="dense")
    return placed(frame, tables).drop(columns=["domain", "student"])


def costs(tables: Sequence[Table], cost: Cost) -> pd.DataFrame:
    """Rows for gain against cost: one per track and teacher, controls and the ceiling left out."""
    rows = []
    for table in tables:
        known = [row for row in table.rows if not row.control and not math.isnan(getattr(row, cost.of_row))]
        front = efficient([(getattr(row, cost.of_row), row.gain.value) for row in known])
        for row, on_front in zip(known, front, strict=True):
            low, high = row.gain.interval or (None, None)
            rows.append(
                {
                    "track": table.track,
                    "teacher": row.teacher,
                    "gain": row.gain.value,
                    "low": low,
                    "high": high,
                    "text": texts(row)[GAIN],
                    "cost": getattr(row, cost.of_row),
                    "front": on_front,
                }
            )
    return pd.DataFrame(rows)


def pairs(tables: Sequence[Table]) -> pd.DataFrame:
    """Rows for the matrix of teachers: every pair in both directions."""
    rows = []
    for table in tables:
        order = {row.teacher: place for place, row in enumerate(table.rows)}
        for one, other, found in table.pairs:
            for first, second, pair in ((one, other, found), (other, one, reversed_pair(found))):
                significant = pair.adjusted is not None and pair.adjusted < 1 - LEVEL
                _, _, difference, improvement, adjusted = pair_texts(first, second, pair)
                rows.append(
                    {
                        "track": table.track,
                        "first": first,
                        "second": second,
                        "line": order[first],
                        "column": order[second],
                        "probability": pair.improvement,
                        "strength": 2 * pair.improvement - 1,
                        "label": improvement + (" •" if significant else ""),
                        "text": difference,
                        "p": adjusted,
                        "significant": significant,
                    }
                )
    return pd.DataFrame(rows)


def reversed_pair(pair: Difference) -> Difference:
    """Returns the second teacher against the first."""
    low, high = pair.gain.interval or (None, None)
    interval = None if low is None or high is None else (-high, -low)
    gain = replace(pair.gain, value=-pair.gain.value, interval=interval)
    return replace(pair, gain=gain, improvement=1 - pair.improvement)


def retention(tracks: Tracks, tables: Sequence[Table]) -> pd.DataFrame:
    """Rows for retention: one per track, teacher and finished episode, in points, with the leaderboard's mean."""
    means = {(table.track, row.teacher): row.retention for table in tables for row in table.rows}
    parts = []
    for track, entrants in tracks.entrants.items():
        for entrant in entrants:
            finished = entrant.episodes[(entrant.episodes["status"] == "ok") & entrant.episodes["retention"].notna()]
            parts.append(
                pd.DataFrame(
                    {
                        "track": track,
                        "teacher": entrant.label,
                        "domain": finished["domain"],
                        "seed": finished["seed_variant"],
                        "episode": 100 * finished["retention"],
                        "mean": means[track, entrant.label],
                    }
                )
            )
    return placed(pd.concat(parts), tables) if parts else pd.DataFrame()


def curves(run: Run, tracks: Tracks, cost: Cost, bootstrap: Bootstrap) -> tuple[pd.DataFrame, str]:
    """Rows for learning curves, and the split that they are on: test if every iteration was tested, else selection."""
    finished = {
        (track, entrant.label)
        for track, entrants in tracks.entrants.items()
        for entrant in entrants
        if track != OVERALL and (entrant.episodes["status"] == "ok").any()
    }
    split = "test"
    rows = results.curves(run, split=split, bootstrap=bootstrap)
    if set(zip(rows["track"], rows["teacher"], strict=True)) != finished:
        split = "selection"
        rows = results.curves(run, split=split, bootstrap=bootstrap)
    shown = pd.DataFrame(
        {
            "track": rows["track"],
            "teacher": rows["teacher"],
            "domain": place(rows).where(rows["domain"].notna(), MEAN),
            "iteration": rows["iteration"],
            "gain": rows["gain"],
            "low": rows["low"],
            "high": rows["high"],
            "examples": rows["examples"],
            "cost": rows[cost.of_curve],
        }
    )
    return shown, split


def skills(run: Run, tables: Sequence[Table]) -> pd.DataFrame:
    """Rows for gains by skill; skills from the most gained, by all teachers together, to the least."""
    rows = results.skills(run)
    if rows.empty:
        return pd.DataFrame()
    rows = rows.assign(place=place(rows))
    means = rows.groupby(["place", "skill"])["gain"].mean().groupby("place")
    rows = _lined(rows, means.rank(ascending=False, method="first"))
    rows = rows[rows["line"] <= SKILLS]
    rows = placed(rows.assign(strength=strength(rows, "gain", ["track", "place"])), tables)
    names = ["track", "teacher", "column", "place", "skill", "line", "problems", "before", "gain", "error", "strength"]
    return rows[names]


def allocations(run: Run, tables: Sequence[Table], tracks: Tracks, known: pd.DataFrame) -> pd.DataFrame:
    """Rows for where the data went: the share of each skill in what a teacher submitted in an iteration.

    Args:
        run: The results.
        tables: The leaderboard's.
        tracks: What is compared.
        known: As `skills` returns it; its skills go first, and in its order.
    """
    rows = results.allocations(run)
    if rows.empty:
        return pd.DataFrame()
    gold = tracks.gains.skills
    claimed = zip(rows["skill"], rows["domain"], strict=True)
    skill = [UNCLAIMED if not isinstance(s, str) else root(s, set(gold.get(d, ()))) for s, d in claimed]
    rows = rows.assign(place=place(rows), skill=skill)
    sizes = rows.groupby(["place", "skill"])["submitted"].sum().rename("size").reset_index()
    if not known.empty:
        sizes = sizes.merge(known[["place", "skill", "line"]].drop_duplicates(), how="left", on=["place", "skill"])
    else:
        sizes = sizes.assign(line=math.nan)
    sizes = sizes.sort_values(["place", "line", "size"], ascending=[True, True, False], na_position="last")
    sizes = sizes.assign(line=sizes.groupby("place").cumcount() + 1).set_index(["place", "skill"])
    rows = _lined(rows, sizes["line"])
    beyond = rows["line"] > SKILLS
    rows = rows.assign(skill=rows["skill"].mask(beyond, OTHERS), line=rows["line"].clip(upper=SKILLS + 1))
    keys = ["track", "teacher", "place", "iteration"]
    rows = rows.groupby([*keys, "skill", "line"], as_index=False)[["submitted", "kept"]].sum()
    return placed(rows.assign(share=rows["submitted"] / rows.groupby(keys)["submitted"].transform("sum")), tables)


def _lined(rows: pd.DataFrame, lines: Any) -> pd.DataFrame:
    """Adds `line`: the place of each row's skill in the chart of its place."""
    return rows.assign(line=lines.reindex(pd.MultiIndex.from_frame(rows[["place", "skill"]])).to_numpy())


def contrasts(found: Sequence[Contrast], texts: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Rows for what was exchanged."""
    rows = []
    for column, (contrast, text) in enumerate(zip(found, texts, strict=True)):
        low, high = contrast.difference.gain.interval or (None, None)
        rows.append(
            {
                "exchange": contrast.name,
                "column": column,
                "difference": contrast.difference.gain.value,
                "low": low,
                "high": high,
                "text": text[4],
                "pairs": contrast.episodes,
            }
        )
    return pd.DataFrame(rows)


def place(rows: pd.DataFrame) -> Any:
    """Names each row's cell: by its domain, and by its student too where a domain has several."""
    several = rows.groupby("domain")["student"].nunique()
    both = rows["domain"].map(several) > 1
    return rows["domain"].where(~both, rows["domain"] + ", " + rows["student"].astype(object))
