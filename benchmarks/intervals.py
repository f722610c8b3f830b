"""How often the statistics' 95 % intervals cover the truth, by simulation, and how long they take.

    python benchmarks/intervals.py coverage                # a Markdown table; 1,000 simulated leaderboards a column
    python benchmarks/intervals.py speed                   # 200 cells, 5 seeds, 400 problems, 10,000 resamples
    python benchmarks/intervals.py speed --rliable PYTHON  # the same task by rliable, in an environment that has it

Beside each interval stands the plain percentile bootstrap of runs, as rliable has it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from dgym.results import statistics
from dgym.results.statistics import Array, Bootstrap, Cell

LEAST, MOST = 0.92, 0.98
"""Coverage aimed at."""

DATA_SETS = 4
TEST_SET_RUNS = 25
"""Simulated leaderboards on one test set, where the truth is that of the test set."""

TRUTH_RUNS = 4000
"""Runs by which such a truth is found."""


@dataclass(frozen=True)
class World:
    """Where gains come from: two teachers on the same seeds and problems, in cells of unlike difficulty.

    Attributes:
        kind: `"normal"`: effects of seeds, problems and answers, standard deviations 4, 20 and 40 points.
            `"answers"`: each answer gains or loses 100 points or stays, by thresholds of a normal propensity.
        cells: Multiple of four: data sets times students.
        seeds: In each cell.
        problems: In each data set.
    """

    kind: str
    cells: int
    seeds: int
    problems: int = 200

    @property
    def means(self) -> Array:
        """Expected gains in points, shape (2, cells)."""
        first = np.linspace(6.0, 30.0, self.cells)
        return np.stack([first, first - 2])

    def test_set(self, rng: np.random.Generator) -> Array:
        """Effects of problems, shape (2, cells, 1, problems): teachers share most, students of a data set all."""
        shared, own = rng.normal(size=(1, DATA_SETS, self.problems)), rng.normal(size=(2, DATA_SETS, self.problems))
        effects = 0.8 * shared + 0.6 * own
        return np.tile(effects, (1, self.cells // DATA_SETS, 1))[:, :, None, :]

    def gains(self, rng: np.random.Generator, test_set: Array, seeds: int) -> Array:
        """Gains of both teachers on new seeds, shape (2, cells, seeds, problems)."""
        shape = (2, self.cells, seeds)
        of_seeds = 0.6 * rng.normal(size=(1, *shape[1:], 1)) + 0.8 * rng.normal(size=(*shape, 1))
        noise = rng.normal(size=(*shape, self.problems))
        if self.kind == "normal":
            return self.means[:, :, None, None] + 4 * of_seeds + 20 * test_set + 40 * noise
        losing = 0.04
        propensity = 0.14 * of_seeds + 0.45 * test_set + (1 - 0.14**2 - 0.45**2) ** 0.5 * noise
        high = np.vectorize(NormalDist().inv_cdf)(1 - losing - self.means / 100)[:, :, None, None]
        return 100.0 * ((propensity > high).astype(float) - (propensity < NormalDist().inv_cdf(losing)))


def cells_of(gains: Array) -> list[Cell]:
    """One teacher's cells; gains of shape (cells, seeds, problems)."""
    seeds, problems = (tuple(map(str, range(n))) for n in gains.shape[1:])
    return [Cell(f"set {i % DATA_SETS}", f"student {i // DATA_SETS}", seeds, problems, g) for i, g in enumerate(gains)]


@dataclass
class Tally:
    """How often intervals covered the truth, and how wide they were."""

    covered: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, low: float, high: float, truth: float) -> None:
        """Counts one interval."""
        self.covered.append(bool(low - 1e-9 <= truth <= high + 1e-9))
        self.widths.append(high - low)

    @property
    def coverage(self) -> float:
        """Share of the intervals that covered."""
        return sum(self.covered) / len(self.covered)


NAMES = (
    "headline",
    "paired difference",
    "interquartile mean",
    "P(improvement), any two seeds",
    "P(improvement), the same seed",
    "performance profile",
)


def simulate(world: World, leaderboards: int, resamples: int = 2000, seed: int = 0) -> dict[str, dict[str, Tally]]:
    """Simulates leaderboards and counts, by way and name, which intervals cover.

    Each leaderboard has new seeds. Of the first three the truth is that of all problems, and the test set new each
    time; of the others that of the test set.

    Returns:
        Tallies by name for `"dgym"` and `"plain"`.
    """
    rng = np.random.default_rng(seed)
    found = {way: {name: Tally() for name in NAMES} for way in ("dgym", "plain")}
    middle = _middle_of(world, rng)
    test_set, truth = world.test_set(rng), {}
    for number in range(leaderboards):
        bootstrap = Bootstrap(resamples, seed=seed + number % 20)
        gains = world.gains(rng, world.test_set(rng), world.seeds)
        truths = (world.means[0].mean(), (world.means[0] - world.means[1]).mean(), middle)
        for name, true, (own, plain) in zip(NAMES[:3], truths, _of_problems(gains, bootstrap, rng), strict=True):
            found["dgym"][name].add(*own, true)
            found["plain"][name].add(*plain, true)
        if number % TEST_SET_RUNS == 0:
            test_set = world.test_set(rng)
            truth = _of_test_set(world, test_set, rng)
        gains = world.gains(rng, test_set, world.seeds)
        for name, threshold, own, plain in _of_runs(gains, bootstrap, rng):
            true = truth["profile"][threshold] if name == NAMES[5] else truth[name]
            found["dgym"][name].add(*own, true)
            found["plain"][name].add(*plain, true)
    return found


