"""A run as its report shows it: values, texts and the rows of every chart.

Gains, intervals, ranks, pairs and differences come from `dgym.leaderboard` and `dgym.ablation`, curves, skills and
allocations from `dgym.results`; here they are only put in order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Final

import pandas as pd

from dgym import ablation, leaderboard, registry
from dgym.display import spending
from dgym.errors import DgymError, UsageError
from dgym.leaderboard import Leaderboard, Table
from dgym.report import frames
from dgym.report.frames import Teacher
from dgym.report.provenance import Provenance, provenance
from dgym.report.samples import CHARACTERS, Sample, chosen_episodes, drawn
from dgym.report.trees import tree_rows
from dgym.results import gains
from dgym.results.gains import OVERALL, tracks_of
from dgym.results.reader import Run
from dgym.results.statistics import LEVEL, Bootstrap

TREES: Final = 40
"""Most episodes whose skill trees can be looked at."""

FAILURES: Final = 200
EPISODES: Final = 5000
"""Most rows of the tables of failures and of episodes."""


@dataclass(frozen=True)
class BoardRow:
    """A line of a leaderboard as text, by column."""

    texts: Mapping[str, str]
    control: bool


@dataclass(frozen=True)
class Board:
    """One track's leaderboard as text.

    Attributes:
        track: Its name.
        summary: What it says, in a few sentences.
        columns: Names of columns.
        rows: Lines.
        notes: Remarks.
    """

    track: str
    summary: str
    columns: tuple[str, ...]
    rows: tuple[BoardRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """A table as text.

    Attributes:
        columns: Names of columns.
        rows: Lines.
        note: A remark on it.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True)
class Fact:
    """A value with its name, for the head of the page."""

    name: str
    value: str


@dataclass(frozen=True)
class Tree:
    """An episode whose skill tree can be looked at."""

    id: str
    domain: str
    label: str


@dataclass(frozen=True)
class Report:
    """All that a page shows.

    Attributes:
        title, subtitle: What was run.
        command: What made the page; empty if nobody said.
        made: When.
        warnings: What a reader must know first: what is missing, and what was left out.
        facts: Numbers of the head.
        boards: Leaderboards by track, the overall one first; none if nothing is compared.
        tracks: The environments among them.
        places: Domains, with their students where they have several.
        teachers: How teachers are drawn, by name and in order.
        cost: What stands for cost.
        split: Which split curves are on.
        frames: Rows of the charts by name.
        trees: Episodes with skill trees.
        contrasts: Differences by what was exchanged.
        rejections: Submitted and rejected examples by teacher and reason.
        kept, rejected: Samples.
        failures: Failed episodes.
        spending: What language models were asked; empty if nothing.
        provenance: How the run came about.
        episodes: Every episode with seeds and digest.
    """

    title: str
    subtitle: str
    command: str
    made: str
    warnings: tuple[str, ...]
    facts: tuple[Fact, ...]
    boards: tuple[Board, ...]
    tracks: tuple[str, ...]
    places: tuple[str, ...]
    teachers: Mapping[str, Teacher]
    cost: frames.Cost
    split: str
    frames: Mapping[str, pd.DataFrame]
    trees: tuple[Tree, ...]
    contrasts: Texts
    rejections: Texts
    kept: tuple[Sample, ...]
    rejected: tuple[Sample, ...]
    failures: Texts
    spending: str
    provenance: Provenance
    episodes: Texts


