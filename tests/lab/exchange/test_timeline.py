"""An exchange as it is told."""

from __future__ import annotations

import pytest

from punchlab.lab.exchange import Exchange
from punchlab.lab.exchange.timeline import deciding, render
from tests.lab.exchange.story import EDGE, OUT_B, PAIR, A, Story


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


def test_repetition_is_collapsed() -> None:
    story = Story()
    for number in range(40):
        story.tcp(10 * number, "S", 100 + number, until=4)
    story.tcp(500, "S", 200)
    exchange = story.told()
    assert render(exchange).count("\n") == 40 * 3 + 4
    assert render(exchange, collapse=True) == (
        "       0.000 ms  a      #1 SYN 192.168.1.2:41000 > 11.0.2.2:41000\n"
        "       0.020 ms  nat_a  #1 becomes 11.0.1.2:41000 > 11.0.2.2:41000\n"
        "      10.000 ms  a      #2 to #40: 39 more SYN 192.168.1.2 > 11.0.2.2 until 390.000 ms, dropped at nat_b\n"
        "      20.030 ms  nat_b  #1 dropped\n"
        "     500.000 ms  a      #41 SYN 192.168.1.2:41000 > 11.0.2.2:41000\n"
        "     500.020 ms  nat_a  #41 becomes 11.0.1.2:41000 > 11.0.2.2:41000\n"
        "     520.040 ms  nat_b  #41 becomes 11.0.1.2:41000 > 192.168.1.2:41000\n"
        "     520.050 ms  b      #41 received\n"
    )


def test_packets_that_are_not_repeated_stay_as_they_are() -> None:
    story = Story()
    story.tcp(0, "S", 100, until=4)
    story.tcp(20, "RA", 0, 101, forth=False, source=(OUT_B,) * 3, after=2)
    exchange = story.told()
    assert render(exchange, collapse=True) == render(exchange)


def test_the_packets_that_decided_are_the_first_syns_and_their_answers() -> None:
    story = Story()
    story.tcp(0, "S", 100, until=4)
    story.tcp(21, "RA", 0, 101, forth=False, source=(OUT_B,) * 3, after=2)
    for number in range(5):
        story.tcp(100 + number, "S", 200 + number, until=4)
    assert deciding(story.told()) == [
        "       0.000 ms  a      SYN to 11.0.2.2:41000: refused by nat_b with RST",
        "      21.000 ms  nat_b  RST to 11.0.1.2:41000: received by a",
    ]


def test_without_frames_there_is_a_story_without_events() -> None:
    exchange = Exchange([], PAIR)
    assert render(exchange) == render(exchange, collapse=True) == ""
    assert deciding(exchange) == []
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
    with pytest.raises(ValueError, match="host: 'nat_a' cannot be used; expected a or b"):
        Exchange([], PAIR).first_syn("nat_a")
