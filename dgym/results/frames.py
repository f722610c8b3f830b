"""Tidy frames for questions about a run: who is better, how it was learned, at which skills, and at what cost.

Every gain is one of `dgym.results.gains`, and every interval one of `dgym.results.statistics`, as in the leaderboard: a
number that stands in both is the same. `FRAMES` documents the columns; `dgym columns` prints them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dgym.errors import UsageError, unknown_name
from dgym.results import statistics
from dgym.results.gains import CURVED, OVERALL, Entrant, Path, paths_of, tracks_of
from dgym.results.reader import Run
from dgym.results.schema import Column, Table
from dgym.results.statistics import Bootstrap, Cell

_TEXT, _INT, _REAL, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()

_TRACK = Column("track", _TEXT, "environment; overall for the mean over all of them")
_TEACHER = Column("teacher", _TEXT, "label of the teacher, as on the leaderboard")
_DOMAIN = Column("domain", _TEXT, "registered name of the domain; null for the mean over domains")
_STUDENT = Column("student", _TEXT, "registered name of the student; null for the mean over domains")
_LOW = Column("low", _REAL, "lower end of its 95 % interval; null with fewer than three seeds", "points")
_HIGH = Column("high", _REAL, "upper end of its 95 % interval", "points")
_SEEDS = Column("seeds", _INT, "seeds behind it, the fewest of any cell", "count")

COMPARE: Final = Table(
    "compare",
    "Two teachers, or one in two runs: first minus second, on the seeds and problems that they share.",
    (
        _TRACK,
        Column("first", _TEXT, "label of the first teacher; null for all teachers of two runs"),
        Column("second", _TEXT, "label of the second teacher; null for all teachers of two runs"),
        _DOMAIN,
        _STUDENT,
        _SEEDS,
        Column("problems", _INT, "shared test problems", "count"),
        Column("first_gain", _REAL, "gain of the first on what is shared", "points"),
        Column("second_gain", _REAL, "gain of the second on what is shared", "points"),
        Column("difference", _REAL, "first minus second", "points"),
        _LOW,
        _HIGH,
        Column("improvement", _REAL, "probability that the first gains more on a seed; ties count half", "[0, 1]"),
        Column("improvement_low", _REAL, "lower end of its 95 % interval; null with fewer than three seeds", "[0, 1]"),
        Column("improvement_high", _REAL, "upper end of its 95 % interval", "[0, 1]"),
        Column("p_value", _REAL, "two-sided, that they are equal; unadjusted, null without interval", "[0, 1]"),
    ),
)

CURVES: Final = Table(
    "curves",
    "Learning curves: the gain over the untrained student after each iteration, over the episodes that finished. "
    "An episode that ended early keeps its last gain. Intervals are over seeds; the problems are taken as given.",
    (
        _TRACK,
        _TEACHER,
        _DOMAIN,
        _STUDENT,
        Column("split", _TEXT, "selection, or test where every iteration was tested"),
        Column("iteration", _INT, "trainings behind the student", "count"),
        Column("gain", _REAL, "mean gain", "points"),
        _LOW,
        _HIGH,
        _SEEDS,
        Column("examples", _REAL, "examples submitted up to here, mean of episodes", "count"),
        Column("tokens", _REAL, "response tokens submitted up to here, mean of episodes", "tokens"),
        Column("cost", _REAL, "price of the teacher's calls up to here, mean of episodes; null if unknown", "USD"),
        Column("seconds", _REAL, "wall-clock time of all stages up to here, mean of episodes", "s"),
    ),
)

SKILLS: Final = Table(
    "skills",
    "Gains by the domain's own skills on the test split, at the chosen iteration.",
    (
        _TRACK,
        _TEACHER,
        replace(_DOMAIN, meaning="registered name of the domain"),
        replace(_STUDENT, meaning="registered name of the student"),
        Column("skill", _TEXT, "gold skill"),
        Column("problems", _INT, "test problems of the skill", "count"),
        Column("before", _REAL, "score of the untrained student, mean of the episodes that finished", "[0, 1]"),
        Column("gain", _REAL, "mean gain; a cell's gain is the mean of its skills', weighted by problems", "points"),
        Column("error", _REAL, "standard error of the gain over seeds; null with one seed", "points"),
        replace(_SEEDS, meaning="seeds behind it"),
    ),
)

ALLOCATIONS: Final = Table(
    "allocations",
    "Where the data went: examples by claimed skill and iteration, mean of the episodes that finished.",
    (
        _TRACK,
        _TEACHER,
        replace(_DOMAIN, meaning="registered name of the domain"),
        replace(_STUDENT, meaning="registered name of the student"),
        Column("iteration", _INT, "iteration for which they were written", "count"),
        Column("skill", _TEXT, "skill that the teacher claims; null if it claims none"),
        Column("submitted", _REAL, "examples submitted, those beyond the budget included", "count"),
        Column("kept", _REAL, "examples that the student was trained on", "count"),
    ),
)

COSTS: Final = Table(
    "costs",
    "What a gain costs: means of the episodes that finished, over seeds, then cells, then domains.",
    (
        _TRACK,
        _TEACHER,
        Column("gain", _REAL, "headline at the chosen iteration, as on the leaderboard", "points"),
        _LOW,
        _HIGH,
        Column("examples", _REAL, "examples submitted in an episode", "count"),
        Column("tokens", _REAL, "response tokens submitted in an episode", "tokens"),
        Column("teacher_calls", _REAL, "calls of the teacher's language models in an episode", "count"),
        Column("teacher_tokens", _REAL, "tokens that they read and wrote", "tokens"),
        Column("cost", _REAL, "price of these calls; null if unknown", "USD"),
        Column("student_seconds", _REAL, "training and answering in an episode", "s"),
        Column("total_seconds", _REAL, "all stages of an episode", "s"),
        Column("efficient", _BOOL, "whether no other teacher of the track gains as much for less, or more for as much"),
        Column("control", _BOOL, "whether it is a control or the ceiling; never efficient"),
        Column("privileged", _BOOL, "whether its engine uses the domain's own generators"),
    ),
)

FRAMES: Final = {table.name: table for table in (COMPARE, CURVES, SKILLS, ALLOCATIONS, COSTS)}
"""Every frame by the name of the function that makes it."""


def compare(
    run: Run, first: str, second: str, *, other: Run | None = None, bootstrap: Bootstrap | None = None
) -> pd.DataFrame:
    """Compares two teachers of a run, or a teacher of one run with a teacher of another.

    Args:
        run: The results.
        first: Label of a teacher, as on the leaderboard.
        second: Label of the teacher that is subtracted.
        other: The run of the second teacher; `run` by default.
        bootstrap: Draws for intervals; 10,000 resamples with seed 0 by default.

    Returns:
        For every track that both entered, a row over all cells, then one for each; see `COMPARE`.

    Raises:
        UsageError: If there is no such teacher, or if the two share no track, seed and problem.
    """
    ours, theirs = _by_label(run), _by_label(other or run)
    for label, known, where in ((first, ours, run), (second, theirs, other or run)):
        if not any(label in entrants for entrants in known.values()):
            names = dict.fromkeys(name for entrants in known.values() for name in entrants)
            raise unknown_name(f"teacher in {where.name}", label, names)
    rows: list[dict[str, Any]] = []
    for track in (track for track in ours if track in theirs):
        if first in ours[track] and second in theirs[track]:
            one, two = ours[track][first].chosen, theirs[track][second].chosen
            place = {"track": track, "first": first, "second": second}
            rows += _compared(place, one, two, bootstrap or Bootstrap())
    if not rows:
        raise UsageError(
            f"{first!r} and {second!r} cannot be compared: they share no track, student, seed and problem."
        )
    return _frame(COMPARE, rows)


def compare_runs(first: Run, second: Run, *, bootstrap: Bootstrap | None = None) -> pd.DataFrame:
    """Compares two runs: every teacher that both have, and all of these together, controls left out.

    Returns:
        For every track of both, the rows of all teachers together (if there are several), then those of each teacher;
        see `COMPARE`.

    Raises:
        UsageError: If the runs share no teacher, track, seed and problem.
    """
    ours, theirs = _by_label(first), _by_label(second)
    bootstrap = bootstrap or Bootstrap()
    rows: list[dict[str, Any]] = []
    for track in (track for track in ours if track in theirs):
        both = [label for label in ours[track] if label in theirs[track]]
        ranked = [label for label in both if not ours[track][label].control]
        if len(ranked) > 1:
            one, two = (_together([side[track][label] for label in ranked]) for side in (ours, theirs))
            rows += _compared({"track": track}, one, two, bootstrap, cells=False)
        for label in both:
            place = {"track": track, "first": label, "second": label}
            rows += _compared(place, ours[track][label].chosen, theirs[track][label].chosen, bootstrap)
    if not rows:
        raise UsageError(f"{first.name} and {second.name} share no teacher, student, seed and problem.")
    return _frame(COMPARE, rows)


def curves(run: Run, *, split: str | None = None, bootstrap: Bootstrap | None = None) -> pd.DataFrame:
    """Returns learning curves by data, tokens, cost and time; see `CURVES`.

    Args:
        run: The results.
        split: Only on this split, `"selection"` or `"test"`; both by default.
        bootstrap: Draws for intervals; 10,000 resamples with seed 0 by default.

    Raises:
        UsageError: If there are no curves on such a split.
    """
    if split not in (None, *CURVED):
        raise unknown_name("split with curves", str(split), CURVED)
    paths = paths_of(run)
    rows: list[dict[str, Any]] = []
    points: list[list[Cell]] = []
    for track, entrant in _entrants(run, overall=False):
        cells = list(_cells_of(entrant, paths))
        places: list[tuple[str | None, str | None, _Members]] = [(None, None, cells)] if cells else []
        places += [(cell[0], cell[1], [cell]) for cell in cells]
        for on in CURVED if split is None else (split,):
            if any(np.isnan(path[on]).any() for _, _, seeds in cells for path in seeds.values()):
                continue
            for domain, student, members in places:
                place = {"track": track, "teacher": entrant.label, "domain": domain, "student": student, "split": on}
                for row, point in _curve(members, on):
                    rows.append(place | row)
                    points.append(point)
    for row, gain in zip(rows, statistics.estimates(points, bootstrap or Bootstrap()), strict=True):
        row["gain"] = gain.value
        row["low"], row["high"] = gain.interval or (None, None)
    return _frame(CURVES, rows)


def skills(run: Run) -> pd.DataFrame:
    """Returns gains by skill; see `SKILLS`."""
    tracks = tracks_of(run)
    rows = []
    for track, entrant in _entrants(run):
        episodes = entrant.episodes[entrant.episodes["status"] == "ok"]
        finished = episodes.groupby(["domain", "student"])["digest"].agg(list)
        for cell in entrant.chosen:
            names, problems = (known.get(cell.domain, ()) for known in (tracks.gains.skills, tracks.gains.problems))
            # A mean over tracks may stand on fewer problems, and an episode that failed has none.
            place = dict(zip(problems, range(len(problems)), strict=True))
            shared = [place[problem] for problem in cell.problems if problem in place]
            base = [tracks.gains.base[digest][shared] for digest in finished.get((cell.domain, cell.student), ())]
            of_problem = np.array([names[i] for i in shared])
            for skill in sorted(set(of_problem)):
                chosen = of_problem == skill
                by_seed = cell.gains[:, chosen].mean(axis=1)
                rows.append(
                    {
                        "track": track,
                        "teacher": entrant.label,
                        "domain": cell.domain,
                        "student": cell.student,
                        "skill": str(skill),
                        "problems": int(chosen.sum()),
                        "before": float(np.mean([b[chosen] for b in base])) if base else None,
                        "gain": float(by_seed.mean()),
                        "error": float(by_seed.std(ddof=1) / math.sqrt(len(by_seed))) if len(by_seed) > 1 else None,
                        "seeds": len(by_seed),
                    }
                )
    return _frame(SKILLS, rows)


def allocations(run: Run) -> pd.DataFrame:
    """Returns where the data went over the iterations; see `ALLOCATIONS`."""
    columns = ["digest", "iteration", "skill", "kept"]
    rows = run.arrow("examples", columns, encoded=True).unify_dictionaries()
    rows = rows.set_column(3, "kept", pc.cast(rows.column("kept"), pa.int64()))
    sums = rows.group_by(columns[:3]).aggregate([("kept", "count"), ("kept", "sum")]).to_pandas()
    sums[["digest", "skill"]] = sums[["digest", "skill"]].astype(object)
    places = ["track", "teacher", "domain", "student"]
    finished = [
        entrant.episodes.loc[entrant.episodes["status"] == "ok", ["domain", "student", "digest"]].assign(
            track=track, teacher=entrant.label
        )
        for track, entrant in _entrants(run, overall=False)
    ]
    if not finished:
        return _frame(ALLOCATIONS, [])
    episodes = pd.concat(finished)
    episodes["episodes"] = episodes.groupby(places)["digest"].transform("nunique")
    keys = [*places, "episodes", "iteration", "skill"]
    found = (
        episodes.merge(sums, on="digest").groupby(keys, dropna=False)[["kept_count", "kept_sum"]].sum().reset_index()
    )
    found["submitted"], found["kept"] = (found[f"kept_{how}"] / found["episodes"] for how in ("count", "sum"))
    records: list[Any] = found.to_dict("records")
    return _frame(ALLOCATIONS, records)


def costs(run: Run, *, bootstrap: Bootstrap | None = None) -> pd.DataFrame:
    """Returns what gains cost; see `COSTS`."""
    entered = list(_entrants(run))
    gains = statistics.estimates([entrant.chosen for _, entrant in entered], bootstrap or Bootstrap())
    rows: list[dict[str, Any]] = []
    for (track, entrant), gain in zip(entered, gains, strict=True):
        low, high = gain.interval or (None, None)
        means = {
            "examples": "examples_submitted",
            "tokens": "response_tokens",
            "teacher_calls": "teacher_calls",
            "teacher_tokens": "teacher_tokens",
            "cost": "cost",
            "student_seconds": "seconds_student",
            "total_seconds": "seconds_total",
        }
        rows.append(
            {"track": track, "teacher": entrant.label, "gain": gain.value, "low": low, "high": high}
            | {name: entrant.mean(column) for name, column in means.items()}
            | {"control": entrant.control, "privileged": entrant.privileged}
        )
    for track in {row["track"] for row in rows}:
        rivals = [row for row in rows if row["track"] == track and not row["control"]]
        found = efficient([(row["cost"], row["gain"]) for row in rivals])
        for row, flag in zip(rivals, found, strict=True):
            row["efficient"] = flag
    return _frame(COSTS, [{"efficient": False} | row for row in rows])


def efficient(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Says of every (cost, gain) whether it is on the Pareto front; what has an unknown cost, NaN, never is.

    On the front, no other costs no more and gains no less while it is better in one of the two.
    """
    return [not math.isnan(c) and not any(a <= c and b >= g and (a, b) != (c, g) for a, b in points) for c, g in points]


