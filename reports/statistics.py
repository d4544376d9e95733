"""The little statistics that a success rate needs."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
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
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / trials
    shrink = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # The bounds at 0/n and n/n are exactly 0 and 1; rounding must not put them a hair beside.
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half)