THRESHOLDS = (9.75, 18.25, 26.75)
"""In points; between the steps of half a point that gains on 200 problems have."""


def _of_problems(
    gains: Array, bootstrap: Bootstrap, rng: np.random.Generator
) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    first, second = cells_of(gains[0]), cells_of(gains[1])
    runs = gains.mean(axis=3)
    yield statistics.estimate(first, bootstrap).interval, _plain(rng, _mean, runs[0])
    yield statistics.difference(first, second, bootstrap).gain.interval, _plain(rng, _mean, runs[0] - runs[1])
    yield statistics.estimate_interquartile_mean(first, bootstrap).interval, _plain(rng, _interquartile, runs[0])


def _of_runs(
    gains: Array, bootstrap: Bootstrap, rng: np.random.Generator
) -> Iterator[tuple[str, int, tuple[float, float], tuple[float, float]]]:
    first, second = cells_of(gains[0]), cells_of(gains[1])
    runs = gains.mean(axis=3)
    own = statistics.probability_of_improvement(first, second).interval
    yield NAMES[3], 0, own, _plain(rng, _any_two, *runs)
    own = statistics.difference(first, second, bootstrap).improvement_interval
    yield NAMES[4], 0, own, _plain(rng, _positive, runs[0] - runs[1])
    profile = statistics.performance_profile(first, THRESHOLDS)
    for i, threshold in enumerate(THRESHOLDS):
        plain = _plain(rng, lambda x, t=threshold: (x > t).mean(axis=(1, 2)), runs[0])
        yield NAMES[5], i, (profile.low[i], profile.high[i]), plain


def _plain(rng: np.random.Generator, function: Callable[..., Array], *runs: Array) -> tuple[float, float]:
    """The percentile bootstrap of runs within cells, each teacher's by itself; arrays of shape (cells, seeds)."""
    drawn = [
        values[np.arange(len(values))[:, None], rng.integers(values.shape[1], size=(500, *values.shape))]
        for values in runs
    ]
    low, high = np.quantile(function(*drawn), [0.025, 0.975])
    return float(low), float(high)


def _mean(runs: Array) -> Array:
    return runs.mean(axis=(1, 2))


def _interquartile(runs: Array) -> Array:
    values = np.sort(runs.reshape(len(runs), -1), axis=1)
    cut = values.shape[1] // 4
    return values[:, cut : values.shape[1] - cut].mean(axis=1)


def _any_two(first: Array, second: Array) -> Array:
    a, b = first[..., :, None], second[..., None, :]
    return ((a > b) + 0.5 * (a == b)).mean(axis=(1, 2, 3))


def _positive(runs: Array) -> Array:
    return ((runs > 0) + 0.5 * (runs == 0)).mean(axis=(1, 2))


