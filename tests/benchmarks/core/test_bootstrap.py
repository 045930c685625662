from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from tests.benchmarks.curve.synthetic import MeanStatistics
from wheels.benchmarks.core.bootstrap import (
    apgr,
    at_use,
    compare,
    cpt,
    foresight_share,
    holm,
    is_measured,
    mean_over_seeds,
    measured_use,
    over_allowance,
    paired_bootstrap,
    resample_sentences,
    share_of_gap,
    warn_of_gap,
)
from wheels.errors import WheelsError

# Thresholds of a percentile interval from 20,000 draws wander by a fifth of this, in standard errors.
DRAW_NOISE = 0.15


class RatioStatistics:
    """A metric that is a ratio of sums, so not a mean over sentences."""

    def __init__(self, above: list[float], below: list[float]) -> None:
        self.above_N, self.below_N = np.array(above), np.array(below)

    def __len__(self) -> int:
        return len(self.above_N)

    def resampled(self, weights_ZN: np.ndarray) -> np.ndarray:
        return (weights_ZN @ self.above_N) / (weights_ZN @ self.below_N)


@pytest.mark.parametrize(
    ("quality", "student", "teacher", "expected"),
    [(20, 20, 30, 0.0), (30, 20, 30, 1.0), (25, 20, 30, 0.5), (32, 20, 30, 1.2), (18, 20, 30, -0.2), (21, 20, 21, 1.0)],
)
def test_pgr_is_the_share_of_the_gap(quality: float, student: float, teacher: float, expected: float) -> None:
    assert share_of_gap(quality, student, teacher) == pytest.approx(expected)


@pytest.mark.parametrize(("student", "teacher"), [(20, 20.99), (20, 20), (30, 20), (math.nan, 30)])
def test_pgr_refuses_a_small_gap(student: float, teacher: float) -> None:
    with pytest.warns(UserWarning, match="less than 1 point above"):
        warn_of_gap(student, teacher)
    assert math.isnan(share_of_gap(25, student, teacher))


@pytest.mark.parametrize(
    ("uses", "pgrs", "low", "high", "expected"),
    [
        ([], [], 0, 1, 0.5),  # nothing between the ends: the straight line
        ([0.0, 1.0], [0.0, 1.0], 0, 1, 0.5),
        ([], [], 0, 0.3, 0.045),
        ([0.5], [1.0], 0, 1, 0.75),
        ([0.5, 0.25], [1.0, 0.5], 0, 1, 0.75),  # in any order
        ([0.5, 0.5], [0.5, 1.5], 0, 1, 0.75),  # equal uses: their mean
        ([0.2, 0.4], [0.4, 0.8], 0.1, 0.3, 0.08),  # both ends interpolated
        ([0.5], [2.0], 0, 1, 1.25),  # above 1 is kept
        ([0.5], [-1.0], 0, 1, -0.25),
        ([0.3, 1.0], [0.6, 0.6], 0, 1, 0.09 + 0.42),  # a measured end stands as it is
    ],
)
def test_apgr_values(uses: list[float], pgrs: list[float], low: float, high: float, expected: float) -> None:
    assert apgr(uses, pgrs, low, high, apart=1.0) == pytest.approx(expected)


def test_apgr_equals_a_fine_integral() -> None:
    rng = np.random.default_rng(3)
    uses, pgrs = rng.uniform(0.01, 0.99, 7), rng.uniform(-0.2, 1.3, 7)
    order = np.argsort(uses)
    x = np.linspace(0.05, 0.62, 200_001)
    y = np.interp(x, [0, *uses[order], 1], [0, *pgrs[order], 1])
    assert apgr(uses, pgrs, 0.05, 0.62, apart=1.0) == pytest.approx(np.trapezoid(y, x), abs=1e-8)


def test_apgr_of_an_unknown_share_is_unknown() -> None:
    assert math.isnan(apgr([0.2, 0.5], [math.nan, 0.5], apart=1.0))


def test_apgr_refuses_an_empty_interval_and_bad_uses() -> None:
    with pytest.raises(WheelsError, match="0 <= low < high <= 1, got"):
        apgr([], [], 0.3, 0.3)
    with pytest.raises(WheelsError, match=r"teacher use must be in \[0, 1\]"):
        apgr([20.0], [0.5])
    with pytest.raises(WheelsError, match="two lists of one length"):
        apgr([0.2], [])


