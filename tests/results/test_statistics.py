"""The statistics, against hand-computed and analytic cases."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgym.results import statistics
from dgym.results.statistics import Bootstrap, Cell, Difference, Estimate

BOOTSTRAP = Bootstrap(2000)


def cell(gains, domain="math", student="small"):
    gains = np.asarray(gains, dtype=float)
    return Cell(domain, student, *(tuple(map(str, range(n))) for n in gains.shape), gains)


def layout(rng, seeds, problems, *, mean=10.0, of_seeds=4.0, of_problems=20.0, noise=45.0):
    """Gains with normal effects of seeds and problems, in points."""
    shape = (seeds, problems)
    return (
        mean
        + rng.normal(0, of_seeds, (seeds, 1))
        + rng.normal(0, of_problems, (1, problems))
        + rng.normal(0, noise, shape)
    )


def test_the_headline_is_the_mean_over_domains_of_cell_scores():
    cells = [cell([[10.0]]), cell([[30.0]], student="large"), cell([[0.0], [2.0]], domain="code")]
    assert statistics.headline(cells) == pytest.approx(((10 + 30) / 2 + 1) / 2)


def test_zero_gains_give_exactly_zero():
    found = statistics.estimate([cell(np.zeros((3, 50)))], BOOTSTRAP)
    assert (found.value, found.interval, found.error) == (0.0, (0.0, 0.0), 0.0)


def test_fewer_than_three_seeds_give_no_interval():
    rng = np.random.default_rng(0)
    assert statistics.estimate([cell(layout(rng, 2, 50))], BOOTSTRAP).interval is None
    assert statistics.estimate([cell(layout(rng, 3, 50))], BOOTSTRAP).interval is not None
    mixed = [cell(layout(rng, 5, 50)), cell(layout(rng, 2, 50), domain="code")]
    assert statistics.estimate(mixed, BOOTSTRAP).interval is None


@pytest.mark.parametrize("seeds", [3, 10, 40])
def test_the_error_of_seeds_alone_is_the_analytic_one(seeds):
    gains = np.random.default_rng(seeds).normal(0, 5, (seeds, 1)) @ np.ones((1, 30))
    found = statistics.estimate([cell(gains)], Bootstrap(10_000))
    error = gains[:, 0].std(ddof=1) / math.sqrt(seeds)
    assert found.error == pytest.approx(error, rel=0.03)
    if seeds >= 10:
        quantile = statistics.t_quantile(0.975, seeds - 1) if seeds - 1 < 20 else 1.96
        low, high = found.interval
        assert (high - low) / 2 == pytest.approx(quantile * error, rel=0.05)


def test_the_error_of_problems_alone_is_the_analytic_one():
    problems = np.random.default_rng(1).normal(0, 30, (1, 400))
    found = statistics.estimate([cell(np.ones((5, 1)) @ problems)], Bootstrap(10_000))
    assert found.error == pytest.approx(problems.std() / 20, rel=0.03)
    low, high = found.interval
    assert (high - low) / 2 == pytest.approx(1.96 * found.error, rel=0.05)


def test_the_mean_squared_error_of_a_two_way_layout_is_its_variance():
    rng = np.random.default_rng(2)
    found = [statistics.estimate([cell(layout(rng, 6, 80))], Bootstrap(500)).error ** 2 for _ in range(150)]
    truth = 4.0**2 / 6 + 20.0**2 / 80 + 45.0**2 / (6 * 80)
    assert np.mean(found) == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize(("seeds", "domains"), [(3, 1), (5, 3), (10, 1)])
def test_intervals_cover_the_truth(seeds, domains):
    rng = np.random.default_rng(3)
    bootstrap = Bootstrap(1000)
    covered = 0
    for _ in range(150):
        cells = [cell(layout(rng, seeds, 100), domain=str(d)) for d in range(domains)]
        low, high = statistics.estimate(cells, bootstrap).interval
        covered += low <= 10 <= high
    assert covered / 150 > 0.91


def test_problems_are_resampled_once_per_data_set():
    problems = np.ones((5, 1)) @ np.random.default_rng(4).normal(0, 30, (1, 100))
    same = [cell(problems), cell(problems, student="large")]
    other = [cell(problems), cell(problems, domain="code")]
    one = statistics.estimate([cell(problems)], BOOTSTRAP).error
    assert statistics.estimate(same, BOOTSTRAP).error == pytest.approx(one)
    assert statistics.estimate(other, BOOTSTRAP).error == pytest.approx(one / math.sqrt(2), rel=0.1)


def test_draws_depend_on_the_seed_alone():
    cells = [cell(layout(np.random.default_rng(5), 5, 40))]
    assert statistics.estimate(cells, Bootstrap(500, seed=1)) == statistics.estimate(cells, Bootstrap(500, seed=1))
    assert statistics.estimate(cells, Bootstrap(500, seed=1)) != statistics.estimate(cells, Bootstrap(500, seed=2))


def test_a_shared_shift_leaves_paired_differences_alone():
    rng = np.random.default_rng(6)
    weak, shift = layout(rng, 6, 60), layout(rng, 6, 60, of_seeds=30)
    found = statistics.difference([cell(weak + shift + 5)], [cell(weak + shift)], BOOTSTRAP)
    assert found.gain.value == pytest.approx(5)
    assert found.gain.interval == pytest.approx((5, 5))
    assert found.improvement == 1
    assert found.p_value < 1e-6


def test_pairs_use_shared_seeds_and_problems_only():
    first = Cell("math", "s", ("1", "2"), ("a", "b"), np.array([[1.0, 2.0], [3.0, 4.0]]))
    second = Cell("math", "s", ("2", "3"), ("b", "c"), np.array([[10.0, 0.0], [0.0, 0.0]]))
    found = statistics.difference([first], [second], BOOTSTRAP)
    assert (found.gain.value, found.improvement, found.p_value) == (-6.0, 0.0, None)
    elsewhere = cell([[1.0]], domain="code")
    assert statistics.difference([first], [elsewhere], BOOTSTRAP) is None


def test_a_teacher_does_not_differ_from_itself():
    one = [cell(layout(np.random.default_rng(7), 5, 40))]
    pairs = statistics.compare([one, one], BOOTSTRAP)
    assert (pairs[0, 1].gain.interval, pairs[0, 1].improvement, pairs[0, 1].adjusted) == ((0, 0), 0.5, 1)
    assert statistics.rank_intervals(2, pairs) == [(1, 2), (1, 2)]


def test_clear_differences_order_the_ranks():
    rng = np.random.default_rng(8)
    teachers = [[cell(layout(rng, 6, 200, mean=mean, of_seeds=1))] for mean in (0, 40, 41)]
    pairs = statistics.compare(teachers, BOOTSTRAP)
    assert statistics.rank_intervals(3, pairs) == [(3, 3), (1, 2), (1, 2)]


def test_holm_by_hand():
    # Sorted 0.005 0.01 0.03 0.04, times 4 3 2 1: 0.02 0.03 0.06 0.04, made monotone.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_raw_and_the_bonferroni_values(p_values):
    for raw, adjusted in zip(p_values, statistics.holm(p_values), strict=True):
        assert raw <= adjusted <= min(1, raw * len(p_values)) + 1e-12


@pytest.mark.parametrize(
    ("gains", "added"),
    [([[10, 20], [4, 2]], [0, 0]), ([[10, 20], [-4, 2]], [-4, 2]), (np.zeros((0, 2)), [0, 0])],
)
def test_a_failure_counts_as_the_lower_of_zero_and_the_worst_seed(gains, added):
    gains = np.array(gains, dtype=float)
    filled = statistics.with_failures(gains, 2)
    assert filled[: len(gains)].tolist() == gains.tolist()
    assert filled[len(gains) :].tolist() == [added, added]


def test_interquartile_mean_drops_a_quarter_at_either_end():
    assert statistics.interquartile_mean([cell([[v] for v in (100.0, 1, 2, 3, -50, 4, 5, 90)])]) == 3.5
    assert statistics.interquartile_mean([cell([[0.0], [3.0], [9.0]])]) == 4


def test_tracks_are_averaged_seed_by_seed():
    found = statistics.average([[cell([[2.0], [4.0]])], [cell([[4.0], [10.0], [7.0]])]])
    assert found[0].gains.tolist() == [[3], [7]]


def test_minimum_detectable_difference_of_a_normal_error():
    pair = Difference(Estimate(1.0, (0.0, 2.0), 2.0, math.inf), 0.5, 0.5)
    assert statistics.minimum_detectable_difference([pair]) == pytest.approx(2 * (1.95996 + 0.84162), rel=1e-4)
    assert statistics.minimum_detectable_difference([Difference(Estimate(1.0), 0.5, None)]) is None


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (2.5, 3.5746), (9, 2.26216), (100, 1.98397), (1e6, 1.95996)]
)
def test_t_quantiles_are_those_of_the_tables(degrees, quantile):
    assert statistics.t_quantile(0.975, degrees) == pytest.approx(quantile, rel=1e-4)
    assert statistics.t_two_sided(-quantile, degrees) == pytest.approx(0.05, rel=1e-3)


def test_area_holds_the_last_gain_until_the_budget():
    assert statistics.area_under_curve([0, 100], [0, 10], 100) == 5
    assert statistics.area_under_curve([0, 100], [0, 10], 200) == 7.5
    assert statistics.area_under_curve([0, 400], [0, 10], 200) == 5
    assert statistics.area_under_curve([0, 0, 0], [0, 0, 0], 300) == 0


def test_a_matrix_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="shape"):
        Cell("math", "s", ("1",), ("a", "b"), np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        # Worked out by hand: of six pairs one is tied in the first; four agree and one does not.
        ([1, 1, 2, 3], [1, 2, 4, 3], 3 / (5 * 6) ** 0.5),
    ],
)
def test_kendalls_tau(first, second, tau):
    assert statistics.kendall_tau(first, second) == pytest.approx(tau)


def test_kendalls_tau_of_nothing_is_no_number():
    assert math.isnan(statistics.kendall_tau([1], [1]))
    assert math.isnan(statistics.kendall_tau([1, 1], [1, 2]))
