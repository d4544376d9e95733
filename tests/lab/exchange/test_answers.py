"""What answers a segment: resets, and errors of routers on the way."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, IPerror, TCPerror
from scapy.layers.l2 import Ether

from punchlab.lab.exchange import Kind
from punchlab.lab.exchange.timeline import render
from tests.lab.exchange.story import OUT_A, OUT_B, A, Story, only


def test_a_reset_of_a_syn_ack_is_its_answer_but_refuses_no_syn() -> None:
    """A socket that closed meanwhile resets what comes for it (its sequence number is what was acknowledged)."""
    story = Story()
    story.handshake(0, 100)
    story.tcp(60, "R", 101)
    exchange = story.told()
    syn_ack = next(segment for segment in exchange.segments if segment.kind is Kind.SYN_ACK)
    answer = exchange.answer(syn_ack)
    assert answer is not None
    assert answer.kind is Kind.RST
    assert exchange.refused == ()


def test_an_icmp_error_answers_the_segment_that_it_quotes() -> None:
    story = Story()
    story.tcp(0, "S", 100, until=4)
    for between, error in (((OUT_A, OUT_B), ("nat_b-eth0>", "nat_a-eth0<")), ((A, OUT_B), ("nat_a-eth1>", "a-eth0<"))):
        source, destination = (end.partition(":")[0] for end in between)
        quoted = IPerror(src=source, dst=destination, id=1) / TCPerror(sport=41000, dport=41000, seq=100)
        at_ms = 21 if error[0].startswith("nat_b") else 41.1
        message = Ether() / IP() / ICMP(type=3, code=1) / quoted
        story.add(at_ms, error, [("11.0.2.2", source)], message)
    exchange = story.told()
    answer = exchange.answer(only(exchange.refused))
    assert answer is not None
    assert (answer.origin, answer.icmp, exchange.delivered_to(answer)) == ("nat_b", (3, 1), "a")
    assert "ICMP host unreachable 11.0.2.2 > 11.0.1.2, answers #1" in render(exchange)


def test_a_syn_that_dies_on_the_way_is_told_with_the_router_that_says_so() -> None:
    """A low TTL: the hole is open, the peer has seen nothing, and its SYN comes in."""
    story = Story()
    on_the_way = ("a-eth0>", "nat_a-eth1<", "nat_a-eth0>", "core-eth1<")
    story.add(0, on_the_way, [(A, OUT_B)] * 2 + [(OUT_A, OUT_B)], story.segment("S", 100, 0, 1))
    for at_ms, places, end in ((10, ("core-eth1>", "nat_a-eth0<"), OUT_A), (10.1, ("nat_a-eth1>", "a-eth0<"), A)):
        quoted = IPerror(src=end.partition(":")[0], dst="11.0.2.2", id=1) / TCPerror(sport=41000, dport=41000, seq=100)
        story.add(at_ms, places, [("11.0.1.1", end)], Ether() / IP() / ICMP(type=11, code=0) / quoted)
    story.tcp(30, "S", 200, forth=False)
    story.tcp(55, "SA", 100, 201)
    exchange = story.told()
    low = only(exchange.syns("a"))
    answer = exchange.answer(low)
    assert answer is not None
    assert (answer.origin, answer.icmp, exchange.delivered_to(answer)) == ("core", (11, 0), "a")
    assert exchange.refused == (low,)
    assert not exchange.crossed
    assert exchange.skew_s == pytest.approx(0.03)
    assert exchange.simultaneous_open
    assert exchange.summary() == {
        "crossed": False, "simultaneous_open": True, "syns": 2, "resets": 0, "icmp": 1, "dropped": 0,
    }  # fmt: skip
    assert "ICMP time to live exceeded 11.0.1.1 > 11.0.1.2, answers #1" in render(exchange)
