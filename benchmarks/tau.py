"""Says how far a ranking repeats on other seeds: Kendall's tau between teachers' gains on two sets of seeds.

    python benchmarks/tau.py leaderboard/standard --first 1,2 --second 3,4

For every track, and for the mean over tracks of each teacher that entered all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dgym.results import open as open_run
from dgym.results.statistics import kendall_tau


def gains(episodes: pd.DataFrame, seeds: Sequence[int]) -> pd.DataFrame:
    """Mean gain in points by teacher and track on some seeds, domains counting alike; NaN where one did not enter."""
    part = episodes[episodes["seed_variant"].isin(seeds)]
    means = part.groupby(["teacher_label", "environment", "domain"])["gain"].mean()
    return means.groupby(["teacher_label", "environment"]).mean().unstack("environment")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--first", default="1,2", help="seeds, separated by commas")
    parser.add_argument("--second", default="3,4", help="seeds, separated by commas")
    args = parser.parse_args()
    first, second = ([int(s) for s in text.split(",")] for text in (args.first, args.second))
    rows = open_run(args.run).episodes
    rows = rows[(rows["status"] == "ok") & (rows["variation"] == "")]
    rows = rows.assign(gain=100 * (rows["best_test"] - rows["base_test"]))
    tracks = sorted(rows.loc[~rows["state_blind"], "environment"].unique())
    # A teacher that looks at no state runs once and counts in every track.
    blind = [rows[rows["state_blind"]].assign(environment=track) for track in tracks]
    entered = pd.concat([rows[~rows["state_blind"]], *blind])
    for ranked, what in ((entered[entered["ranked"]], "ranked teachers"), (entered, "controls and ceiling included")):
        a, b = gains(ranked, first), gains(ranked, second)
        print(f"Kendall's tau-b between seeds {args.first} and {args.second}, {what}")
        for track in tracks:
            both = pd.concat([a[track], b[track]], axis=1).dropna()
            print(f"  {track:12} {kendall_tau(both.iloc[:, 0], both.iloc[:, 1]):+.2f}  ({len(both)} teachers)")
        both = pd.concat([a.dropna().mean(axis=1), b.dropna().mean(axis=1)], axis=1).dropna()
        print(f"  {'overall':12} {kendall_tau(both[0], both[1]):+.2f}  ({len(both)} teachers in all tracks)")


if __name__ == "__main__":
    main()
