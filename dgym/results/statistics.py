"""The leaderboard's statistics: pure functions of gains, on numpy alone. Knows no files and no tables.

The unit is the *point*: 100 times a difference of test scores. A teacher's result in a `Cell` (a domain and the
student that learns it) is a matrix of gains over the untrained student, seeds by problems; the cell score is its
mean, and the headline the mean over domains of the cell scores. A *run* is one seed in one cell.

Two things are random: the seeds of an episode, and the problems that happen to be in the test set. Both are
resampled: seeds within their cell, problems once per data set, so that cells, teachers and seeds share a draw. A
stratified bootstrap over runs is what Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
statistical precipice", recommend; with three to ten seeds it needs three corrections. The deviations of seeds
from their mean are scaled by sqrt(S / (S - 1)), since a resample of S seeds has a variance too small by
(S - 1) / S. The interval is widened by the ratio of the t to the normal quantile. And noise that belongs to one
seed and problem alone would be counted by the seeds, by the problems and by both together (Owen 2007, "The
pigeonhole bootstrap"): means are therefore resampled, not single entries, and the deviations of problems are
shrunk by the share of their variance that a two-way analysis of variance gives to such noise.

Proportions of runs (probability of improvement, performance profile) have score intervals instead (Wilson 1927):
with a handful of runs a bootstrap of a proportion near 0 or 1 has no width. They hold for the problems as they are.
`benchmarks/intervals.py` measures by simulation how often each interval covers the truth.

Each cell's problems are shrunk by themselves. What several cells of one data set share of a problem comes out too small
so: with many students on a data set, the headline's interval is too narrow. That of the interquartile mean is not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MIN_SEEDS_INTERVAL: Final = 3
"""Fewest seeds in every cell for an interval."""

MIN_SEEDS_RANK: Final = 5
"""Fewest seeds in every cell for a rank."""

LEVEL: Final = 0.95
"""Coverage of intervals; pairs are tested at the rest."""

POWER: Final = 0.8
"""Power of the minimum detectable difference."""

T_BELOW: Final = 20.0
"""Degrees of freedom under which intervals are widened."""

SEED_FACTORS: Final = ("variant", "training", "teacher")
"""What the name of a seed, such as `1-1-1`, numbers: student variant, training seed, teacher seed."""

_CHUNK: Final = 1000
"""Resamples at a time."""

_PRODUCT: Final = 2500
"""Resamples in one product: fewer products of more work, since threads of one wait for each other on a busy machine."""

_BATCH: Final = 512
"""Estimates at a time: 41 MB of draws."""

_GRID: Final = 2.0**40
"""Effects are rounded to multiples of 1 / _GRID points: a sum of them up to 4096 points is then exact in any order."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A teacher's gains in one cell.

    Attributes:
        domain: The data set; problems are resampled once for all cells that share it.
        student: Who learns.
        seeds: Names of the episodes' seeds, S of them.
        problems: Ids of the test problems, P of them.
        gains: Points gained, shape (S, P).
    """

    domain: str
    student: str
    seeds: tuple[str, ...]
    problems: tuple[str, ...]
    gains: Array

    def __post_init__(self) -> None:
        if self.gains.shape != (len(self.seeds), len(self.problems)) or self.gains.size == 0:
            raise ValueError(f"gains of shape {self.gains.shape} for {len(self.seeds)} seeds of {self.domain}")

    @property
    def by_seed(self) -> Array:
        """The gain of each seed, in points."""
        means: Array = self.gains.mean(axis=1)
        return means

    @property
    def score(self) -> float:
        """The mean over seeds, in points."""
        return float(self.by_seed.mean())


@dataclass(frozen=True, eq=False)
class _Pair(Cell):
    """Differences of two cells with the same seeds and problems.

    Attributes:
        sources: The cells.
    """

    sources: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity with its uncertainty, in points; a probability where the function says so.

    Attributes:
        value: The estimate.
        interval: The interval at `LEVEL`; `None` with fewer than three seeds.
        error: The standard error; `None` as above.
        degrees: Degrees of freedom of the error.
    """

    value: float
    interval: tuple[float, float] | None = None
    error: float | None = None
    degrees: float = math.inf


