"""Comparisons against formulas written out here, published examples, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hydragnn_hpc.report.analysis import statistics

A = [7.5e-3, 7.9e-3, 6.8e-3, 8.4e-3, 7.1e-3]
B = [9.8e-3, 1.13e-2, 1.02e-2, 9.1e-3, 1.05e-2, 1.2e-2]


def test_welch_follows_its_formula() -> None:
    va, vb = np.var(A, ddof=1) / len(A), np.var(B, ddof=1) / len(B)
    t = (np.mean(A) - np.mean(B)) / math.sqrt(va + vb)
    degrees_of_freedom = (va + vb) ** 2 / (va**2 / (len(A) - 1) + vb**2 / (len(B) - 1))
    assert statistics.welch(A, B) == pytest.approx(2 * stats.t.sf(abs(t), degrees_of_freedom), rel=1e-10)
    assert statistics.welch(A, B[:1]) is None and statistics.welch([1.0, 1.0], [2.0, 2.0]) is None


def test_holm_by_hand() -> None:
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1, each no smaller than the one before.
    assert statistics.holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lowers_no_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = statistics.holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    ranked = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)


def test_the_ratio_of_spreads_has_the_interval_of_the_f_distribution() -> None:
    ratio, interval = statistics.spread_ratio(A, B)
    assert ratio == pytest.approx(np.std(A, ddof=1) / np.std(B, ddof=1))
    # P(f_lo < (s_a/s_b)^2 / (sigma_a/sigma_b)^2 < f_hi) = 0.95
    assert stats.f.cdf((ratio / interval[0]) ** 2, 4, 5) == pytest.approx(0.975)
    assert stats.f.cdf((ratio / interval[1]) ** 2, 4, 5) == pytest.approx(0.025)


def test_difference_its_interval_and_its_seed() -> None:
    pair = statistics.compare("H", ("a", A), ("b", B))
    assert pair.difference == pytest.approx(np.mean(A) - np.mean(B)) and pair.n == (5, 6)
    low, high = pair.interval
    assert low < pair.difference < high < 0
    assert pair == statistics.compare("H", ("a", A), ("b", B))
    # The percentile bootstrap, drawn here, agrees to a tenth of the interval's width.
    rng = np.random.default_rng(7)
    drawn = rng.choice(A, (20_000, 5)).mean(1) - rng.choice(B, (20_000, 6)).mean(1)
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.1 * (high - low))


def test_the_bootstrap_interval_has_about_its_nominal_coverage() -> None:
    """With twelve members per variant, as in the paper: intervals from so few values are slightly too narrow."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        a, b = rng.normal(1.0, 0.1, 12), rng.normal(1.1, 0.2, 12)
        low, high = statistics.bootstrap_interval((a, b), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis))
        hits += low <= -0.1 <= high
    assert 88 <= hits < 100


@pytest.mark.filterwarnings("error")
def test_too_few_values_have_no_interval_and_equal_values_one_of_zero_width() -> None:
    pair = statistics.compare("H", ("a", [1.0]), ("b", B))
    assert pair.interval is None and pair.p_value is None and pair.spread_ratio is None
    assert statistics.compare("H", ("a", [1.0, 1.1]), ("b", B)).interval is None
    assert statistics.compare("H", ("a", [1.0, 1.1]), ("b", B)).spread_interval is None
    assert statistics.compare("H", ("a", [1.0] * 3), ("b", [2.0] * 3)).interval == (-1.0, -1.0)
    assert statistics.compare("H", ("a", [1.0] * 3), ("b", B)).p_value is not None


def test_the_interval_of_a_ratio_of_means() -> None:
    """Against the percentile bootstrap, drawn here, to a tenth of the interval's width."""
    first, second, denominator = [10.0, 12.0, 11.0, 10.5], [9.0, 9.5, 10.0, 9.2], [8.0, 8.5, 9.0, 8.4]
    low, high = statistics.ratio_interval([first, second], denominator)
    rng = np.random.default_rng(7)
    drawn = [rng.choice(values, (20_000, 4)).mean(1) for values in (first, second, denominator)]
    quantiles = np.quantile((drawn[0] + drawn[1]) / drawn[2], [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(quantiles), abs=0.1 * (high - low))