def gather(run: Run, command: str = "", bootstrap: Bootstrap | None = None) -> Report:
    """Gathers all that a run's report shows.

    Args:
        run: The results. What of them is missing, failed or cannot be read is said, and the rest is shown.
        command: What made the page, to be shown on it.
        bootstrap: Draws for intervals, as in `dgym.leaderboard.build`.

    Raises:
        UsageError: If no episode has ended, or if a published table cannot be read.
    """
    bootstrap = bootstrap or Bootstrap()
    episodes = run.episodes
    if episodes.empty:
        raise UsageError(f"No episode has ended in {run.name!r} yet, or it is no run: there is nothing to report.")
    board = leaderboard.build(run, bootstrap)
    # Perhaps nobody entered all tracks.
    tables = sorted((t for t in board.tables if t.rows), key=lambda table: table.track != OVERALL)
    tracks = tracks_of(run)
    cost = frames.cost_of(board)
    found = ablation.contrasts(run, bootstrap)
    exchanged = [ablation.texts(contrast) for contrast in found]
    curves, split = frames.curves(run, tracks, cost, bootstrap)
    skills = frames.skills(run, tables)
    allocations = frames.allocations(run, tables, tracks, skills)
    trees = _trees(run, episodes)
    rejected = _rejected(run)
    kept, turned_down = _samples(run, episodes, rejected)
    return Report(
        title=f"Report: {PurePath(run.name).name or run.name}",
        subtitle=_subtitle(episodes),
        command=command,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        warnings=_warnings(run, board, episodes),
        facts=_facts(episodes),
        boards=tuple(_board(table) for table in tables),
        tracks=tuple(table.track for table in tables if table.track != OVERALL),
        places=tuple(sorted({*skills.get("place", ()), *allocations.get("place", ())})),
        teachers=frames.teachers_of(tables),
        cost=cost,
        split=split,
        frames={
            "ranking": frames.ranking(tables),
            "cells": frames.cells(tracks, tables),
            "cost": frames.costs(tables, cost),
            "curves": curves,
            "skills": skills,
            "allocation": allocations,
            "trees": pd.concat([rows.assign(tree=tree.id) for tree, rows in trees]) if trees else pd.DataFrame(),
            "pairs": frames.pairs(tables),
            "retention": frames.retention(tracks, tables),
            "contrasts": frames.contrasts(found, exchanged),
        },
        trees=tuple(tree for tree, _ in trees),
        contrasts=Texts(ablation.COLUMNS, tuple(exchanged)) if found else Texts(),
        rejections=_rejections(episodes, rejected),
        kept=tuple(kept),
        rejected=tuple(turned_down),
        failures=_failures(episodes),
        spending=spending(episodes),
        provenance=provenance(episodes),
        episodes=_listed(episodes),
    )


# --------------------------------------------------------------------------------------------------------------
# The head


def _subtitle(episodes: pd.DataFrame) -> str:
    suites = [suite or "single episodes" for suite in episodes["suite"].unique()]
    start, end = episodes["started_at"].min(), episodes["finished_at"].max()
    when = f"{start:%Y-%m-%d}" if start.date() == end.date() else f"{start:%Y-%m-%d} to {end:%Y-%m-%d}"
    students = ", ".join(sorted(episodes["student"].unique()))
    return f"{', '.join(suites)} · {when} · students: {students}"


def _facts(episodes: pd.DataFrame) -> tuple[Fact, ...]:
    failed = int((episodes["status"] != "ok").sum())
    submitted, kept = (int(episodes[f"examples_{what}"].fillna(0).sum()) for what in ("submitted", "kept"))
    values = {
        "episodes": f"{len(episodes):,}" + (f", {failed:,} failed" if failed else ""),
        "teachers": f"{episodes['teacher_label'].nunique():,}",
        "environments": f"{episodes['environment'].nunique():,}",
        "domains": f"{episodes['domain'].nunique():,}",
        "seeds": f"{episodes['seed_variant'].nunique():,}",
        "examples submitted": f"{submitted:,}",
        "of them kept": f"{kept / submitted:.1%}" if submitted else "–",
    }
    return tuple(Fact(name, value) for name, value in values.items())


def _warnings(run: Run, board: Leaderboard, episodes: pd.DataFrame) -> tuple[str, ...]:
    lines = [*run.partial, *(note for note in board.notes if not note.startswith("Partial: "))]
    if not (episodes["status"] == "ok").any():
        lines.insert(0, "No episode has finished: all of them failed.")
    return tuple(dict.fromkeys(lines))