@dataclass(frozen=True, slots=True)
class Difference:
    """One teacher against another, on the seeds and problems that they share.

    Attributes:
        gain: The first teacher's headline minus the second's, in points.
        improvement: Probability that the first gains more than the second on the same seed; ties count half.
        p_value: Of a two-sided t test on the bootstrap error; `None` where there is no interval.
        adjusted: The p-value after Holm's adjustment over all pairs; set by `compare`.
        improvement_interval: Of `improvement`, as `probability_of_improvement` has it; `None` with fewer than three
            seeds.
    """

    gain: Estimate
    improvement: float
    p_value: float | None
    adjusted: float | None = None
    improvement_interval: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Profile:
    """How often runs gain more than each of some thresholds.

    Attributes:
        thresholds: In points, shape (T,).
        fractions: Part of the runs whose gain lies above each threshold, domains counting alike; shape (T,).
        low, high: Ends of the pointwise intervals at `LEVEL`, shape (T,); `None` with fewer than three seeds.
    """

    thresholds: Array
    fractions: Array
    low: Array | None = None
    high: Array | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the variance of single answers' gains.

    Attributes:
        source: What varies, such as `"problems"`; `"a + b"` where only the sum of two is known.
        variance: In squared points, at least 0; NaN where the design does not tell it.
        reason: Why it is NaN; empty otherwise.
    """

    source: str
    variance: float
    reason: str = ""


class Bootstrap:
    """The random draws, shared by all that is estimated with one object.

    The draws of a data set depend on the seed, its name and its size only, and those of a cell's seeds likewise:
    whatever shares problems or seeds shares their resamples.

    Args:
        resamples: How many.
        seed: Of all draws.
    """

    def __init__(self, resamples: int = 10_000, seed: int = 0) -> None:
        self.resamples, self.seed = resamples, seed
        self._counts: dict[tuple[str, int], NDArray[np.uint8]] = {}

    def draw(self, cells: Sequence[Cell]) -> Array:
        """Returns resampled headlines minus the headline, in points; shape (resamples,)."""
        drawn: Array = self.draw_all([cells])[0]
        return drawn

    def draw_all(self, many: Sequence[Sequence[Cell]]) -> Array:
        """Draws for many headlines at once, the same bits as one by one; shape (len(many), resamples)."""
        # One product with the counts of a data set serves all its cells, and one row of it all pairs of a teacher.
        raw: dict[int, tuple[Array, Array]] = {}
        rows: dict[tuple[str, int], dict[int, Array]] = {}
        terms: list[tuple[int, float, tuple[str, int], tuple[int, ...]]] = []
        for number, cells in enumerate(many):
            parts: dict[tuple[str, int], list[tuple[float, Cell]]] = {}
            for cell, weight in zip(cells, weights(cells), strict=True):
                parts.setdefault(_keys(cell)[1], []).append((weight, cell))
            for of_problems, members in parts.items():
                shrunk = _shrunk(members)
                for weight, cell in members:
                    sources = cell.sources if isinstance(cell, _Pair) else (cell,)
                    of_seeds, scaled = _keys(cell)[0], _scaled(len(cell.seeds))
                    for which, (key, factor) in enumerate(((of_seeds, scaled), (of_problems, shrunk))):
                        for source in sources:
                            if id(source) not in raw:
                                raw[id(source)] = _two_way(source.gains)[:2]
                            rows.setdefault(key, {})[id(source)] = raw[id(source)][which]
                        terms.append((number, weight * factor / key[1], key, tuple(map(id, sources))))
        sums = {
            key: dict(zip(effects, self._sums(key, np.array(list(effects.values()))), strict=True))
            for key, effects in rows.items()
        }
        total = np.zeros((len(many), self.resamples))
        for number, factor, key, (first, *second) in terms:
            drawn = sums[key][first]
            total[number] += factor * (drawn - sums[key][second[0]] if second else drawn)
        return total

    def _sums(self, key: tuple[str, int], effects: Array) -> Array:
        """Sums effects of things, each as often as it is drawn; shape (n, things) to (n, resamples)."""
        exact = np.rint(effects * _GRID).T / _GRID
        counts = self._resample(*key)
        sums = np.empty((len(effects), self.resamples))
        for start in range(0, self.resamples, _PRODUCT):
            part = slice(start, start + _PRODUCT)
            sums[:, part] = (counts[part].astype(float) @ exact).T
        return sums

    def draw_runs(self, cells: Sequence[Cell]) -> Iterator[Array]:
        """Yields resampled gains of all runs, in points: blocks of shape (part of the resamples, runs).

        Seeds of a cell are redrawn, deviations scaled as for the headline, and each cell shifted by what a redraw of
        its problems does to its mean.
        """
        shifts = np.zeros((len(cells), self.resamples))
        of_data_sets: dict[tuple[str, int], list[int]] = {}
        for i, cell in enumerate(cells):
            of_data_sets.setdefault(_keys(cell)[1], []).append(i)
        for key, members in of_data_sets.items():
            shifts[members] = self._sums(key, joint_deviations([cells[i].gains for i in members]) / key[1])
        of_seeds = [deviations(cell.gains)[0] for cell in cells]
        for start in range(0, self.resamples, _CHUNK):
            part = slice(start, start + _CHUNK)
            blocks = []
            for shift, cell, deviation in zip(shifts, cells, of_seeds, strict=True):
                counts = self._resample(*_keys(cell)[0])[part]
                values = np.tile(cell.score + deviation, len(counts))
                blocks.append(np.repeat(values, counts.ravel()).reshape(counts.shape) + shift[part, None])
            yield np.concatenate(blocks, axis=1)

    def _resample(self, name: str, size: int) -> NDArray[np.uint8]:
        """How often each of `size` things is drawn; shape (resamples, size)."""
        if (name, size) not in self._counts:
            key = hashlib.blake2b(f"{self.seed}, {name}, {size}".encode(), digest_size=8).digest()
            rng = np.random.default_rng(int.from_bytes(key, "big"))
            counts = np.empty((self.resamples, size), dtype=np.uint8)
            for start in range(0, self.resamples, _CHUNK):
                rows = min(_CHUNK, self.resamples - start)
                drawn = rng.integers(size, size=(rows, size)) + np.arange(rows)[:, None] * size
                counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
            self._counts[name, size] = counts
        return self._counts[name, size]


def _keys(cell: Cell) -> tuple[tuple[str, int], tuple[str, int]]:
    """Names and sizes of what is resampled: the cell's seeds, and the data set's problems."""
    seeds, problems = cell.gains.shape
    return (f"seeds of {cell.domain}, {cell.student}", seeds), (f"problems of {cell.domain}", problems)


def weights(cells: Sequence[Cell]) -> list[float]:
    """Weights of cells in the headline: domains count alike, and cells of a domain alike."""
    domains = [cell.domain for cell in cells]
    return [1 / (len(set(domains)) * domains.count(domain)) for domain in domains]


def headline(cells: Sequence[Cell]) -> float:
    """The mean over domains of the cell scores, in points."""
    return sum(weight * cell.score for cell, weight in zip(cells, weights(cells), strict=True))


def estimate(cells: Sequence[Cell], bootstrap: Bootstrap) -> Estimate:
    """Estimates the headline with its interval; gains that are all zero give exactly 0 and [0, 0]."""
    return estimates([cells], bootstrap)[0]


def estimates(many: Sequence[Sequence[Cell]], bootstrap: Bootstrap) -> list[Estimate]:
    """Estimates many headlines, a batch of draws at a time."""
    out = [Estimate(headline(cells)) for cells in many]
    enough = [i for i, cells in enumerate(many) if _fewest(cells) >= MIN_SEEDS_INTERVAL]
    for start in range(0, len(enough), _BATCH):
        batch = enough[start : start + _BATCH]
        for i, draws in zip(batch, bootstrap.draw_all([many[i] for i in batch]), strict=True):
            out[i] = _from_draws(out[i].value, draws, degrees_of_freedom(many[i]))
    return out


def _from_draws(value: float, draws: Array, degrees: float) -> Estimate:
    """The estimate whose resamples deviate from it by `draws`: percentiles, widened by t."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    widening = t_quantile(1 - tail, degrees) / t_quantile(1 - tail, math.inf) if degrees < T_BELOW else 1.0
    interval = (value + widening * float(low), value + widening * float(high))
    return Estimate(value, interval, float(draws.std()), degrees)


