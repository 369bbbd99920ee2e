"""Intervals: their coverage on simulated data, what equal values leave open, and how many tasks it would take."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icto_gym.errors import ConfigError, DataError
from trainers.evaluation.intervals import estimate, tasks_needed

SHARE = (0.0, 1.0)


def coverage(draw, truth, n, *, bounds, trials=400):
    """How often the interval of ``n`` drawn tasks holds the truth."""
    generator = np.random.default_rng(7)
    found = (estimate(draw(generator, n), resamples=300, seed=trial, bounds=bounds) for trial in range(trials))
    return sum(one.low - 1e-12 <= truth <= one.high + 1e-12 for one in found) / trials


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.95])
def test_about_95_of_100_intervals_of_a_success_rate_hold_the_truth(p):
    held = coverage(lambda generator, n: generator.binomial(1, p, n).astype(float), p, 60, bounds=SHARE)
    assert held >= 0.92  # near 0 and 1 the exact bound makes it wider than need be: up to 0.99


def test_about_95_of_100_intervals_of_a_skewed_count_hold_the_truth():
    held = coverage(lambda generator, n: 1.0 + generator.exponential(5.0, n), 6.0, 80, bounds=None)
    assert 0.90 <= held <= 0.98


def test_where_nearly_all_succeed_the_interval_holds_the_truth_although_most_samples_show_no_failure():
    def draw(generator, n):
        return generator.binomial(1, 0.99, n).astype(float)

    assert coverage(draw, 0.99, 40, bounds=SHARE) >= 0.95
    assert coverage(draw, 0.99, 40, bounds=None) < 0.5  # the bootstrap alone: as if failure were impossible


@pytest.mark.parametrize(("n", "low"), [(1, 0.025), (10, 0.6915), (60, 0.9404), (270, 0.9864)])
def test_all_successes_give_the_exact_binomial_bound(n, low):
    """The bounds that tables of Clopper and Pearson give for n of n."""
    assert estimate([1.0] * n, bounds=SHARE) == pytest.approx((1.0, low, 1.0, n), abs=5e-5)
    assert estimate([0.0] * n, bounds=SHARE) == pytest.approx((0.0, 0.0, 1 - low, n), abs=5e-5)


def test_a_number_without_bounds_keeps_the_width_it_has():
    assert estimate([10.0] * 5) == (10.0, 10.0, 10.0, 5)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.permutations(range(20)))
def test_an_interval_holds_its_value_within_the_bounds(values, _):
    found = estimate(values, resamples=100, bounds=SHARE)
    assert -1e-9 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 1 + 1e-9
    assert found.n == len(values)


@given(st.floats(0, 1), st.integers(1, 200))
def test_more_equal_tasks_never_widen_the_interval(value, n):
    fewer, more = estimate([value] * n, bounds=SHARE), estimate([value] * (n + 1), bounds=SHARE)
    assert more.high - more.low <= fewer.high - fewer.low + 1e-12


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(DataError, match=f"{wrong} is among the values"):
        estimate([0.5, wrong])
    with pytest.raises(DataError, match="no values"):
        estimate([])


def test_the_number_of_tasks_is_that_of_the_textbook():
    differences = [1.0, -1.0] * 50  # deviation 1.005
    assert tasks_needed(differences, 0.5) == math.ceil(((1.959964 + 0.841621) * 1.0050378 / 0.5) ** 2) == 32
    assert tasks_needed([0.2] * 9, 0.05) is None
    with pytest.raises(ConfigError, match="above 0"):
        tasks_needed(differences, 0.0)


def test_with_so_many_tasks_the_difference_is_seen_about_four_times_in_five():
    generator = np.random.default_rng(3)
    n = tasks_needed(generator.normal(0, 0.5, 400).tolist(), 0.1)
    seen = sum(estimate(generator.normal(0.1, 0.5, n), resamples=200, seed=t).low > 0 for t in range(200)) / 200
    assert 0.68 <= seen <= 0.92