# --------------------------------------------------------------------------------------------------------------
# The leaderboard


def _board(table: Table) -> Board:
    rows = tuple(BoardRow(leaderboard.texts(row), row.control) for row in table.rows)
    return Board(table.track, _summary(table), leaderboard.COLUMNS, rows, table.notes)


def _summary(table: Table) -> str:
    """Says in sentences who is ahead, by how much and how surely."""
    teachers = [row for row in table.rows if not row.control]
    if not teachers:
        return "Only controls were run here."
    first = teachers[0]
    where = "over all environments" if table.track == OVERALL else f"in {table.track}"
    if first.gain.value <= 0:
        lines = [f"No teacher gains anything {where}."]
    else:
        lines = [f"{first.teacher} gains most {where}: {leaderboard.texts(first)[leaderboard.GAIN]} points."]
    pairs = {frozenset((a, b)): pair.adjusted for a, b, pair in table.pairs}
    known = [(row.teacher, pairs.get(frozenset((first.teacher, row.teacher)))) for row in teachers[1:]]
    alike = [teacher for teacher, p_value in known if p_value is not None and p_value >= 1 - LEVEL]
    behind = [teacher for teacher, p_value in known if p_value is not None and p_value < 1 - LEVEL]
    if alike:
        lines.append(f"It cannot be told apart from {_listing(alike)}.")
    if behind:
        lines.append(f"It is ahead of {_listing(behind)}, significantly at 5 % after Holm's adjustment.")
    if first.unranked:
        lines.append(f"It is not ranked: {first.unranked}.")
    return " ".join(lines)


def _listing(names: Sequence[str], most: int = 6) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# --------------------------------------------------------------------------------------------------------------
# Episodes


def _trees(run: Run, episodes: pd.DataFrame) -> list[tuple[Tree, pd.DataFrame]]:
    """Folds the trees of one episode of each teacher and domain, in environments with trees."""
    finished = episodes[(episodes["status"] == "ok") & (episodes["variation"] == "") & ~episodes["state_blind"]]
    first = finished.sort_values(["domain", "teacher_label", "seed_variant"], kind="stable")
    first = first.drop_duplicates(["environment", "domain", "student", "teacher_label"])
    first = first[first["environment"].isin([name for name in set(first["environment"]) if _grows_trees(name)])]
    # Every domain has its turn.
    turn = first.groupby("domain").cumcount()
    first = first.assign(turn=turn).sort_values(["turn", "domain"], kind="stable").head(TREES)
    if first.empty:
        return []
    own = [("digest", "in", first["digest"].tolist())]
    steps = run.arrow("steps", ["digest", "iteration", "plans", "probes"], own).to_pylist()
    examples = run.arrow("examples", ["digest", "iteration", "skill", "kept", "reason"], own).to_pylist()
    found = []
    for row in first.sort_values(["domain", "teacher_label"], kind="stable").to_dict("records"):
        rows = tree_rows(*([r for r in table if r["digest"] == row["digest"]] for table in (steps, examples)))
        if not rows.empty:
            label = f"{row['teacher_label']}, {row['domain']}, seed {row['seed_variant']}"
            found.append((Tree(row["digest"][:12], row["domain"], label), rows))
    return found


def _grows_trees(environment: str) -> bool:
    """Whether an environment has skill trees; one that is not registered here may have."""
    try:
        return bool(getattr(registry.load("environment", environment), "has_trees", False))
    except DgymError:
        return True


def _rejected(run: Run) -> pd.DataFrame:
    """Counts rejected examples by `digest` and `reason`."""
    steps = run.frame("steps", ["digest", "rejected"])
    counts: Counter[tuple[str, str]] = Counter()
    for digest, text in zip(steps["digest"], steps["rejected"], strict=True):
        for reason, count in json.loads(text or "{}").items():
            counts[digest, reason] += count
    return pd.DataFrame([(*key, count) for key, count in counts.items()], columns=["digest", "reason", "count"])