def _fewest(cells: Sequence[Cell]) -> int:
    return min(len(cell.seeds) for cell in cells)


def deviations(gains: Array) -> tuple[Array, Array]:
    """Splits gains into what resampling draws from.

    Args:
        gains: Shape (S, P).

    Returns:
        Deviations of the seeds' means from the mean, scaled by sqrt(S / (S - 1)), shape (S,); and those of the
        problems' means, shape (P,), shrunk to the variance that problems explain beyond noise.
    """
    of_seeds, of_problems, noise = _two_way(gains)
    return of_seeds * _scaled(len(gains)), of_problems * _without(noise, of_problems)


def _scaled(seeds: int) -> float:
    """By what deviations of seeds' means are scaled."""
    return math.sqrt(seeds / max(seeds - 1, 1))


def _shrunk(cells: Sequence[tuple[float, Cell]]) -> float:
    """By what the deviations of problems' means are shrunk in a weighted sum of the cells of a data set.

    It is one factor for the sum: what students share of a problem adds up, noise does not, so that factors of each
    cell by itself would make the sum's variance too small.
    """
    found = [(weight, *_two_way(cell.gains)[1:]) for weight, cell in cells]
    together: Array = sum((weight * of_problems for weight, of_problems, _ in found), start=np.zeros(1))
    return _without(sum(weight**2 * noise for weight, _, noise in found), together)


def _without(noise: float, deviations: Array) -> float:
    """The factor that leaves deviations with the squares that they have beyond noise."""
    explained = float((deviations**2).sum())
    return math.sqrt(max(0.0, 1 - noise / explained)) if explained else 0.0


