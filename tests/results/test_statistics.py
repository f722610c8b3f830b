"""The statistics, against hand-computed and analytic cases, scipy, and figures of rliable (`rliable_reference`)."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
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


def test_what_students_share_of_a_problem_is_not_taken_for_noise():
    """Ten students of a data set find the same problems hard: their mean is as uncertain as these are."""
    rng, squares = np.random.default_rng(0), []
    for _ in range(20):
        shared = rng.normal(0, 20, (1, 400))
        cells = [cell(layout(rng, 3, 400, of_problems=0) + shared, student=str(i)) for i in range(10)]
        squares.append(statistics.estimate(cells, BOOTSTRAP).error ** 2)
    true = 20**2 / 400 + 4**2 / 30 + 45**2 / (30 * 400)
    assert np.mean(squares) == pytest.approx(true, rel=0.1)


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


# --------------------------------------------------------------------------------------------------------------
# Many at once


def test_many_headlines_at_once_are_the_same_bits_as_one_by_one():
    rng = np.random.default_rng(20)
    many = [
        [cell(layout(rng, 3 + i % 3, 40), domain=d, student=s) for d in ("math", "code") for s in ("a", "b")]
        for i in range(5)
    ]
    together = Bootstrap(300).draw_all(many)
    for cells, draws in zip(many, together, strict=True):
        assert Bootstrap(300).draw(cells).tolist() == draws.tolist()


def test_comparing_many_is_the_same_bits_as_comparing_two():
    rng = np.random.default_rng(21)
    teachers = [[cell(layout(rng, 4, 50), domain=d) for d in ("math", "code")] for _ in range(4)]
    for (i, j), pair in statistics.compare(teachers, Bootstrap(300)).items():
        alone = statistics.difference(teachers[i], teachers[j], Bootstrap(300))
        assert (pair.gain, pair.p_value) == (alone.gain, alone.p_value)
        assert (pair.improvement, pair.improvement_interval) == (alone.improvement, alone.improvement_interval)


# --------------------------------------------------------------------------------------------------------------
# Interquartile mean


def test_the_interval_of_the_interquartile_mean_is_the_headlines_where_all_is_in_the_middle():
    # With three values nothing is left out.
    cells = [cell(layout(np.random.default_rng(22), 3, 80))]
    found, headline = statistics.estimate_interquartile_mean(cells, BOOTSTRAP), statistics.estimate(cells, BOOTSTRAP)
    assert found.interval == pytest.approx(headline.interval, abs=1e-9)
    assert (found.value, found.error) == pytest.approx((headline.value, headline.error))
    assert found.degrees == pytest.approx(headline.degrees)


def test_cells_at_the_ends_bear_no_error_of_the_interquartile_mean():
    rng = np.random.default_rng(23)
    middle = [cell(layout(rng, 6, 80, mean=mean), domain=f"middle {mean}") for mean in (9, 11)]
    calm = [cell(np.full((6, 80), float(mean)), domain=f"end {mean}") for mean in (-500, 500)]
    wild = [cell(layout(rng, 6, 80, mean=mean, of_seeds=40), domain=f"end {mean}") for mean in (-500, 500)]
    found = [statistics.estimate_interquartile_mean([*middle, *ends], BOOTSTRAP).error for ends in (calm, wild)]
    assert found[0] == pytest.approx(found[1])
    headlines = [statistics.estimate([*middle, *ends], BOOTSTRAP).error for ends in (calm, wild)]
    assert headlines[1] > 2 * headlines[0]


def test_problems_count_in_the_interval_of_the_interquartile_mean():
    problems = np.ones((5, 1)) @ np.random.default_rng(24).normal(0, 30, (1, 400))
    cells = [cell(problems), cell(problems, student="large")]
    found = statistics.estimate_interquartile_mean(cells, Bootstrap(10_000))
    assert found.error == pytest.approx(problems.std() / 20, rel=0.03)


def test_too_few_seeds_give_no_interval_of_anything():
    rng = np.random.default_rng(25)
    few, other = [cell(layout(rng, 2, 30))], [cell(layout(rng, 5, 30))]
    assert statistics.estimate_interquartile_mean(few, BOOTSTRAP).interval is None
    for pair in ((few, other), (other, few)):
        assert statistics.probability_of_improvement(*pair).interval is None
        assert statistics.difference(*pair, BOOTSTRAP).improvement_interval is None
    assert statistics.performance_profile(few, [0.0]).low is None


def test_what_cells_share_of_a_problem_is_not_shrunk_with_the_noise():
    rng = np.random.default_rng(28)
    shared = rng.normal(0, 20, 3000)
    gains = [rng.normal(0, 5, (3, 1)) + shared + rng.normal(0, 40, (3, 3000)) for _ in range(5)]
    joint = statistics.joint_deviations(gains)
    assert joint @ joint.T / 3000 == pytest.approx(np.full((5, 5), 400.0), rel=0.15)
    alone = np.array([statistics.deviations(one)[1] for one in gains])
    assert np.diag(alone @ alone.T) / 3000 == pytest.approx(400, rel=0.15)
    assert (alone[0] @ alone[1]) / 3000 < 250
    assert statistics.joint_deviations(gains[:1]).tolist() == alone[:1].tolist()


def test_gains_that_are_all_zero_have_an_interquartile_mean_of_exactly_zero():
    cells = [cell(np.zeros((3, 50)), student=name) for name in "ab"]
    found = statistics.estimate_interquartile_mean(cells, BOOTSTRAP)
    assert (found.value, found.interval, found.error) == (0.0, (0.0, 0.0), 0.0)


# --------------------------------------------------------------------------------------------------------------
# Proportions


def test_wilson_by_hand():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 29 of 29.
    for (successes, trials), ends in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (29, 29): (0.8830, 1),
    }.items():
        assert statistics.wilson(successes, trials) == pytest.approx(ends, abs=6e-5)


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_is_scipys(trials, part, level):
    successes = round(part * trials)
    ours = statistics.wilson(successes, trials, level)
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours[0] <= successes / trials <= ours[1] <= 1


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(successes, trials):
    with pytest.raises(ValueError, match="successes"):
        statistics.wilson(successes, trials)


def runs(values, domain="math"):
    """A cell whose runs have the given gains."""
    return cell(np.asarray(values, dtype=float)[:, None], domain)


def test_probability_of_improvement_by_hand():
    # Of nine comparisons the first wins five and ties one.
    first, second = [runs([1, 5, 6])], [runs([2, 5, 3])]
    found = statistics.probability_of_improvement(first, second)
    assert found.value == pytest.approx(5.5 / 9)
    low, high = found.interval
    assert 0 < low < found.value < high < 1
    # Domains count alike; on the same seed the first wins one of three and ties one.
    both = statistics.probability_of_improvement([*first, runs([9, 9, 9], "code")], [*second, runs([1, 1, 1], "code")])
    assert both.value == pytest.approx((5.5 / 9 + 1) / 2)
    assert statistics.difference(first, second, BOOTSTRAP).improvement == pytest.approx(0.5)


def test_a_probability_of_improvement_is_mirrored():
    rng = np.random.default_rng(26)
    first, second = (
        [runs(rng.normal(1, 1, 5)), runs(rng.normal(0, 1, 4), "code")],
        [
            runs(rng.normal(0, 1, 5)),
            runs(rng.normal(0, 1, 5), "code"),
        ],
    )
    one, other = (statistics.probability_of_improvement(*pair) for pair in ((first, second), (second, first)))
    assert one.value == pytest.approx(1 - other.value)
    assert one.interval == pytest.approx((1 - other.interval[1], 1 - other.interval[0]))


def test_a_clear_improvement_still_has_a_width():
    first = [runs([9, 8, 7, 9, 8], domain) for domain in "ab"]
    second = [runs([1, 2, 3, 1, 2], domain) for domain in "ab"]
    found = statistics.probability_of_improvement(first, second)
    # As many comparisons as runs.
    assert (found.value, found.interval) == (1, pytest.approx(statistics.wilson(20, 20)))
    paired = statistics.difference(first, second, BOOTSTRAP)
    assert (paired.improvement, paired.improvement_interval) == (1, pytest.approx(statistics.wilson(10, 10)))


def test_the_error_of_an_improvement_knows_that_runs_share_seeds():
    rng = np.random.default_rng(27)
    shared = rng.normal(0, 4, 40)
    first, second = shared + rng.normal(1, 1, 40), shared + rng.normal(0, 1, 40)
    names = tuple(map(str, range(40)))

    def cells(values, seeds):
        return [Cell("math", "small", seeds, ("p",), values[:, None])]

    tied = statistics.probability_of_improvement(cells(first, names), cells(second, names))
    apart = statistics.probability_of_improvement(cells(first, names), cells(second, tuple(f"x{n}" for n in names)))
    assert tied.value == apart.value
    assert tied.error < 0.7 * apart.error


def test_improvement_needs_a_cell_and_problems_in_common():
    one = [cell([[1.0, 2.0]] * 3)]
    assert statistics.probability_of_improvement(one, [cell([[1.0]] * 3, domain="code")]) is None
    elsewhere = [Cell("math", "small", ("0", "1", "2"), ("x", "y"), np.ones((3, 2)))]
    assert statistics.probability_of_improvement(one, elsewhere) is None


def test_a_performance_profile_by_hand():
    cells = [runs([1, 2, 3]), runs([2, 2, 8], "code")]
    found = statistics.performance_profile(cells, [0, 2, 5, 9])
    assert found.fractions == pytest.approx([1, 1 / 3, 1 / 6, 0])
    assert found.low[0] == pytest.approx(statistics.wilson(6, 6)[0])
    assert found.high[3] == pytest.approx(statistics.wilson(0, 6)[1])
    assert np.all((found.low <= found.fractions) & (found.fractions <= found.high))


def test_the_width_of_a_profile_is_that_of_a_bootstrap_with_one_run_less():
    # p (1 - p) / (S - 1): as wide as four independent runs.
    found = statistics.performance_profile([runs([1, 2, 3, 4, 5])], [2.5])
    assert (found.low[0], found.high[0]) == pytest.approx(statistics.wilson(0.6 * 4, 4))


def test_cells_that_are_all_alike_within_are_not_taken_for_certain():
    # Runs above 0: all, none, four of five. The variance, of the third cell alone, would stand for 54 runs.
    cells = [runs([1] * 5, "a"), runs([-1] * 5, "b"), runs([1, 1, 1, 1, -1], "c")]
    found = statistics.performance_profile(cells, [0])
    shrunk = np.array([5.5, 0.5, 4.5]) / 6
    trials = shrunk.mean() * (1 - shrunk.mean()) / (sum(shrunk * (1 - shrunk)) / 5 / 9)
    assert 30 < trials < 35
    assert (found.low[0], found.high[0]) == pytest.approx(statistics.wilson(0.6 * trials, trials))


@given(st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=6), min_size=1, max_size=5))
def test_a_performance_profile_never_rises(values):
    cells = [runs(v, str(i)) for i, v in enumerate(values)]
    found = statistics.performance_profile(cells, np.linspace(-101, 100, 30))
    assert found.fractions[0] == pytest.approx(1)
    assert found.fractions[-1] == pytest.approx(0)
    assert np.all(np.diff(found.fractions) <= 1e-12)
    assert np.all((found.low <= found.fractions + 1e-12) & (found.fractions <= found.high + 1e-12))


# --------------------------------------------------------------------------------------------------------------
# Variance components


def parts(components):
    return {c.source: c.variance for c in components}


def crossed(rng, variants, trainings, problems):
    """Gains of every variant with every training seed, with every effect there is, and their factors."""
    v, t = (levels.ravel() for levels in np.meshgrid(range(variants), range(trainings), indexing="ij"))
    gains = (
        rng.normal(0, 9, (variants, 1))[v]
        + rng.normal(0, 6, (trainings, 1))[t]
        + rng.normal(0, 3, (len(v), 1))
        + rng.normal(0, 20, problems)
        + rng.normal(0, 15, (variants, problems))[v]
        + rng.normal(0, 10, (trainings, problems))[t]
        + rng.normal(0, 30, (len(v), problems))
    )
    return gains, {"variant": list(map(str, v)), "training": list(map(str, t))}


def test_components_of_a_crossed_design_are_those_of_the_analysis_of_variance():
    gains, factors = crossed(np.random.default_rng(30), 4, 3, 50)
    cube = gains.reshape(4, 3, 50)

    def square(*kept):
        """Sum of squares of an interaction over its degrees of freedom (Searle et al. 1992, section 4.2)."""
        effect = cube
        for axis in range(3):
            mean = effect.mean(axis=axis, keepdims=True)
            effect = effect - mean if axis in kept else mean
        sizes = [cube.shape[axis] for axis in range(3)]
        free = math.prod(n - 1 for axis, n in enumerate(sizes) if axis in kept)
        return float((effect**2).sum()) * math.prod(n for axis, n in enumerate(sizes) if axis not in kept) / free

    expected = {
        "residual": square(0, 1, 2),
        "variant × problems": (square(0, 2) - square(0, 1, 2)) / 3,
        "training × problems": (square(1, 2) - square(0, 1, 2)) / 4,
        "problems": (square(2) - square(0, 2) - square(1, 2) + square(0, 1, 2)) / 12,
        "run": (square(0, 1) - square(0, 1, 2)) / 50,
        "variant": (square(0) - square(0, 1) - square(0, 2) + square(0, 1, 2)) / 150,
        "training": (square(1) - square(0, 1) - square(1, 2) + square(0, 1, 2)) / 200,
    }
    assert min(expected.values()) > 0
    assert parts(statistics.decompose(gains, factors)) == pytest.approx(expected)


def test_components_are_without_bias_where_training_seeds_are_nested_in_variants_and_some_are_missing():
    rng = np.random.default_rng(31)
    variant = np.repeat(range(12), [4, 3, 4, 2, 4, 4, 3, 4, 4, 2, 4, 4])
    found = []
    for _ in range(150):
        gains = rng.normal(0, 9, (12, 1))[variant] + rng.normal(0, 6, (len(variant), 1))
        gains = gains + rng.normal(0, 20, 40) + rng.normal(0, 30, (len(variant), 40))
        found.append(parts(statistics.decompose(gains, {"variant": list(map(str, variant))})))
    mean = {name: np.mean([one[name] for one in found]) for name in found[0]}
    truth = {"variant": 81, "run": 36, "problems": 400, "residual": 900}
    for name, value in truth.items():
        assert mean[name] == pytest.approx(value, rel=0.12), name


def test_seeds_that_change_together_are_known_in_sum_only():
    gains = layout(np.random.default_rng(32), 5, 60, of_seeds=10)
    seeds = tuple(f"{i}-{i}-{i}" for i in range(5))
    found = {c.source: c for c in statistics.variance_components([Cell("m", "s", seeds, ("p",) * 60, gains)])}
    for name in ("variant", "training", "teacher", "run"):
        assert math.isnan(found[name].variance)
        assert found[name].reason.startswith("changes together with ")
        assert name not in found[name].reason.split("with ")[1].split(", ")
    # The two-way analysis of variance.
    a, b = gains.mean(axis=1) - gains.mean(), gains.mean(axis=0) - gains.mean()
    residual = ((gains - gains.mean() - a[:, None] - b) ** 2).sum() / (4 * 59)
    assert found["residual"].variance == pytest.approx(residual)
    assert found["problems"].variance == pytest.approx((5 * (b**2).sum() / 59 - residual) / 5)
    together = found["variant + training + teacher + run"].variance
    assert together == pytest.approx((60 * (a**2).sum() / 4 - residual) / 60)
    assert found["variant × problems"].reason == "part of the residual: each run has its own variant"
    assert math.isnan(found["variant × problems"].variance)


def test_crossed_seeds_are_told_apart_by_their_names():
    gains, factors = crossed(np.random.default_rng(33), 4, 3, 50)
    seeds = tuple(f"{v}-{t}-1" for v, t in zip(factors["variant"], factors["training"], strict=True))
    cells = [Cell(d, "s", seeds, tuple(map(str, range(50))), g) for d, g in (("m", gains), ("c", 2 * gains))]
    found = {c.source: c for c in statistics.variance_components(cells)}
    alone = parts(statistics.decompose(gains, factors))
    # Twice the gains have four times the variance, and domains count alike.
    assert {name: found[name].variance for name in alone} == pytest.approx({n: 2.5 * v for n, v in alone.items()})
    assert found["teacher"].reason == "the same in all runs"


def test_a_latin_square_of_two_leaves_nothing_over_for_runs():
    levels = {"variant": list("aabb"), "training": list("abab"), "teacher": list("abba")}
    gains = layout(np.random.default_rng(34), 4, 30)
    found = {c.source: c for c in statistics.decompose(gains, levels)}
    assert found["variant"].reason == "changes together with training, teacher, run"
    assert not any(" + " in name for name in found)


def test_other_names_of_seeds_and_negative_estimates():
    gains = np.random.default_rng(35).normal(0, 30, (4, 20))
    gains -= gains.mean(axis=1, keepdims=True)
    found = parts(statistics.variance_components([cell(gains)]))
    assert found["seed + run"] == 0
    assert found["residual"] > 0


def test_decompose_refuses_levels_that_do_not_fit():
    with pytest.raises(ValueError, match="levels"):
        statistics.decompose(np.zeros((3, 5)), {"variant": ["a", "b"]})
    with pytest.raises(ValueError, match="shape"):
        statistics.decompose(np.zeros((3, 1)), {})


# --------------------------------------------------------------------------------------------------------------
# Against scipy and rliable


@given(st.floats(0.5, 0.9999), st.floats(1, 5000))
def test_students_t_is_scipys(probability, degrees):
    t = statistics.t_quantile(probability, degrees)
    assert t == pytest.approx(scipy.stats.t.ppf(probability, degrees), rel=1e-8, abs=1e-9)
    assert statistics.t_two_sided(t, degrees) == pytest.approx(2 * scipy.stats.t.sf(t, degrees), rel=1e-8)


@given(st.floats(0, 60), st.floats(0.3, 1e6))
def test_tails_of_students_t_are_scipys(t, degrees):
    assert statistics.t_two_sided(-t, degrees) == pytest.approx(2 * scipy.stats.t.sf(t, degrees), rel=1e-6, abs=1e-300)


def test_the_one_sample_t_test_is_scipys_but_for_the_draws():
    gains = np.random.default_rng(40).normal(3, 5, (8, 1)) @ np.ones((1, 30))
    found = statistics.difference([cell(gains)], [cell(np.zeros((8, 30)))], Bootstrap(20_000))
    test = scipy.stats.ttest_1samp(gains[:, 0], 0)
    assert found.p_value == pytest.approx(test.pvalue, rel=0.1)
    assert found.gain.interval == pytest.approx(tuple(test.confidence_interval()), rel=0.15)


def test_degrees_of_freedom_are_welchs():
    rng = np.random.default_rng(41)
    a, b = rng.normal(0, 1, 4), rng.normal(0, 5, 9)
    test = scipy.stats.ttest_ind(a, b, equal_var=False)
    found = statistics.degrees_of_freedom([runs(a), runs(b, "code")])
    assert found == pytest.approx(test.df)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_kendalls_tau_is_scipys(pairs):
    x, y = zip(*pairs, strict=True)
    ours, theirs = statistics.kendall_tau(x, y), scipy.stats.kendalltau(x, y).statistic
    assert ours == pytest.approx(theirs, nan_ok=True)


@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=40))
def test_the_interquartile_mean_is_scipys(values):
    assert statistics.interquartile_mean([runs(values)]) == pytest.approx(scipy.stats.trim_mean(values, 0.25), abs=1e-6)


def test_the_error_of_problems_is_scipys():
    problems = np.random.default_rng(42).exponential(30, 60)
    ours = statistics.estimate([cell(np.ones((5, 1)) * problems)], Bootstrap(20_000))
    theirs = scipy.stats.bootstrap((problems,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    assert ours.error == pytest.approx(theirs.standard_error, rel=0.03)
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval), rel=0.02)


@pytest.fixture(scope="module")
def rliable():
    """Figures of rliable, with the teachers' runs as cells that every problem shows alike."""
    figures = json.loads(Path(__file__).with_name("rliable.json").read_text(encoding="utf-8"))
    teachers = [
        [cell(np.outer(column, np.ones(2)), f"task {i}") for i, column in enumerate(np.array(figures[name]).T)]
        for name in ("first", "second")
    ]
    return figures, *teachers