def _many_runs(world: World, test_set: Array, rng: np.random.Generator, runs: int) -> Array:
    """Gains of many runs on one test set, shape (2, cells, runs)."""
    parts = [world.gains(rng, test_set, 100).mean(axis=3) for _ in range(runs // 100)]
    return np.concatenate(parts, axis=2)


def _middle_of(world: World, rng: np.random.Generator) -> float:
    """The interquartile mean of infinitely many runs, each cell at its expectation over test sets."""
    deviations = []
    for _ in range(20):
        runs = _many_runs(world, world.test_set(rng), rng, 500)[0]
        deviations.append(runs - runs.mean(axis=1, keepdims=True))
    runs = world.means[0][:, None] + np.concatenate(deviations, axis=1)
    return float(_interquartile(runs[None])[0])


def _of_test_set(world: World, test_set: Array, rng: np.random.Generator) -> dict[str, object]:
    runs = _many_runs(world, test_set, rng, TRUTH_RUNS)
    # Half of the runs of either teacher are other seeds than the other's.
    shifted = np.roll(runs[1], TRUTH_RUNS // 2, axis=1)
    ordered = np.sort(shifted, axis=1)
    sides = [
        np.mean([np.searchsorted(o, r, side) / TRUTH_RUNS for o, r in zip(ordered, runs[0], strict=True)])
        for side in ("left", "right")
    ]
    return {
        NAMES[3]: float(np.mean(sides)),
        NAMES[4]: float(_positive((runs[0] - runs[1])[None])[0]),
        "profile": [float((runs[0] > t).mean()) for t in THRESHOLDS],
    }


def coverage(leaderboards: int) -> str:
    """The table of coverages, as Markdown."""
    designs = [(cells, seeds) for cells in (4, 12) for seeds in (3, 5)]
    titles = [f"{cells} cells, {seeds} seeds" for cells, seeds in designs]
    lines = [f"| interval | gains | {' | '.join(titles)} |", "|:--|:--|" + "--:|" * len(designs)]
    worlds = {(kind, *d): simulate(World(kind, *d), leaderboards) for kind in ("normal", "answers") for d in designs}
    missed = []
    for name in NAMES:
        for kind in ("normal", "answers"):
            texts = []
            for design in designs:
                own, plain = (worlds[kind, *design][way][name].coverage for way in ("dgym", "plain"))
                texts.append(f"{100 * own:.1f} (plain {100 * plain:.1f})")
                if not LEAST <= own <= MOST:
                    missed.append(f"{name}, {kind}, {design[0]} cells, {design[1]} seeds: {100 * own:.1f} %")
            lines.append(f"| {name} | {kind} | {' | '.join(texts)} |")
    lines += ["", f"Percent of {leaderboards} simulated leaderboards; aim 92 to 98."]
    lines += ["Outside: " + ("; ".join(missed) if missed else "none") + "."]
    return "\n".join(lines)


def _timed(function: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Median wall and CPU seconds."""
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = (sorted(values)[repeats // 2] for values in zip(*times, strict=True))
    return wall, cpu


def _naive(cells: list[Cell], resamples: int) -> None:
    """The percentile bootstrap of seeds and problems, entry by entry."""
    rng = np.random.default_rng(0)
    for _ in range(resamples):
        problems = {cell.domain: rng.integers(len(cell.problems), size=len(cell.problems)) for cell in cells}
        for cell in cells:
            seeds = rng.integers(len(cell.seeds), size=len(cell.seeds))
            cell.gains[np.ix_(seeds, problems[cell.domain])].mean()


_RLIABLE = """
import json, sys, time
import numpy as np
from rliable import library, metrics
runs, resamples = np.array(json.load(sys.stdin)), int(sys.argv[1])
out = {}
for name, function in (("mean", metrics.aggregate_mean), ("interquartile mean", metrics.aggregate_iqm)):
    start = time.process_time()
    library.get_interval_estimates({"a": runs}, lambda x: np.array([function(x)]), reps=resamples)
    out[name] = time.process_time() - start
print(json.dumps(out))
"""


def speed(rliable: str | None) -> str:
    """The table of times, as Markdown."""
    resamples, part = 10_000, 50
    world = World("normal", 200, 5, 400)
    rng = np.random.default_rng(0)
    cells = cells_of(world.gains(rng, world.test_set(rng), world.seeds)[0])
    teachers = [cells[i : i + DATA_SETS] for i in range(0, len(cells), DATA_SETS)]
    teachers = [[Cell(c.domain, "student", c.seeds, c.problems, c.gains) for c in four] for four in teachers]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def board() -> None:
        bootstrap = Bootstrap(resamples)
        for four in teachers:
            statistics.estimate(four, bootstrap)
            statistics.estimate_interquartile_mean(four, bootstrap)
        statistics.compare(teachers, bootstrap)

    rows: list[tuple[str, float | None, float]] = [
        ("headline", *_timed(lambda: statistics.estimate(cells, Bootstrap(resamples)))),
        ("interquartile mean", *_timed(lambda: statistics.estimate_interquartile_mean(cells, Bootstrap(resamples)))),
    ]
    pairs = len(teachers) * (len(teachers) - 1) // 2
    rows.append((f"{len(teachers)} teachers of {DATA_SETS} cells: both of each, and all {pairs} pairs", *_timed(board)))
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    wall, cpu = (seconds * resamples / part for seconds in _timed(lambda: _naive(cells, part), 1))
    rows.append((f"headline, resampled entry by entry ({part} resamples, times {resamples // part})", wall, cpu))
    if rliable:
        runs = json.dumps(np.array([cell.by_seed for cell in cells]).T.tolist())
        done = subprocess.run(
            [rliable, "-c", _RLIABLE, str(resamples)], input=runs, capture_output=True, text=True, check=True
        )
        rows += [(f"rliable, {name}, without problems", None, s) for name, s in json.loads(done.stdout).items()]
    lines = ["| what | seconds | CPU seconds |", "|:--|--:|--:|"]
    lines += [f"| {name} | {'–' if wall is None else f'{wall:.2f}'} | {cpu:.2f} |" for name, wall, cpu in rows]
    task = f"{len(cells)} cells, {world.seeds} seeds, {world.problems} problems in each of {DATA_SETS} data sets"
    lines += ["", f"{task}, {resamples:,} resamples; {memory:.0f} MB above the data."]
    lines += [f"Entry by entry against the headline: {rows[3][2] / rows[0][2]:.0f} times."]
    return "\n".join(lines)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("coverage", "speed"))
    parser.add_argument("--leaderboards", type=int, default=1000, help="simulated for each column")
    parser.add_argument("--rliable", metavar="PYTHON", help="an interpreter that has rliable")
    args = parser.parse_args()
    print(coverage(args.leaderboards) if args.what == "coverage" else speed(args.rliable))


if __name__ == "__main__":
    main()