def joint_deviations(cells: Sequence[Array]) -> Array:
    """Deviations of problems' means in the K cells of one data set, shrunk so that they vary together as they should.

    Shrinking each cell by itself gives every variance its right size, but makes what cells share of a problem too
    small: noise adds to variances alone. Here the whole covariance of the cells' means, less the noise on its
    diagonal and with no negative eigenvalue, is given to them. For one cell it is `deviations`.

    Args:
        cells: Gains of shape (S, P), S their own.

    Returns:
        Shape (K, P).
    """
    parts = [_two_way(gains) for gains in cells]
    means = np.array([of_problems for _, of_problems, _ in parts])
    if len(parts) == 1 or means.shape[1] == 1:
        return np.array([deviations(gains)[1] for gains in cells])
    covariance = means @ means.T
    explained = covariance - np.diag([noise for _, _, noise in parts])
    shrunk: Array = _power(explained, 0.5) @ _power(covariance, -0.5) @ means
    return shrunk


def _power(matrix: Array, exponent: float) -> Array:
    """A power of a symmetric matrix, on its positive eigenvalues alone."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-12 * max(float(values.max()), 0.0)
    power: Array = (vectors[:, kept] * values[kept] ** exponent) @ vectors[:, kept].T
    return power


def _two_way(gains: Array) -> tuple[Array, Array, float]:
    """Deviations of seeds' and of problems' means, and what noise is expected to add to the squares of the latter."""
    seeds = len(gains)
    mean = gains.mean()
    of_seeds, of_problems = gains.mean(axis=1) - mean, gains.mean(axis=0) - mean
    noise = gains - mean - of_seeds[:, None] - of_problems
    return of_seeds, of_problems, float((noise**2).sum()) / (max(seeds - 1, 1) * seeds)


def degrees_of_freedom(cells: Sequence[Cell]) -> float:
    """Effective degrees of freedom of a headline (Satterthwaite 1946), over the seeds of each cell.

    The problems' better known share of the error is left out: counted in, intervals over three seeds of one cell
    covered 92 % of simulated truths, without it 98 %.
    """
    parts = [
        (weight**2 * float(cell.by_seed.var(ddof=1)) / len(cell.seeds), len(cell.seeds) - 1)
        for cell, weight in zip(cells, weights(cells), strict=True)
    ]
    spread = sum(variance**2 / degrees for variance, degrees in parts)
    return sum(variance for variance, _ in parts) ** 2 / spread if spread else math.inf


def interquartile_mean(cells: Sequence[Cell]) -> float:
    """The mean of the middle half of all seeds of all cells, in points (Agarwal et al. 2021).

    A quarter of the values, rounded down, is left out at either end: with fewer than four it is the mean.
    """
    return float(_middle(np.concatenate([cell.by_seed for cell in cells])).mean())


def estimate_interquartile_mean(cells: Sequence[Cell], bootstrap: Bootstrap) -> Estimate:
    """Estimates the interquartile mean with its interval.

    A stratified bootstrap over seeds within cells (Agarwal et al. 2021) with the corrections of the headline: problems
    are resampled too, and the degrees of freedom are the headline's.
    """
    value = interquartile_mean(cells)
    if _fewest(cells) < MIN_SEEDS_INTERVAL:
        return Estimate(value)
    draws = np.concatenate([_middle(runs).mean(axis=-1) for runs in bootstrap.draw_runs(cells)]) - value
    return _from_draws(value, draws, degrees_of_freedom(cells))


def _middle(values: Array) -> Array:
    """The middle half of the last axis, in ascending order."""
    cut = values.shape[-1] // 4
    middle: Array = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
    return middle


def with_failures(gains: Array, failures: int) -> Array:
    """Adds a seed for every failed episode: the lower of 0 and the teacher's worst seed in the cell.

    Args:
        gains: Points of the episodes that finished, shape (S, P); S may be 0.
        failures: How many failed.

    Returns:
        Shape (S + failures, P). A worst seed below 0 is repeated problem by problem, anything else gives zeros.
    """
    filler = np.zeros(gains.shape[1])
    if len(gains):
        worst = gains[gains.mean(axis=1).argmin()]
        filler = worst if worst.mean() < 0 else filler
    return np.concatenate([gains, np.tile(filler, (failures, 1))])


def average(tracks: Sequence[Sequence[Cell]]) -> list[Cell]:
    """Averages a teacher's gains over tracks, cell by cell, on the seeds and problems shared by all of them.

    Returns:
        The cells that all tracks have and in which they share a seed and a problem.
    """
    keyed = [{(cell.domain, cell.student): cell for cell in cells} for cells in tracks]
    out = []
    for domain, student in keyed[0]:
        cells = [k[domain, student] for k in keyed if (domain, student) in k]
        seeds, problems = _shared([c.seeds for c in cells]), _shared([c.problems for c in cells])
        if len(cells) == len(keyed) and seeds and problems:
            mean = np.mean([_select(cell, seeds, problems) for cell in cells], axis=0)
            out.append(Cell(domain, student, seeds, problems, mean))
    return out


def difference(first: Sequence[Cell], second: Sequence[Cell], bootstrap: Bootstrap) -> Difference | None:
    """Compares two teachers on shared cells, seeds and problems; `None` if they share none."""
    cells = _paired(first, second)
    return _difference(cells, estimate(cells, bootstrap)) if cells else None


def _paired(first: Sequence[Cell], second: Sequence[Cell]) -> list[Cell]:
    """Differences of gains on shared cells, seeds and problems."""
    negative = [Cell(c.domain, c.student, c.seeds, c.problems, -c.gains) for c in second]
    sides = [{(cell.domain, cell.student): cell for cell in cells} for cells in (first, second)]
    out = []
    for half in average([first, negative]):
        whole = tuple(side[half.domain, half.student] for side in sides)
        # The mean of a and -b is half of their difference.
        cell = Cell(half.domain, half.student, half.seeds, half.problems, 2 * half.gains)
        if all((c.seeds, c.problems) == (half.seeds, half.problems) for c in whole):
            cell = _Pair(cell.domain, cell.student, cell.seeds, cell.problems, cell.gains, whole)
        out.append(cell)
    return out


def _difference(cells: Sequence[Cell], gain: Estimate) -> Difference:
    wins = [(cell.by_seed > 0) + 0.5 * (cell.by_seed == 0) for cell in cells]
    improvement = sum(weight * float(won.mean()) for won, weight in zip(wins, weights(cells), strict=True))
    if gain.error is None:
        return Difference(gain, improvement, None)
    counts = np.array([float(len(won)) for won in wins])
    parts = np.array([[won.mean()] for won in wins])
    variances = np.array([[won.var(ddof=1) / len(won)] for won in wins])
    low, high, _ = _score_interval(np.array(weights(cells)), counts, parts, variances)
    p_value = t_two_sided(gain.value / gain.error, gain.degrees) if gain.error else float(gain.value == 0)
    return Difference(gain, improvement, p_value, improvement_interval=(float(low[0]), float(high[0])))


def probability_of_improvement(first: Sequence[Cell], second: Sequence[Cell]) -> Estimate | None:
    """The probability that a run of the first teacher gains more than one of the second, on any two seeds.

    The mean over domains of Mann and Whitney's statistic in each cell, ties counting half (Agarwal et al. 2021).
    `Difference.improvement` is the same for runs on one seed, which says more where seeds make both teachers better
    or worse. The standard error is that of DeLong et al. 1988, with the covariance of runs that share a seed. The
    interval is Wilson's, as if there were p (1 - p) / error^2 independent comparisons (Korn and Graubard 1998), but
    no more than both teachers' runs: a bootstrap has no width where all runs of one lie above all of the other.

    Returns:
        A probability, on the cells and problems that both have; `None` if there are none.
    """
    others = {(cell.domain, cell.student): cell for cell in second}
    cells, parts, variances, counts = [], [], [], []
    for cell in first:
        other = others.get((cell.domain, cell.student))
        problems = _shared([cell.problems, other.problems]) if other else ()
        if other is None or not problems:
            continue
        mine, theirs = (_select(c, c.seeds, problems).mean(axis=1) for c in (cell, other))
        above = (mine[:, None] > theirs) + 0.5 * (mine[:, None] == theirs)
        cells.append(cell)
        parts.append(float(above.mean()))
        counts.append(float(len(mine) + len(theirs)))
        variances.append(_delong(above, cell.seeds, other.seeds) if min(above.shape) > 1 else math.nan)
    if not cells:
        return None
    share = np.array(weights(cells))
    value = float(share @ np.array(parts))
    if min(min(len(c.seeds), len(others[c.domain, c.student].seeds)) for c in cells) < MIN_SEEDS_INTERVAL:
        return Estimate(value)
    low, high, error = _score_interval(share, np.array(counts), np.array(parts)[:, None], np.array(variances)[:, None])
    return Estimate(value, (float(low[0]), float(high[0])), float(error[0]))


def _delong(above: Array, first: tuple[str, ...], second: tuple[str, ...]) -> float:
    """Variance of the mean of a matrix of comparisons, each seed's rows and columns belonging together."""
    rows, columns = above.mean(axis=1), above.mean(axis=0)
    variance = float(rows.var(ddof=1)) / len(rows) + float(columns.var(ddof=1)) / len(columns)
    both = _shared([first, second])
    if len(both) > 1:
        x = rows[[first.index(seed) for seed in both]]
        y = columns[[second.index(seed) for seed in both]]
        variance += 2 * len(both) * float(np.cov(x, y)[0, 1]) / (len(rows) * len(columns))
    return max(variance, 0.0)