# --------------------------------------------------------------------------------------------------------------


def _by_label(run: Run) -> dict[str, dict[str, Entrant]]:
    return {track: {e.label: e for e in entrants} for track, entrants in tracks_of(run).entrants.items()}


def _entrants(run: Run, *, overall: bool = True) -> Iterator[tuple[str, Entrant]]:
    for track, entrants in tracks_of(run).entrants.items():
        if overall or track != OVERALL:
            yield from ((track, entrant) for entrant in entrants)


def _together(entrants: Sequence[Entrant]) -> list[Cell]:
    """The cells of several teachers as those of one."""
    return [replace(cell, student=f"{cell.student}, {e.label}") for e in entrants for cell in e.chosen]


def _compared(
    place: Mapping[str, Any], first: Sequence[Cell], second: Sequence[Cell], bootstrap: Bootstrap, *, cells: bool = True
) -> Iterator[dict[str, Any]]:
    """Yields the rows of two teachers in a track: over all cells, then cell by cell."""
    shared = statistics.average([first, second])
    parts: list[tuple[str | None, str | None, list[Cell]]] = [(None, None, shared)] if shared else []
    parts += [(cell.domain, cell.student, [cell]) for cell in shared if cells]
    for domain, student, means in parts:
        keys = {(cell.domain, cell.student) for cell in means}
        one, two = ([c for c in side if (c.domain, c.student) in keys] for side in (first, second))
        found = statistics.difference(one, two, bootstrap)
        if found is None:
            continue
        low, high = found.gain.interval or (None, None)
        least, most = found.improvement_interval or (None, None)
        middle, half = statistics.headline(means), found.gain.value / 2
        yield {
            **place,
            "domain": domain,
            "student": student,
            "seeds": min(len(cell.seeds) for cell in means),
            "problems": sum({cell.domain: len(cell.problems) for cell in means}.values()),
            "first_gain": middle + half,
            "second_gain": middle - half,
            "difference": found.gain.value,
            "low": low,
            "high": high,
            "improvement": found.improvement,
            "improvement_low": least,
            "improvement_high": most,
            "p_value": found.p_value,
        }


