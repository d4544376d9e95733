from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.lab.campaign.statistics import wilson_interval

rates = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
        # table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_agrees_with_published_intervals(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, trials)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(rates)
def test_bounds_hold_the_measured_rate(rate: tuple[int, int]) -> None:
    successes, trials = rate
    interval = wilson_interval(successes, trials)
    assert 0 <= interval.low <= successes / trials <= interval.high <= 1
    assert interval.low < interval.high


@given(rates)
def test_bounds_solve_the_score_equation(rate: tuple[int, int]) -> None:
    """The measured rate is exactly z standard deviations of p away from a bound p."""
    successes, trials = rate
    interval = wilson_interval(successes, trials)
    z = NormalDist().inv_cdf(0.975)
    for bound in {interval.low, interval.high} - {0.0, 1.0}:
        deviations = abs(successes / trials - bound) / sqrt(bound * (1 - bound) / trials)
        assert deviations == pytest.approx(z, rel=1e-6)


@given(rates)
def test_success_and_failure_mirror_each_other(rate: tuple[int, int]) -> None:
    successes, trials = rate
    interval, mirrored = wilson_interval(successes, trials), wilson_interval(trials - successes, trials)
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


@given(rates, st.integers(2, 10))
def test_more_trials_at_the_same_rate_narrow_it(rate: tuple[int, int], times: int) -> None:
    successes, trials = rate
    few, many = wilson_interval(successes, trials), wilson_interval(successes * times, trials * times)
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (2, 1), (-1, 5)])
def test_refuses_successes_and_trials_that_give_no_rate(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="cannot be used; expected 0 <= successes"):
        wilson_interval(successes, trials)