def performance_profile(cells: Sequence[Cell], thresholds: Sequence[float] | Array) -> Profile:
    """The part of a teacher's runs that gain more than each threshold: its run-score distribution.

    Performance profiles are from Dolan and Moré 2002; with scores for ratios, and all runs instead of one for each
    problem, they are those of Agarwal et al. 2021. Domains count alike, and runs of a cell. The intervals are
    Wilson's on the variance that a stratified bootstrap over seeds has (with S - 1 for S), as for
    `probability_of_improvement`; each holds for its threshold alone.
    """
    taus = np.asarray(thresholds, dtype=float)
    share = np.array(weights(cells))
    parts = np.array([(cell.by_seed[:, None] > taus).mean(axis=0) for cell in cells])
    fractions: Array = share @ parts
    if _fewest(cells) < MIN_SEEDS_INTERVAL:
        return Profile(taus, fractions)
    counts = np.array([float(len(cell.seeds)) for cell in cells])
    low, high, _ = _score_interval(share, counts, parts, parts * (1 - parts) / (counts[:, None] - 1))
    return Profile(taus, fractions, low, high)


def wilson(successes: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927); it has a width even where none or all succeed.

    Args:
        successes: From 0 to `trials`.
        trials: More than 0; need not be whole.
        level: Coverage.

    Raises:
        ValueError: If there are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials <= 0:
        raise ValueError(f"{successes} successes in {trials} trials")
    z = t_quantile((1 + level) / 2, math.inf)
    low, high = _wilson(np.array([successes / trials]), np.array([float(trials)]), z)
    return float(low[0]), float(high[0])


