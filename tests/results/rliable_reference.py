"""Writes `rliable.json`: figures of rliable, to which `test_statistics` holds ours.

    make rliable

rliable needs a pandas before 3, hence an environment of its own (rliable 1.2.0, arch 7.2.0).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from rliable import library, metrics

REPS = 20_000
THRESHOLDS = (-5.0, 0.0, 4.0, 8.0, 15.0)


def interval(function, *runs: np.ndarray) -> list[float]:
    """Returns the ends of rliable's 95 % interval."""
    np.random.seed(0)  # rliable draws from the global generator
    scores = runs[0] if len(runs) == 1 else list(runs)
    _, found = library.get_interval_estimates({"a": scores}, lambda *x: np.array([function(*x)]), reps=REPS)
    return found["a"][:, 0].tolist()


def main() -> None:
    """Computes everything for two teachers with five runs in each of four tasks."""
    rng = np.random.default_rng(11)
    first = rng.normal(np.linspace(2, 14, 4), 4, (5, 4)).round(2)
    second = rng.normal(np.linspace(0, 12, 4), 4, (5, 4)).round(2)
    second[0, 0] = first[1, 0]  # a tie
    # As our bootstrap has them: deviations from a task's mean are too small by sqrt((S - 1) / S).
    spread = first.mean(axis=0) + (first - first.mean(axis=0)) * np.sqrt(5 / 4)
    profile, _ = library.create_performance_profile({"a": first}, list(THRESHOLDS), reps=2)
    figures = {
        "first": first.tolist(),
        "second": second.tolist(),
        "mean": float(metrics.aggregate_mean(first)),
        "mean_interval": interval(metrics.aggregate_mean, first),
        "interquartile_mean": float(metrics.aggregate_iqm(first)),
        "interquartile_mean_interval_of_spread": interval(metrics.aggregate_iqm, spread),
        "improvement": float(metrics.probability_of_improvement(first, second)),
        "improvement_interval": interval(metrics.probability_of_improvement, first, second),
        "thresholds": THRESHOLDS,
        "profile": profile["a"].tolist(),
    }
    Path(__file__).with_name("rliable.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