@pytest.mark.parametrize(
    ("uses", "pgrs", "level", "expected"),
    [
        ([], [], 0.5, 0.5),
        ([], [], 0.0, 0.0),
        ([], [], 1.0, 1.0),
        ([0.2], [0.8], 0.5, 0.125),
        ([0.2], [0.8], 0.8, 0.2),
        ([0.2], [0.8], 0.95, 0.8),
        ([0.2, 0.4, 0.6], [0.6, 0.3, 0.9], 0.5, 1 / 6),  # the dip after it does not count
        ([0.2, 0.4, 0.6], [0.4, 0.2, 0.8], 0.5, 0.5),  # nor does a rise that starts below the maximum reach it sooner
        ([0.2, 0.4], [1.1, 0.9], 1.05, 0.2 * 1.05 / 1.1),
        ([0.4, 0.2], [0.9, 0.8], 0.8, 0.2),
    ],
)
def test_cpt_is_the_first_crossing(uses: list[float], pgrs: list[float], level: float, expected: float) -> None:
    assert cpt(uses, pgrs, level, apart=1.0) == pytest.approx(expected)


def test_cpt_agrees_with_the_running_maximum_on_a_grid() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        uses, pgrs = np.sort(rng.uniform(0.01, 0.99, 6)), rng.uniform(-0.3, 1.2, 6)
        x = np.linspace(0, 1, 20_001)
        running = np.maximum.accumulate(np.interp(x, [0, *uses, 1], [0, *pgrs, 1]))
        assert cpt(uses, pgrs, 0.5, apart=1.0) == pytest.approx(x[np.argmax(running >= 0.5)], abs=1e-4)


def test_cpt_of_a_level_never_reached_or_unknown_is_unknown() -> None:
    assert math.isnan(cpt([0.5], [0.9], 1.2, apart=1.0))
    assert math.isnan(cpt([0.5], [math.nan], 0.5, apart=1.0))


@pytest.mark.parametrize(
    ("points", "at", "expected"),
    [
        ([0.0, 0.1, 0.2], 0.15, True),  # the middle of neighbours 0.1 apart
        ([0.0, 0.1, 0.21], 0.155, False),
        ([0.0, 0.173, 1.0], 0.2, False),
        ([0.0, 0.2, 1.0], 0.2, True),
        ([0.0, 0.2, 1.0], 0.203, True),  # 0.003 * 0.797 is less than 0.05 * 0.05
        ([0.0, 0.2, 1.0], 0.204, False),
        ([0.0, 0.2, 1.0], 0.1, False),
        ([0.0, 1.0], 0.0, True),
        ([0.3, 0.4], 0.1, True),  # nothing is drawn there
        ([0.3, 0.4], 0.9, True),
    ],
)
def test_a_value_in_a_gap_is_not_measured(points: list[float], at: float, expected: bool) -> None:
    assert is_measured(np.array(points), at) is expected
    found = at_use(np.array([points, points]), np.zeros((2, len(points))), at)
    assert (~np.isnan(found)).tolist() == [expected] * 2


def test_the_sample_itself_decides_what_is_measured() -> None:
    near, far = [0.0, 0.1, 0.2, 1.0], [0.0, 0.0, 0.5, 1.0]
    assert not np.isnan(at_use(np.array([near, far]), np.ones((2, 4)), 0.15)).any()
    assert np.isnan(at_use(np.array([far, near]), np.ones((2, 4)), 0.15)).all()


@pytest.mark.parametrize(
    ("uses", "low", "high", "expected"),
    [
        ([0.1, 0.2, 0.3], 0.0, 0.3, True),
        ([0.05, 0.1, 0.21, 0.31], 0.0, 0.3, True),  # on the mean of squares
        ([0.2, 0.3], 0.0, 0.3, False),
        ([0.1, 0.2, 0.3], 0.0, 1.0, False),
        ([], 0.0, 1.0, False),
    ],
)
def test_an_area_over_a_gap_is_not_measured(uses: list[float], low: float, high: float, expected: bool) -> None:
    assert math.isfinite(apgr(uses, uses, low, high)) is expected