_Members = Sequence[tuple[str, str, dict[str, Path]]]


def _cells_of(entrant: Entrant, paths: Mapping[str, Path]) -> Iterator[tuple[str, str, dict[str, Path]]]:
    """Yields domain, student and the paths by seed of a teacher's episodes that finished."""
    finished = entrant.episodes[entrant.episodes["status"] == "ok"].sort_values("seed")
    for (domain, student), part in finished.groupby(["domain", "student"]):
        seeds = {s: paths[d] for s, d in zip(part["seed"], part["digest"], strict=True) if d in paths}
        if seeds:
            yield str(domain), str(student), seeds


def _curve(cells: _Members, split: str) -> Iterator[tuple[dict[str, Any], list[Cell]]]:
    """Yields for each iteration what was spent up to it, and the gains of the seeds."""
    length = max(len(path[split]) for _, _, seeds in cells for path in seeds.values())

    def held(name: str) -> list[Any]:
        """By cell: a value of each seed and iteration, the last held where an episode ended early."""
        return [
            np.array([np.append(p[name], np.repeat(p[name][-1], length - len(p[name]))) for p in seeds.values()])
            for _, _, seeds in cells
        ]

    gains = held(split)
    spent = {name: [values.mean(axis=0) for values in held(name)] for name in ("examples", "tokens", "cost", "seconds")}
    for iteration in range(length):
        point = [
            Cell(domain, student, tuple(seeds), ("mean",), values[:, iteration, None])
            for (domain, student, seeds), values in zip(cells, gains, strict=True)
        ]
        row: dict[str, Any] = {"iteration": iteration, "seeds": min(len(cell.seeds) for cell in point)}
        for name, means in spent.items():
            weighted = zip(statistics.weights(point), means, strict=True)
            row[name] = float(sum(weight * mean[iteration] for weight, mean in weighted))
        yield row, point


def _frame(table: Table, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Makes a frame with exactly the documented columns and types."""
    plain = [{c.name: _plain(row.get(c.name)) for c in table.columns} for row in rows]
    frame: pd.DataFrame = pa.Table.from_pylist(plain, schema=table.schema).to_pandas()
    return frame


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value