def _rejections(episodes: pd.DataFrame, rejected: pd.DataFrame) -> Texts:
    """Tells by teacher how many examples were submitted and kept, and why the others were not."""
    episodes = episodes[episodes["examples_submitted"].fillna(0) > 0]
    if episodes.empty:
        return Texts()
    sums = episodes.groupby("teacher_label")[["examples_submitted", "examples_kept"]].sum()
    labelled = rejected.merge(episodes[["digest", "teacher_label"]], on="digest")
    wide = labelled.pivot_table("count", "teacher_label", "reason", "sum").reindex(sums.index)
    reasons = sorted(wide.columns, key=lambda reason: -wide[reason].sum())
    rows = []
    for teacher, (submitted, kept), why in zip(
        sums.index, sums.astype(int).to_numpy(), wide[reasons].to_numpy(), strict=True
    ):
        texts = ["–" if pd.isna(count) else f"{int(count):,}" for count in why]
        rows.append((str(teacher), f"{submitted:,}", f"{kept:,}", f"{100 * kept / submitted:.1f}", *texts))
    return Texts(("teacher", "submitted", "kept", "kept %", *map(str, reasons)), tuple(rows))


def _samples(run: Run, episodes: pd.DataFrame, rejected: pd.DataFrame) -> tuple[list[Sample], list[Sample]]:
    chosen = chosen_episodes(episodes[episodes["examples_submitted"].fillna(0) > 0], rejected)
    if not chosen:
        return [], []
    labels = episodes.set_index("digest")["teacher_label"]
    rows = run.frame("examples", where=[("digest", "in", chosen)])
    # In the order in which they were chosen, whatever the order of files.
    place = {digest: i for i, digest in enumerate(chosen)}
    rows = rows.assign(_place=rows["digest"].map(place)).sort_values("_place", kind="stable", ignore_index=True)
    return drawn(rows, {digest: labels[digest] for digest in chosen})


def _failures(episodes: pd.DataFrame) -> Texts:
    failed = episodes[episodes["status"] != "ok"].sort_values(["error_boundary", "teacher_label", "domain"])
    if failed.empty:
        return Texts()
    by = Counter(failed["error_boundary"].fillna("unknown"))
    blame = ", ".join(f"{count} {boundary}" for boundary, count in by.most_common())
    more = len(failed) - FAILURES
    note = f"{gains.count(len(failed), 'episode')} failed, by who was responsible: {blame}."
    note += f" The first {FAILURES} are listed." if more > 0 else ""
    rows = tuple(
        (
            row["teacher_label"],
            row["environment"],
            row["domain"],
            str(row["seed_variant"]),
            row["digest"][:12],
            _or_dash(row["error_boundary"]),
            _or_dash(row["error_stage"]),
            _or_dash(row["error"])[:CHARACTERS],
        )
        for row in failed.head(FAILURES).to_dict("records")
    )
    return Texts(("teacher", "environment", "domain", "seed", "digest", "boundary", "stage", "error"), rows, note)


def _listed(episodes: pd.DataFrame) -> Texts:
    keys = ["teacher_label", "environment", "domain", "student", "seed_variant", "variation"]
    rows = []
    for row in episodes.sort_values(keys).head(EPISODES).to_dict("records"):
        seeds = (row["seed_variant"], row["seed_training"], row["seed_teacher"])
        seed = str(seeds[0]) if len(set(seeds)) == 1 else "/".join(map(str, seeds))
        student = f"{row['student'].partition(':')[0]}:{row['variant']}"
        where = (row["environment"], row["domain"], student)
        rows.append((row["teacher_label"], *where, seed, row["variation"] or "–", row["status"], row["digest"]))
    more = len(episodes) - len(rows)
    note = f"{more:,} more are in the table episodes." if more > 0 else ""
    return Texts(
        ("teacher", "environment", "domain", "student", "seed", "variation", "status", "digest"), tuple(rows), note
    )


def _or_dash(value: object) -> str:
    return value if isinstance(value, str) and value else "–"