def test_a_level_crossed_in_a_gap_is_not_measured() -> None:
    assert cpt([0.4, 0.5], [0.4, 0.6], 0.5) == pytest.approx(0.45)
    assert math.isnan(cpt([0.4, 0.5], [0.4, 0.6], 0.8))
    assert cpt([0.4, 0.5], [0.4, 0.6], 0.6) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("ps", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 * .01, 2 * .03, and 1 * .04 lifted to it
        ([0.5, 0.6, 0.9], [1.0, 1.0, 1.0]),
        ([0.02, math.nan, 0.02], [0.04, math.nan, 0.04]),  # the absent one does not count
    ],
)
def test_holm_by_hand(ps: list[float], expected: list[float]) -> None:
    assert holm(ps) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("random", "foresight", "expected"), [(10, 20, 0.5), (15, 20, 0.0), (10, 10, None), (20, 10, None)]
)
def test_foresight_share(random: float, foresight: float, expected: float | None) -> None:
    share = foresight_share(15.0, random, foresight)
    assert math.isnan(share) if expected is None else share == expected


def test_bootstrap_agrees_with_every_possible_resample() -> None:
    a, b = RatioStatistics([1, 2, 6], [2, 3, 5]), RatioStatistics([1, 1, 4], [3, 1, 5])
    weights = np.array([np.bincount(draw, minlength=3) for draw in itertools.product(range(3), repeat=3)], dtype=float)
    exact = a.resampled(weights) - b.resampled(weights)
    found = paired_bootstrap([a], [b], resamples=40_000, seed=1)
    assert found.difference == pytest.approx(9 / 10 - 6 / 9)
    # The exact law has 10 distinct values, so its quantiles are met exactly.
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(exact, (2.5, 97.5), method="inverted_cdf")))
    tail = min((exact <= 0).mean(), (exact >= 0).mean())
    assert found.p == pytest.approx(2 * tail, abs=0.01)


def test_bootstrap_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 5, 80)
    a, b = hard + rng.normal(0.6, 1, 80), hard + rng.normal(0, 1, 80)
    found = paired_bootstrap([MeanStatistics(list(a))], [MeanStatistics(list(b))], resamples=20_000, seed=0)

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis) - y.mean(axis)

    expected = scipy.stats.bootstrap(
        (a, b), difference, paired=True, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    )
    noise = DRAW_NOISE * expected.standard_error
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=noise)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=noise)
    # What pairing is for: drawn apart, the same data give an interval several times as wide.
    apart = scipy.stats.bootstrap((a, b), difference, paired=False, n_resamples=500, method="percentile", rng=rng)
    assert found.high - found.low < 0.5 * (apart.confidence_interval.high - apart.confidence_interval.low)


def test_bootstrap_draws_seeds_too() -> None:
    a = [MeanStatistics([0.0, 0.0]), MeanStatistics([1.0, 1.0])]
    found = paired_bootstrap(a, [MeanStatistics([0.0, 0.0])], resamples=2000, seed=0)
    assert (found.difference, found.low, found.high) == (0.5, 0.0, 1.0)
    assert found.p == pytest.approx(0.5, abs=0.06)  # a quarter of the draws take the first seed twice


def test_bootstrap_pairs_seeds() -> None:
    b = [MeanStatistics([float(seed)] * 3) for seed in range(3)]
    a = [MeanStatistics([seed + 0.1] * 3) for seed in range(3)]
    found = paired_bootstrap(a, b, resamples=200, seed=0)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.5, 2 / 201), (-0.5, 2 / 201)])
def test_p_of_certain_differences(shift: float, p: float) -> None:
    base = [1.0, 5.0, 2.0]
    found = paired_bootstrap([MeanStatistics([x + shift for x in base])], [MeanStatistics(base)], resamples=200)
    assert found.p == pytest.approx(p)
    assert found.difference == pytest.approx(shift)


def test_bootstrap_is_determined_by_its_seed() -> None:
    a, b = [MeanStatistics([1.0, 4.0, 2.0, 7.0])], [MeanStatistics([2.0, 1.0, 2.0, 5.0])]
    assert paired_bootstrap(a, b, 200, seed=4) == paired_bootstrap(a, b, 200, seed=4)
    draws = [resample_sentences(4, 50, seed) for seed in (4, 5)]
    assert (draws[0] != draws[1]).any()


