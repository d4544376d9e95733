"""Exact tests of counts against the probabilities that they should have."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum


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


def holm(p_values: Sequence[float], level: float) -> list[int]:
    """Which hypotheses fall at this family-wise level, by number (Holm 1979): the smallest p-values first."""
    fallen = []
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[number] > level / (len(p_values) - rank):
            break
        fallen.append(number)
    return sorted(fallen)
