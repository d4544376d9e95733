"""Port prediction: the formula against enumeration, and the windows."""

from __future__ import annotations

from math import exp

import pytest

from punchlab.punch.nat.port_prediction import between, following, probability


def test_the_next_port_is_correct_if_no_other_host_uses_it() -> None:
    assert probability(1, rate=0.0, wait_s=10.0) == 1.0
    assert probability(1, rate=5.0, wait_s=0.1) == pytest.approx(exp(-0.5))
    assert probability(2, rate=5.0, wait_s=0.1) == pytest.approx(1.5 * exp(-0.5))
    assert probability(100, rate=5.0, wait_s=0.1) == pytest.approx(1.0)
    assert probability(0, rate=5.0, wait_s=0.1) == 0.0
    with pytest.raises(ValueError, match="-1 ports"):
        probability(-1, 1.0, 1.0)


@pytest.mark.parametrize(
    ("before", "after", "delta", "expected"),
    [
        (50000, 50002, 1, (50001,)),
        (50000, 50008, 2, (50002, 50004, 50006)),
        (50000, 49997, -1, (49999, 49998)),
        (50000, 50001, 1, ()),  # no port was allocated in between
        (50000, 50005, 2, ()),  # another delta
        (50000, 49000, 1, ()),  # the sequence has restarted
        (50000, 50010, 1, ()),  # more than the window
    ],
)
def test_the_ports_between_two_measurements(before: int, after: int, delta: int, expected: tuple[int, ...]) -> None:
    assert between(before, after, delta, 8) == expected


def test_the_window_ends_with_the_last_port() -> None:
    assert following(65533, 1, 8) == (65534, 65535)
    assert following(5, -2, 8) == (3, 1)
