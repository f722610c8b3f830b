"""The leaderboard's statistics: pure functions of gains, on numpy alone.

The unit is the *point*: 100 times a difference of test scores. A teacher's result in a `Cell` (a domain and the
student that learns it) is a matrix of gains over the untrained student, seeds by problems; the cell score is its
mean, and the headline the mean over domains of the cell scores.

Two things are random: the seeds of an episode, and the problems that happen to be in the test set. Both are
resampled: seeds within their cell, problems once per data set, so that cells, teachers and seeds share a draw. A
stratified bootstrap over runs is what Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
statistical precipice", recommend; with three to ten seeds it needs three corrections. The deviations of seeds
from their mean are scaled by sqrt(S / (S - 1)), since a resample of S seeds has a variance too small by
(S - 1) / S. The interval is widened by the ratio of the t to the normal quantile. And noise that belongs to one
seed and problem alone would be counted by the seeds, by the problems and by both together (Owen 2007, "The
pigeonhole bootstrap"): means are therefore resampled, not single entries, and the deviations of problems are
shrunk by the share of their variance that a two-way analysis of variance gives to such noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
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

_CHUNK: Final = 1000


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


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity with its uncertainty, in points.

    Attributes:
        value: The estimate.
        interval: The bootstrap interval at `LEVEL`; `None` with fewer than three seeds.
        error: The bootstrap standard error; `None` as above.
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
    """

    gain: Estimate
    improvement: float
    p_value: float | None
    adjusted: float | None = None


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
        total = np.zeros(self.resamples)
        for cell, weight in zip(cells, weights(cells), strict=True):
            seeds, problems = cell.gains.shape
            of_seeds, of_problems = deviations(cell.gains)
            drawn_seeds = self._resample(f"seeds of {cell.domain}, {cell.student}", seeds)
            drawn_problems = self._resample(f"problems of {cell.domain}", problems)
            for start in range(0, self.resamples, _CHUNK):
                part = slice(start, start + _CHUNK)
                total[part] += weight * (drawn_seeds[part] @ of_seeds) / seeds
                total[part] += weight * (drawn_problems[part] @ of_problems) / problems
        return total

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


def weights(cells: Sequence[Cell]) -> list[float]:
    """Weights of cells in the headline: domains count alike, and cells of a domain alike."""
    domains = [cell.domain for cell in cells]
    return [1 / (len(set(domains)) * domains.count(domain)) for domain in domains]


def headline(cells: Sequence[Cell]) -> float:
    """The mean over domains of the cell scores, in points."""
    return sum(weight * cell.score for cell, weight in zip(cells, weights(cells), strict=True))


def estimate(cells: Sequence[Cell], bootstrap: Bootstrap) -> Estimate:
    """Estimates the headline with its interval; gains that are all zero give exactly 0 and [0, 0]."""
    value = headline(cells)
    if min(len(cell.seeds) for cell in cells) < MIN_SEEDS_INTERVAL:
        return Estimate(value)
    draws = bootstrap.draw(cells)
    error = float(draws.std())
    degrees = degrees_of_freedom(cells)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    widening = t_quantile(1 - tail, degrees) / t_quantile(1 - tail, math.inf) if degrees < T_BELOW else 1.0
    interval = (value + widening * float(low), value + widening * float(high))
    return Estimate(value, interval, error, degrees)


def deviations(gains: Array) -> tuple[Array, Array]:
    """Splits gains into what resampling draws from.

    Args:
        gains: Shape (S, P).

    Returns:
        Deviations of the seeds' means from the mean, scaled by sqrt(S / (S - 1)), shape (S,); and those of the
        problems' means, shape (P,), shrunk to the variance that problems explain beyond noise.
    """
    seeds, problems = gains.shape
    mean = gains.mean()
    of_seeds, of_problems = gains.mean(axis=1) - mean, gains.mean(axis=0) - mean
    if seeds > 1 and problems > 1:
        noise = gains - mean - of_seeds[:, None] - of_problems
        explained = seeds * float((of_problems**2).sum())
        expected = float((noise**2).sum()) / (seeds - 1)
        of_problems = of_problems * math.sqrt(max(0.0, 1 - expected / explained) if explained else 0.0)
    return of_seeds * math.sqrt(seeds / max(seeds - 1, 1)), of_problems


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
    values = np.sort(np.concatenate([cell.by_seed for cell in cells]))
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


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
    negative = [Cell(c.domain, c.student, c.seeds, c.problems, -c.gains) for c in second]
    # The mean of a and -b is half of their difference.
    halves = average([first, negative])
    if not halves:
        return None
    cells = [Cell(c.domain, c.student, c.seeds, c.problems, 2 * c.gains) for c in halves]
    gain = estimate(cells, bootstrap)
    improvement = sum(
        weight * float(np.mean((cell.by_seed > 0) + 0.5 * (cell.by_seed == 0)))
        for cell, weight in zip(cells, weights(cells), strict=True)
    )
    if gain.error is None:
        return Difference(gain, improvement, None)
    if gain.error == 0:
        return Difference(gain, improvement, float(gain.value == 0))
    return Difference(gain, improvement, t_two_sided(gain.value / gain.error, gain.degrees))


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
    pairs = {}
    for j in range(len(teachers)):
        for i in range(j):
            found = difference(teachers[i], teachers[j], bootstrap)
            if found is not None:
                pairs[i, j] = found
    tested = {key: pair.p_value for key, pair in pairs.items() if pair.p_value is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {
        key: Difference(pair.gain, pair.improvement, pair.p_value, adjusted.get(key)) for key, pair in pairs.items()
    }


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


def t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t distribution, for a probability from 0.5 and at least one degree of freedom."""
    if degrees > _NORMAL_ABOVE:
        return NormalDist().inv_cdf(probability)
    angle, mass = _t_mass(degrees)
    return math.sqrt(degrees) * math.tan(float(np.interp(2 * probability - 1, mass, angle)))


def t_two_sided(t: float, degrees: float) -> float:
    """The probability of a value of Student's t at least as far from 0."""
    if degrees > _NORMAL_ABOVE:
        return 2 * NormalDist().cdf(-abs(t))
    angle, mass = _t_mass(degrees)
    return 1 - float(np.interp(math.atan(abs(t) / math.sqrt(degrees)), angle, mass))


_NORMAL_ABOVE: Final = 1000.0


@cache
def _t_mass(degrees: float) -> tuple[Array, Array]:
    """P(|T| < sqrt(degrees) tan(angle)): with this substitution the density is cos(angle)^(degrees - 1)."""
    angle = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(angle).clip(0) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return angle, mass / mass[-1]


def _shared(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    rest = [set(n) for n in names[1:]]
    return tuple(name for name in names[0] if all(name in other for other in rest))


def _select(cell: Cell, seeds: tuple[str, ...], problems: tuple[str, ...]) -> Array:
    rows = [cell.seeds.index(seed) for seed in seeds]
    place = {problem: i for i, problem in enumerate(cell.problems)}
    return cell.gains[np.ix_(rows, [place[problem] for problem in problems])]