def test_aggregates_are_rliables(rliable):
    figures, first, second = rliable
    assert statistics.headline(first) == pytest.approx(figures["mean"])
    assert statistics.interquartile_mean(first) == pytest.approx(figures["interquartile_mean"])
    assert statistics.probability_of_improvement(first, second).value == pytest.approx(figures["improvement"])
    profile = statistics.performance_profile(first, figures["thresholds"])
    assert profile.fractions == pytest.approx(figures["profile"])


def widening(degrees):
    return scipy.stats.t.ppf(0.975, degrees) / scipy.stats.norm.ppf(0.975)


def test_intervals_are_rliables_with_the_corrections(rliable):
    figures, first, _ = rliable
    found = statistics.estimate(first, Bootstrap(20_000))
    corrected = (np.array(figures["mean_interval"]) - figures["mean"]) * math.sqrt(5 / 4) * widening(found.degrees)
    assert np.array(found.interval) - found.value == pytest.approx(corrected, rel=0.04)


def test_the_interval_of_the_interquartile_mean_is_rliables_with_the_corrections(rliable):
    figures, first, _ = rliable
    found = statistics.estimate_interquartile_mean(first, Bootstrap(20_000))
    ends = np.array(figures["interquartile_mean_interval_of_spread"])
    assert np.array(found.interval) - found.value == pytest.approx(
        (ends - found.value) * widening(found.degrees), rel=0.04
    )


def test_the_interval_of_an_improvement_agrees_with_rliables_where_neither_end_is_near(rliable):
    figures, first, second = rliable
    low, high = statistics.probability_of_improvement(first, second).interval
    assert (low, high) == pytest.approx(figures["improvement_interval"], abs=0.08)