def _wilson(part: Array, trials: Array, z: float) -> tuple[Array, Array]:
    scale = 1 + z**2 / trials
    centre = (part + z**2 / (2 * trials)) / scale
    half = z / scale * np.sqrt(part * (1 - part) / trials + (z / (2 * trials)) ** 2)
    # Rounding must not part the interval from the proportion at 0 and 1.
    return np.clip(np.minimum(centre - half, part), 0, 1), np.clip(np.maximum(centre + half, part), 0, 1)


def _score_interval(share: Array, counts: Array, parts: Array, variances: Array) -> tuple[Array, Array, Array]:
    """Wilson's interval for weighted means of proportions, and their standard errors.

    Args:
        share: Weights of C cells, shape (C,).
        counts: Most independent trials that each cell can stand for, shape (C,).
        parts: Proportions, shape (C, T).
        variances: Of these, shape (C, T).
    """
    mean, variance = share @ parts, share**2 @ variances
    # Half a success and half a failure more leave no cell without variance: the least that the mean can have.
    shrunk = (parts * counts[:, None] + 0.5) / (counts[:, None] + 1)
    least = (share**2 / counts) @ (shrunk * (1 - shrunk))
    most = (share @ shrunk) * (1 - share @ shrunk) / least
    known = (variance > 0) & (mean > 0) & (mean < 1)
    trials = np.minimum(most, mean * (1 - mean) / np.where(known, variance, 1), out=most.copy(), where=known)
    low, high = _wilson(mean, trials, t_quantile((1 + LEVEL) / 2, math.inf))
    return low, high, np.sqrt(variance)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number, controlling the family-wise error rate (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def compare(teachers: Sequence[Sequence[Cell]], bootstrap: Bootstrap) -> dict[tuple[int, int], Difference]:
    """Compares every pair of teachers, with p-values adjusted over all pairs.

    Returns:
        By (i, j) with i < j: teacher i against teacher j; pairs that share nothing are left out.
    """
    keys = [(i, j) for j in range(len(teachers)) for i in range(j)]
    pairs: dict[tuple[int, int], Difference] = {}
    for start in range(0, len(keys), _BATCH):
        paired = {(i, j): _paired(teachers[i], teachers[j]) for i, j in keys[start : start + _BATCH]}
        paired = {key: cells for key, cells in paired.items() if cells}
        gains = estimates(list(paired.values()), bootstrap)
        pairs |= {key: _difference(cells, gain) for (key, cells), gain in zip(paired.items(), gains, strict=True)}
    tested = {key: pair.p_value for key, pair in pairs.items() if pair.p_value is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {key: replace(pair, adjusted=adjusted.get(key)) for key, pair in pairs.items()}


def rank_intervals(count: int, pairs: dict[tuple[int, int], Difference]) -> list[tuple[int, int]]:
    """Ranks as intervals: best and worst place that the significant differences leave open.

    Args:
        count: How many teachers.
        pairs: As `compare` gives them.

    Returns:
        For each teacher (1 + teachers significantly better, count - teachers significantly worse): teachers
        that cannot be told apart share places.
    """
    better, worse = [0] * count, [0] * count
    for (i, j), pair in pairs.items():
        if pair.adjusted is not None and pair.adjusted < 1 - LEVEL:
            winner, loser = (i, j) if pair.gain.value > 0 else (j, i)
            better[loser] += 1
            worse[winner] += 1
    return [(1 + b, count - w) for b, w in zip(better, worse, strict=True)]


def minimum_detectable_difference(pairs: Sequence[Difference]) -> float | None:
    """The difference that a typical pair would show with 80 % power at 5 %, in points.

    It is (t(0.975) + t(0.8)) times the median standard error of the pairs (Bloom 1995), without Holm's adjustment.
    """
    sizes = [
        (t_quantile(1 - (1 - LEVEL) / 2, pair.gain.degrees) + t_quantile(POWER, pair.gain.degrees)) * pair.gain.error
        for pair in pairs
        if pair.gain.error is not None
    ]
    return float(np.median(sizes)) if sizes else None


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation tau-b of two scores of the same things (Kendall 1945), in [-1, 1]; ties count for neither.

    Returns:
        NaN with fewer than two things, or where one of the scores is the same for all.
    """
    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    i, j = np.triu_indices(len(x), k=1)
    signs_x, signs_y = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
    scale = math.sqrt(float(np.abs(signs_x).sum()) * float(np.abs(signs_y).sum()))
    return float((signs_x * signs_y).sum()) / scale if scale else math.nan


def area_under_curve(examples: Sequence[float], gains: Sequence[float], budget: float) -> float:
    """Mean height of the gain-by-data curve: trapezoids, the last gain held until the budget.

    Args:
        examples: Examples submitted up to each iteration, not falling, from 0.
        gains: Gain at each iteration, from 0.
        budget: Examples up to which the area is taken, at least 1; a longer curve is taken whole.

    Returns:
        The area divided by its width, in the unit of `gains`.
    """
    end = max(budget, examples[-1])
    x, y = np.array([*examples, end], dtype=float), np.array([*gains, gains[-1]], dtype=float)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / end)


def decompose(gains: Array, factors: Mapping[str, Sequence[str]]) -> list[Component]:
    """Splits the variance of one cell's gains into what varies: seeds, problems, and both together.

    The model is a sum of independent effects: of each factor's levels, of runs (what the factors leave), of problems,
    of problems with each factor's levels, and of single answers (the residual). Components are found by the method of
    moments: the sums of squares and products of runs are set equal to what the model expects (Rao 1972, "Estimation
    of variance and covariance components in linear models", with equal weights). In a balanced design that is the
    analysis of variance (Searle, Casella and McCulloch 1992, chapter 4); in any other it is without bias. Bouthillier
    et al. 2021, "Accounting for variance in machine learning benchmarks", say what the components are good for.

    Args:
        gains: Points, shape (R, P): runs by problems.
        factors: By name, the level that each of the R runs has, such as the student variant.

    Returns:
        Each factor, `"run"`, `"problems"`, each `"FACTOR × problems"` and `"residual"`. What always changes together
        cannot be told apart; where its sum is known, that is one more component.

    Raises:
        ValueError: If a factor has not one level for each run, or there are fewer than two problems.
    """
    return [_component(name, found) for name, found in _moments(gains, factors).items()]


def variance_components(cells: Sequence[Cell]) -> list[Component]:
    """Averages the variance components of a teacher's cells, weighted as in the headline.

    The factors are `SEED_FACTORS`, read from the seeds' names; `"seed"` where names have other parts. Seeds that a
    suite numbers alike change together: only the sum of their components is known then.

    Returns:
        As `decompose` does; cells that do not tell a component are left out of its average.
    """
    found: dict[str, list[tuple[float, float | str]]] = {}
    for cell, weight in zip(cells, weights(cells), strict=True):
        levels = [seed.split("-") for seed in cell.seeds]
        named = all(len(parts) == len(SEED_FACTORS) for parts in levels)
        factors = dict(zip(SEED_FACTORS, zip(*levels, strict=True), strict=True)) if named else {"seed": cell.seeds}
        for name, value in _moments(cell.gains, factors).items():
            found.setdefault(name, []).append((weight, value))
    out = []
    for name, values in found.items():
        told = [(weight, value) for weight, value in values if not isinstance(value, str)]
        total = sum(weight for weight, _ in told)
        out.append(_component(name, sum(w * value for w, value in told) / total if told else values[0][1]))
    return out


def _component(name: str, found: float | str) -> Component:
    return Component(name, math.nan, found) if isinstance(found, str) else Component(name, max(found, 0.0))


def _moments(gains: Array, factors: Mapping[str, Sequence[str]]) -> dict[str, float | str]:
    """Components by name, in squared points and perhaps negative, or the reason why there is none."""
    runs, problems = gains.shape
    if problems < 2 or any(len(levels) != runs for levels in factors.values()):
        raise ValueError(f"gains of shape {gains.shape} with {[len(v) for v in factors.values()]} levels")
    one, every = np.eye(runs), np.ones((runs, runs))
    # Which runs share a level of each factor.
    same = {name: np.array([[a == b for b in of] for a in of], dtype=float) for name, of in factors.items()}
    told: dict[str, float | str] = {name: "the same in all runs" for name, shared in same.items() if shared.all()}
    told |= {f"{name} × problems": reason for name, reason in told.items()}
    same = {name: shared for name, shared in same.items() if name not in told}
    crossed = {f"{name} × problems": shared for name, shared in same.items() if (shared != one).any()}
    told |= {
        f"{name} × problems": f"part of the residual: each run has its own {name}"
        for name in same
        if f"{name} × problems" not in crossed
    }
    # Deviations from each run's mean hold only what differs by problem.
    by_problem = gains - gains.mean(axis=1, keepdims=True)
    within, fitted = _fit(by_problem @ by_problem.T / (problems - 1), {"problems": every, **crossed, "residual": one})
    # The means of runs hold the rest, and a P-th of that.
    means = gains.mean(axis=1) - gains.mean()
    centre = one - every / runs
    between, _ = _fit(
        np.outer(means, means) - centre @ fitted @ centre / problems,
        {name: centre @ shared @ centre for name, shared in (same | {"run": one}).items()},
    )
    return between | within | told


def _fit(moments: Array, terms: Mapping[str, Array]) -> tuple[dict[str, float | str], Array]:
    """Least squares of a matrix of moments on what each component adds to it; also the matrix that it fits."""
    names, design = list(terms), np.array([term.ravel() for term in terms.values()])
    gram = design @ design.T
    values, vectors = np.linalg.eigh(gram)
    # What can be added to the components without a change of any moment.
    free = vectors[:, values < 1e-9 * max(float(values.max()), 1.0)]
    solution = np.linalg.pinv(gram, rcond=1e-9, hermitian=True) @ (design @ moments.ravel())
    out: dict[str, float | str] = {}
    for i, name in enumerate(names):
        others = [names[j] for j in np.flatnonzero(np.abs(free @ free[i]) > 1e-6) if j != i]
        if np.abs(free[i]).max(initial=0.0) > 1e-6:
            out[name] = f"changes together with {', '.join(others)}" if others else "there is one run only"
        else:
            out[name] = float(solution[i])
    for i, name in enumerate(names):
        alike = [j for j in range(len(names)) if np.abs(design[j] - design[i]).max() < 1e-9]
        total = np.isin(np.arange(len(names)), alike)
        told = np.abs(total @ free).max(initial=0.0) < 1e-6
        if isinstance(out[name], str) and len(alike) > 1 and alike[0] == i and told:
            out[" + ".join(names[j] for j in alike)] = float(solution[alike].sum())
    return out, (solution @ design).reshape(moments.shape)


def t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t distribution: probability in [0.5, 1), at least one degree of freedom."""
    if degrees > _NORMAL_ABOVE:
        return NormalDist().inv_cdf(probability)
    # P(|T| < sqrt(degrees) tan(angle)) is concave in the angle: Newton's steps from 0 never pass the solution.
    mass, angle = 2 * probability - 1, 0.0
    for _ in range(200):
        slope = 2 * math.exp(-_log_beta(degrees / 2, 0.5)) * math.cos(angle) ** (degrees - 1)
        step = (mass - 1 + t_two_sided(math.sqrt(degrees) * math.tan(angle), degrees)) / slope
        angle += step
        if abs(step) < 1e-14:
            break
    return math.sqrt(degrees) * math.tan(angle)


def t_two_sided(t: float, degrees: float) -> float:
    """The probability of a value of Student's t at least as far from 0."""
    if degrees > _NORMAL_ABOVE:
        return 2 * NormalDist().cdf(-abs(t))
    return _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t), t * t / (degrees + t * t))


_NORMAL_ABOVE: Final = 1e6


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularized incomplete beta function of x = 1 - rest, by its continued fraction (DLMF 8.17.22, Lentz)."""
    if x <= 0 or rest <= 0:
        return float(rest <= 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, rest, x)
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + term * d), 1 + term / c
            fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return math.exp(a * math.log(x) + b * math.log(rest) - _log_beta(a, b)) * fraction / a


def _shared(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    if all(other == names[0] for other in names[1:]):
        return names[0]
    rest = [set(n) for n in names[1:]]
    return tuple(name for name in names[0] if all(name in other for other in rest))


def _select(cell: Cell, seeds: tuple[str, ...], problems: tuple[str, ...]) -> Array:
    if seeds == cell.seeds and problems == cell.problems:
        return cell.gains
    rows = [cell.seeds.index(seed) for seed in seeds]
    place = {problem: i for i, problem in enumerate(cell.problems)}
    return cell.gains[np.ix_(rows, [place[problem] for problem in problems])]