def test_bootstrap_refuses_what_cannot_be_paired() -> None:
    one = MeanStatistics([1.0])
    with pytest.raises(WheelsError, match="at least one seed on each side, got 1 and 0"):
        paired_bootstrap([one], [])
    with pytest.raises(WheelsError, match=r"same sentences on both sides, got \[1, 2\]"):
        paired_bootstrap([one], [MeanStatistics([1.0, 2.0])])
    with pytest.raises(WheelsError, match="at least one sentence"):
        paired_bootstrap([MeanStatistics([])], [MeanStatistics([])])


def test_resamples_hold_the_sample_first_and_as_many_sentences() -> None:
    weights_ZN = resample_sentences(7, 20, 0)
    assert (weights_ZN[0] == 1).all()
    assert (weights_ZN.sum(1) == 7).all()
    assert weights_ZN.shape == (21, 7)


def test_mean_over_seeds_keeps_row_zero() -> None:
    mean_Z = mean_over_seeds([[0.0] * 500, [3.0] * 500, [6.0] * 500], seed=0)
    assert mean_Z[0] == 3.0
    assert set(mean_Z[1:]) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0}


def test_compare_of_an_unknown_difference_is_unknown() -> None:
    found = compare(np.array([1.0, math.nan, 2.0]))
    assert found.difference == 1.0
    assert all(map(math.isnan, (found.low, found.high, found.p)))


def test_a_value_that_few_resamples_have_has_no_interval() -> None:
    assert math.isnan(compare(np.array([math.nan, 1.0, 2.0]), least=0.5).difference)
    half = compare(np.array([1.0, 2.0, 3.0, math.nan, math.nan]), least=0.5)
    assert (half.difference, half.low, half.high) == pytest.approx((1.0, 2.025, 2.975))
    few = compare(np.array([1.0, 2.0, math.nan, math.nan]), least=0.5)
    assert few.difference == 1.0 and math.isnan(few.low) and math.isnan(few.p)
    assert compare(np.array([1.0, 2.0, math.nan]), least=0.0).low == 2.0
    assert math.isnan(compare(np.array([1.0, math.nan, math.nan]), least=0.0).low), "none at all"


def test_measured_use_is_of_tokens_not_of_sentences() -> None:
    weights_ZN = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    assert measured_use([1, 9], [10, 10], weights_ZN).tolist() == [0.5, 0.1, 0.9]
    assert measured_use([1, 0], [2, 98], weights_ZN)[0] == 0.01
    assert measured_use([0, 0], [0, 0], weights_ZN).tolist() == [0.0, 0.0, 0.0]


def test_at_use_interpolates_each_row_between_its_own_points() -> None:
    uses_ZP = np.array([[0.0, 0.2, 1.0], [0.0, 0.4, 1.0], [1.0, 0.1, 0.0]])
    values_ZP = np.array([[10.0, 20.0, 30.0], [10.0, 20.0, 30.0], [30.0, 20.0, 10.0]])
    assert at_use(uses_ZP, values_ZP, 0.2, apart=1.0) == pytest.approx([20.0, 15.0, 20 + 10 / 9])
    assert at_use(uses_ZP, values_ZP, 1.0, apart=1.0).tolist() == [30.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("authors", "budget", "burst", "expected"),
    [
        ("", 0.5, 0, False),
        ("s", 0.0, 0, False),
        ("t", 0.0, 0, True),
        ("t", 1.0, 0, False),
        ("t", 0.5, 0, True),  # floor(0.5) is 0
        ("t", 0.5, 1, False),
        ("stst", 0.5, 0, False),
        ("stts", 0.5, 0, True),  # kept at the end, not at the third token
        ("s" * 71 + "t" * 29, 0.29, 0, False),  # 0.29 * 100 is 28.999999999999996
        ("s" * 70 + "t" * 30, 0.29, 0, True),
    ],
)
def test_over_allowance_looks_at_every_prefix(authors: str, budget: float, burst: int, expected: bool) -> None:
    assert over_allowance([author == "t" for author in authors], budget, burst) is expected
