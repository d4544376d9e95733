"""An exchange as it is told."""

from __future__ import annotations

import pytest

from punchlab.lab.exchange import Exchange
from punchlab.lab.exchange.timeline import render
from tests.lab.story import EDGE, OUT_B, PAIR, A, Story


def test_the_timeline_is_in_order_and_counts_from_the_first_punch_syn() -> None:
    story = Story()
    story.add(0, ("a-eth0>", "edge1-eth0<"), [(A, EDGE)], story.segment("S", 1, 0, 1))
    story.tcp(50, "S", 100, until=4)
    story.tcp(71, "RA", 0, 101, forth=False, source=(OUT_B,) * 3, after=2)
    story.tcp(150, "S", 200, until=4)
    assert render(story.told()) == (
        "     -50.000 ms  a      #1 SYN 192.168.1.2:41000 > 11.0.0.1:7000 (rendezvous)\n"
        "     -49.990 ms  edge1  #1 received\n"
        "       0.000 ms  a      #2 SYN 192.168.1.2:41000 > 11.0.2.2:41000\n"
        "       0.020 ms  nat_a  #2 becomes 11.0.1.2:41000 > 11.0.2.2:41000\n"
        "      20.030 ms  nat_b  #2 refused\n"
        "      21.000 ms  nat_b  #3 RST 11.0.2.2:41000 > 11.0.1.2:41000, answers #2\n"
        "      41.020 ms  nat_a  #3 becomes 11.0.2.2:41000 > 192.168.1.2:41000\n"
        "      41.030 ms  a      #3 received\n"
        "     100.000 ms  a      #4 SYN 192.168.1.2:41000 > 11.0.2.2:41000\n"
        "     100.020 ms  nat_a  #4 becomes 11.0.1.2:41000 > 11.0.2.2:41000\n"
        "     120.030 ms  nat_b  #4 dropped\n"
    )


def test_without_frames_there_is_a_story_without_events() -> None:
    exchange = Exchange([], PAIR)
    assert render(exchange) == ""
    assert exchange.skew_s is None
    assert exchange.summary() == {
        "crossed": False,
        "simultaneous_open": False,
        "syns": 0,
        "resets": 0,
        "icmp": 0,
        "dropped": 0,
    }


def test_a_node_that_is_neither_host_is_refused() -> None:
    with pytest.raises(ValueError, match="nat_a: neither a nor b"):
        Exchange([], PAIR).first_syn("nat_a")
