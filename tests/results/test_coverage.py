"""Intervals cover simulated truths as often as they say: the simulation of `benchmarks/intervals.py`, made small."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from dgym.results import statistics
from dgym.results.statistics import Bootstrap

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "intervals.py"


@pytest.fixture(scope="module")
def intervals():
    spec = importlib.util.spec_from_file_location("intervals", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["intervals"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["intervals"]


def slack(leaderboards, coverage):
    """Three standard errors of a share of the leaderboards."""
    return 3 * (coverage * (1 - coverage) / leaderboards) ** 0.5


@pytest.mark.parametrize(("kind", "cells", "seeds"), [("answers", 4, 3), ("normal", 12, 5)])
def test_intervals_cover(intervals, kind, cells, seeds):
    """What covers more often than aimed at errs on the safe side."""
    leaderboards = 80
    found = intervals.simulate(intervals.World(kind, cells, seeds), leaderboards, 500)
    least = intervals.LEAST - slack(leaderboards, intervals.LEAST)
    assert {name: t.coverage for name, t in found["dgym"].items() if t.coverage < least} == {}
    # The simulation can tell: the plain bootstrap, which knows nothing of problems, is too narrow by far.
    plain = np.mean([found["plain"][name].coverage for name in intervals.NAMES[:3]])
    assert plain < intervals.LEAST - slack(3 * leaderboards, intervals.LEAST)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "answers"])
@pytest.mark.parametrize("cells", [4, 12])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_in_many_leaderboards(intervals, kind, cells, seeds):
    leaderboards = 600
    found = intervals.simulate(intervals.World(kind, cells, seeds), leaderboards)["dgym"]
    least = intervals.LEAST - slack(leaderboards, intervals.LEAST)
    most = intervals.MOST + slack(leaderboards, intervals.MOST)
    assert {name: t.coverage for name, t in found.items() if not least <= t.coverage <= most} == {}


@pytest.mark.slow
def test_the_interquartile_mean_of_many_students_of_a_data_set_is_covered(intervals):
    """What cells share of a problem is the larger part of the error here, and must not be shrunk as noise is."""
    world, rng = intervals.World("normal", 40, 3), np.random.default_rng(0)
    truth, covered = world.means[0].mean(), 0
    for number in range(300):
        cells = intervals.cells_of(world.gains(rng, world.test_set(rng), 3)[0])
        low, high = statistics.estimate_interquartile_mean(cells, Bootstrap(1000, seed=number % 10)).interval
        covered += low <= truth <= high
    assert covered / 300 > intervals.LEAST - slack(300, intervals.LEAST)
