"""What the benchmark makes of the records of trials."""

from __future__ import annotations

from typing import Any

import pytest

from bench.punching import judged


def record(connected_ms: float, floor_ms: float = 40.0, skew_ms: float = 0.0) -> dict[str, Any]:
    return {
        "timings_s": {"known_to_connected": connected_ms / 1000},
        "prediction": {"floor_s": floor_ms / 1000},
        "skew_s": skew_ms / 1000,
    }


def test_times_are_held_against_the_floor_from_the_later_syn() -> None:
    found = judged([record(44, 40), record(44, 50, skew_ms=-10), record(44, 50, skew_ms=10)], "connected")
    assert (found["n"], found["ratio_median"], found["ratio_p95"]) == (3, pytest.approx(1.1), pytest.approx(1.1))
    assert found["spare_s"] == {"median": pytest.approx(0.007), "p95": pytest.approx(0.026)}
    assert found["within"]


@pytest.mark.parametrize(
    ("slow", "slow_ms", "within"), [(10, 51.5, True), (11, 51.5, False), (1, 70.5, True), (2, 70.5, False)]
)
def test_the_median_and_95_of_100_must_be_within_their_marks(slow: int, slow_ms: float, within: bool) -> None:
    """40 ms may be 51 at the median, and 70 at the 95th percentile."""
    records = [record(slow_ms)] * slow + [record(41)] * (20 - slow)
    assert judged(records, "connected")["within"] is within
