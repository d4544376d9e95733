"""Exact tests: counts against the probabilities that they should have or against each other, and many tests at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, fsum


def chances(probabilities: Sequence[float]) -> list[float]:
    """How probable each number of successes is when every trial has a probability of its own (Poisson binomial)."""
    known = [1.0]
    for p in probabilities:
        known = [
            (known[k] * (1 - p) if k < len(known) else 0.0) + (known[k - 1] * p if k else 0.0)
            for k in range(len(known) + 1)
        ]
    return known


def p_value(successes: int, probabilities: Sequence[float]) -> float:
    """The two-sided exact p-value: how probable counts are that are no more probable than this one."""
    known = chances(probabilities)
    limit = known[successes] * (1 + 1e-9)
    return min(1.0, fsum(each for each in known if each <= limit))


def fisher_less(successes: int, trials: int, other_successes: int, other_trials: int) -> float:
    """The one-sided p-value for "this rate is no lower than the other one": small where it is lower.

    Fisher's exact test: given how many of all trials succeeded, the probability (hypergeometric) that so few of those
    or fewer are among ours if the two rates are the same. R. A. Fisher, "Statistical Methods for Research Workers",
    5th edition, 1934.
    """
    both = successes + other_successes
    least = max(0, both - other_trials)
    ways = sum(comb(trials, k) * comb(other_trials, both - k) for k in range(least, successes + 1))
    return ways / comb(trials + other_trials, both)


def holm(p_values: Sequence[float], level: float) -> list[int]:
    """Which hypotheses fall at this family-wise level, by number: the smallest p-values first.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    fallen = []
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[number] > level / (len(p_values) - rank):
            break
        fallen.append(number)
    return sorted(fallen)
