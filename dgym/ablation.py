"""What each module is worth: paired differences between a suite's episodes and the same with one thing exchanged.

A contrast compares episodes of the same teacher, environment, domain, student and seeds, so that all they differ in
is what a variation exchanges; a teacher and its no-state twin are one more contrast. Differences are means over
domains of the gain in test score, in points, with the intervals of `dgym.results.statistics`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from dgym.results.gains import Gains, with_seed
from dgym.results.place import write_files
from dgym.results.reader import Run
from dgym.results.statistics import Bootstrap, Cell, Difference, difference, headline, holm


@dataclass(frozen=True)
class Contrast:
    """One exchange and what it does.

    Attributes:
        name: What was exchanged, such as `"continue"` or `"weakness without state"`.
        environments: Where it was compared.
        before, after: Mean gain without and with the exchange on the episodes compared, in points.
        difference: After minus before, paired.
        episodes: Pairs of episodes.
    """

    name: str
    environments: tuple[str, ...]
    before: float
    after: float
    difference: Difference
    episodes: int


def contrasts(run: Run, bootstrap: Bootstrap | None = None) -> list[Contrast]:
    """Computes every contrast of a run, in alphabetical order: variations first, then twins.

    Args:
        run: The results; failed episodes are left out with their partners.
        bootstrap: Draws for intervals; 10,000 resamples with seed 0 by default.
    """
    bootstrap = bootstrap or Bootstrap()
    episodes = with_seed(run.episodes[run.episodes["status"] == "ok"])
    if episodes.empty:
        return []
    gains = Gains.read(run, episodes)
    episodes = episodes[episodes["digest"].isin(gains.chosen)]
    out = []
    for name, before, after in _sides(episodes):
        keys = ["teacher_key", "environment", "domain", "student", "seed"]
        pairs = before.merge(after[[*keys, "digest"]], on=keys, suffixes=("", "_after"))
        if pairs.empty:
            continue
        first, second = _cells(pairs, "digest_after", gains), _cells(pairs, "digest", gains)
        found = difference(first, second, bootstrap)
        if found is not None:
            where = tuple(sorted(pairs["environment"].unique()))
            out.append(Contrast(name, where, headline(second), headline(first), found, len(pairs)))
    adjusted = holm([c.difference.p_value for c in out if c.difference.p_value is not None])
    values = iter(adjusted)
    return [_adjusted(c, next(values) if c.difference.p_value is not None else None) for c in out]


def _adjusted(contrast: Contrast, p_value: float | None) -> Contrast:
    return replace(contrast, difference=replace(contrast.difference, adjusted=p_value))


def _sides(episodes: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Yields each contrast's name with the episodes before and after; `teacher_key` says which belong together."""
    plain = episodes[episodes["variation"] == ""]
    for variation in sorted(set(episodes["variation"]) - {""}):
        changed = episodes[episodes["variation"] == variation]
        yield str(variation), _keyed(plain, "teacher"), _keyed(changed, "teacher")
    twins = plain[plain["twin"].notna()]
    for twin in sorted(set(twins["twin"])):
        # The exchange is the state: before it the blind twin, after it the teacher.
        yield f"{twin} with state", _keyed(twins[twins["twin"] == twin], "twin"), _keyed(plain, "teacher")


def _keyed(episodes: pd.DataFrame, column: str) -> pd.DataFrame:
    return episodes.assign(teacher_key=episodes[column])


def _cells(pairs: pd.DataFrame, digest: str, gains: Gains) -> list[Cell]:
    out = []
    for (domain, student, environment, teacher), part in pairs.groupby(
        ["domain", "student", "environment", "teacher_key"]
    ):
        ordered = part.sort_values("seed")
        rows = np.array([gains.chosen[d] for d in ordered[digest]], dtype=float)
        name = f"{student}, {environment}, {teacher}"
        out.append(Cell(str(domain), name, tuple(ordered["seed"]), gains.problems[str(domain)], rows))
    return out


def write(found: list[Contrast], folder: str | PathLike[str]) -> None:
    """Writes `ablation.md` and `ablation.json` into a folder, or to its URL.

    Raises:
        UsageError: If they cannot be written.
    """
    write_files(folder, {"ablation.md": markdown(found), "ablation.json": as_json(found)})


COLUMNS = ("exchange", "environments", "before", "after", "difference [95 %]", "P(better)", "p (Holm)", "pairs")


def texts(contrast: Contrast) -> tuple[str, ...]:
    """Returns a contrast as text, in the order of `COLUMNS`."""
    found = contrast.difference
    low_high = found.gain.interval
    interval = f" [{low_high[0]:+.1f}, {low_high[1]:+.1f}]" if low_high else ""
    return (
        contrast.name,
        ", ".join(contrast.environments),
        f"{contrast.before:+.1f}",
        f"{contrast.after:+.1f}",
        f"{found.gain.value:+.1f}{interval}",
        f"{found.improvement:.2f}",
        "–" if found.adjusted is None else f"{found.adjusted:.3f}",
        str(contrast.episodes),
    )


def rich(found: list[Contrast]) -> RichTable:
    """Renders contrasts for a terminal."""
    table = RichTable(title="One thing exchanged", title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    for index, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if index < 2 else "right", no_wrap=index != 1)
    for contrast in found:
        table.add_row(*map(Text, texts(contrast)))
    return table


def markdown(found: list[Contrast]) -> str:
    """Renders contrasts as Markdown."""
    lines = ["# One thing exchanged", "", "| " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + "|".join(":--" if i < 2 else "--:" for i in range(len(COLUMNS))) + "|")
    lines += ["| " + " | ".join(texts(c)) + " |" for c in found]
    note = (
        "Points of test score, mean over domains; differences are after minus before, on the same seeds and problems."
    )
    return "\n".join([*lines, "", note]) + "\n"


def as_json(found: list[Contrast]) -> str:
    """Renders contrasts as JSON."""
    rows: list[dict[str, Any]] = [
        {
            "exchange": c.name,
            "environments": list(c.environments),
            "before": c.before,
            "after": c.after,
            "difference": c.difference.gain.value,
            "interval": c.difference.gain.interval,
            "improvement": c.difference.improvement,
            "p_value": c.difference.p_value,
            "adjusted": c.difference.adjusted,
            "pairs": c.episodes,
        }
        for c in found
    ]
    return json.dumps(rows, indent=2) + "\n"
