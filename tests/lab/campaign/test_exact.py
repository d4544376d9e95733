"""Exact statistical tests, compared with published examples."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.lab.campaign.exact import chances, fisher_less, holm, p_value

counts = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def test_equal_probabilities_give_the_binomial_distribution() -> None:
    expected = [comb(6, k) * 0.3**k * 0.7 ** (6 - k) for k in range(7)]
    assert chances([0.3] * 6) == pytest.approx(expected)


def test_unequal_probabilities_are_counted_one_by_one() -> None:
    assert chances([0.5, 0.1]) == pytest.approx([0.45, 0.5, 0.05])


@pytest.mark.parametrize(("successes", "p"), [(0, 2 / 32), (1, 12 / 32), (2, 1.0), (3, 1.0), (5, 2 / 32)])
def test_a_fair_coin_is_judged_from_both_sides(successes: int, p: float) -> None:
    assert p_value(successes, [0.5] * 5) == pytest.approx(p)


def test_impossible_counts_have_probability_0() -> None:
    assert p_value(1, [0.0] * 20) == 0.0
    assert p_value(20, [1.0] * 20) == 1.0


def test_holm_is_between_bonferroni_and_no_correction() -> None:
    # Holm's thresholds for four hypotheses at 5 %: 0.0125, 0.0167, 0.025, 0.05.
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [0, 3]
    assert holm([0.02, 0.001, 0.016, 0.04], 0.05) == [0, 1, 2, 3]
    assert holm([0.02, 0.02, 0.02, 0.02], 0.05) == []


def test_fishers_exact_test_returns_the_probability_of_so_few_successes() -> None:
    """Fisher's lady tasting tea, with 4 cups of each kind: P(0 of 4 correct) = 1/70, P(at most 1) = 17/70."""
    assert fisher_less(0, 4, 4, 4) == pytest.approx(1 / 70)
    assert fisher_less(1, 4, 3, 4) == pytest.approx(17 / 70)
    assert fisher_less(4, 4, 0, 4) == 1


@given(counts, counts)
def test_of_two_rates_one_is_lower_or_the_other(one: tuple[int, int], other: tuple[int, int]) -> None:
    here, there = fisher_less(*one, *other), fisher_less(*other, *one)
    assert 0 <= here <= 1  # 0 if the value underflows
    assert here + there >= 1 - 1e-12
