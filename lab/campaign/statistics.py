"""Statistics of a success rate: Wilson's interval, and the number of trials that makes it narrow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, sqrt
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed range of rates, 0 to 1."""

    low: float
    high: float


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Return the Wilson score interval, which contains the true binomial rate with the given confidence.

    Unlike the textbook `p ± z·sqrt(p(1-p)/n)`, it is correct at 0/n and n/n, where most NAT pairs are. Source:
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22 (1927), 209-212; recommended for small n by Brown, Cai and DasGupta, "Interval estimation
    for a binomial proportion", Statistical Science 16 (2001), 101-133.

    Raises `ValueError` unless 0 <= successes <= trials, trials >= 1 and 0 < confidence < 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"successes/trials: {successes}/{trials} cannot be used; expected 0 <= successes <= trials, trials >= 1"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} cannot be used; expected a number between 0 and 1")
    z = _quantile(confidence)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = half_width(rate, trials, confidence)
    # The bounds at 0/n and n/n are exactly 0 and 1, without rounding errors.
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half)


def half_width(rate: float, trials: int, confidence: float = 0.95) -> float:
    """Return half the width of `wilson_interval` for a rate (0 to 1) of a number of trials (at least 1)."""
    z = _quantile(confidence)
    return z / (1 + z * z / trials) * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))


def trials_that_suffice(wanted: float, confidence: float = 0.95) -> int:
    """Return the number of trials that makes the half-width of Wilson's interval at most `wanted` (0 to 0.5).

    The widest interval is that of the rate 1/2, whose half-width is z / (2 sqrt(n + z²)).
    """
    z = _quantile(confidence)
    return max(1, ceil(z * z * (1 / (4 * wanted * wanted) - 1)))


def trials_still_needed(successes: int, trials: int, wanted: float, confidence: float = 0.95) -> int:
    """Return the least number of further trials, all with the same outcome, until the half-width is at most `wanted`.

    It is 0 if the half-width is already that small.
    """

    def least(more: int) -> float:
        total = trials + more
        rates = (successes / total, (successes + more) / total)
        return min(half_width(rate, total, confidence) for rate in rates)

    more = 0 if trials else 1
    while least(more) > wanted:
        more += 1
    return more


@cache
def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
