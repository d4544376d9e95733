"""The little statistics that a success rate needs: Wilson's interval, and how many trials make it narrow."""

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
    """The Wilson score interval of a binomial rate: where the true rate lies with the given confidence.

    Unlike the textbook `p ± z·sqrt(p(1-p)/n)` it is honest at 0/n and n/n, which is where most NAT pairs are. Source:
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22 (1927), 209-212; recommended for small n by Brown, Cai and DasGupta, "Interval estimation
    for a binomial proportion", Statistical Science 16 (2001), 101-133.

    Raises `ValueError` unless 0 <= successes <= trials, trials >= 1 and 0 < confidence < 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"successes/trials: {successes}/{trials} is no rate; expected 0 <= successes <= trials, trials >= 1"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} cannot be used; expected a number between 0 and 1")
    z = _quantile(confidence)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = half_width(rate, trials, confidence)
    # The bounds at 0/n and n/n are exactly 0 and 1; rounding must not put them a hair beside.
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half)


def half_width(rate: float, trials: int, confidence: float = 0.95) -> float:
    """Half the width of `wilson_interval` for that rate (0 to 1) of so many trials (at least 1)."""
    z = _quantile(confidence)
    return z / (1 + z * z / trials) * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))


def trials_that_suffice(wanted: float, confidence: float = 0.95) -> int:
    """How many trials make Wilson's interval at most `wanted` (a half-width, 0 to 0.5) to either side of its centre,
    whatever the rate: the worst is 1/2, where the half-width is z / (2 sqrt(n + z²)).
    """
    z = _quantile(confidence)
    return max(1, ceil(z * z * (1 / (4 * wanted * wanted) - 1)))


def trials_still_needed(successes: int, trials: int, wanted: float, confidence: float = 0.95) -> int:
    """How many more trials it takes at the very least until the half-width can be `wanted`: all with one outcome.

    0 if it is there already.
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
