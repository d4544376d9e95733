"""Exact tests: counts against probabilities or against other counts, and several tests at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, fsum


def chances(probabilities: Sequence[float]) -> list[float]:
    """Return the probability of each number of successes if every trial has its own probability (Poisson binomial)."""
    known = [1.0]
    for p in probabilities:
        known = [
            (known[k] * (1 - p) if k < len(known) else 0.0) + (known[k - 1] * p if k else 0.0)
            for k in range(len(known) + 1)
        ]
    return known


def p_value(successes: int, probabilities: Sequence[float]) -> float:
    """Return the two-sided exact p-value: the probability of all counts that are at most as probable as this one."""
    known = chances(probabilities)
    limit = known[successes] * (1 + 1e-9)
    return min(1.0, fsum(each for each in known if each <= limit))


def fisher_less(successes: int, trials: int, other_successes: int, other_trials: int) -> float:
    """Return the one-sided p-value of "this rate is not lower than the other one"; it is small if the rate is lower.

    Fisher's exact test: the hypergeometric probability of at most `successes` in these trials if the two rates are
    equal, given the number of successes in all trials. R. A. Fisher, "Statistical Methods for Research Workers",
    5th edition, 1934.
    """
    both = successes + other_successes
    least = max(0, both - other_trials)
    ways = sum(comb(trials, k) * comb(other_trials, both - k) for k in range(least, successes + 1))
    return ways / comb(trials + other_trials, both)


def holm(p_values: Sequence[float], level: float) -> list[int]:
    """Return the numbers of the hypotheses that are rejected at this family-wise level.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    rejected = []
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[number] > level / (len(p_values) - rank):
            break
        rejected.append(number)
    return sorted(rejected)
