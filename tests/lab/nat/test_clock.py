"""Shortened timeouts for tests of idle connections."""

from __future__ import annotations

import pytest

from punchlab.lab.check.clock import SHORTEST_S, shortened
from punchlab.lab.errors import InputError
from punchlab.punch.nat.behavior import Timeouts


def test_by_default_timeouts_become_a_few_seconds_and_keep_their_order() -> None:
    quick = shortened(Timeouts(120, 432000, 60, 30, 120), None)
    assert quick == Timeouts(4, 5, 3, 2, 4)
    assert shortened(Timeouts(), None).udp_solitary_s > shortened(Timeouts(), None).tcp_transitory_s == SHORTEST_S


def test_a_scale_divides_all_timeouts() -> None:
    assert shortened(Timeouts(120, 3600, 60, 30, 120), 15) == Timeouts(8, 240, 4, 2, 8)


def test_a_scale_that_is_too_large_is_rejected() -> None:
    with pytest.raises(InputError, match=r"time-scale: 16 .* at most 15, or udp_solitary_s would be under 2 s"):
        shortened(Timeouts(120, 3600, 60, 30, 120), 16)
