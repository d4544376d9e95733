"""What is not the punch: rendezvous with an edge, and mappings asked of a gateway."""

from __future__ import annotations

import pytest

from punchlab.lab.exchange import Exchange, HostPair, HostSide
from punchlab.lab.exchange.timeline import render
from tests.lab.exchange.story import EDGE, OUT_A, PAIR, A, Story, only


def test_asking_ones_own_gateway_for_a_mapping_is_no_punch() -> None:
    side = HostSide("a", ("nat_a",), frozenset({"11.0.1.2"}), gateways=frozenset({"192.168.1.1"}))
    story = Story()
    story.add(0, ("a-eth0>", "nat_a-eth1<"), [("192.168.1.2:50000", "192.168.1.1:5000")], story.segment("S", 9, 0, 1))
    story.tcp(100, "S", 100)
    story.tcp(103, "S", 200, forth=False)
    exchange = story.told(HostPair(side, PAIR.b, PAIR.edges))
    assert [syn.sequence for syn in exchange.syns("a")] == [100]
    assert exchange.skew_s == pytest.approx(0.003)


def test_how_long_others_had_to_take_ports_counts_from_the_last_syn_that_an_edge_received() -> None:
    story = Story()
    places = ("a-eth0>", "nat_a-eth1<", "nat_a-eth0>", "edge1-eth0<")
    for at_ms, reached in ((0, 4), (30, 4), (70, 3)):
        story.add(at_ms, places[:reached], [(A, EDGE)] * 2 + [(OUT_A, EDGE)], story.segment("S", 1, 0, int(at_ms) + 1))
    assert story.told().since_rendezvous_s("a") is None
    story.tcp(100, "S", 100)
    story.add(150, places, [(A, EDGE)] * 2 + [(OUT_A, EDGE)], story.segment("S", 1, 0, 151))
    assert story.told().since_rendezvous_s("a") == pytest.approx(0.07)
    assert story.told().since_rendezvous_s("b") is None


def test_a_syn_to_an_edge_is_rendezvous_and_no_punch() -> None:
    story = Story()
    story.add(0, ("a-eth0>", "nat_a-eth1<", "nat_a-eth0>", "edge1-eth0<"), [(A, EDGE)] * 2 + [(OUT_A, EDGE)],
              story.segment("S", 1, 0, 1))  # fmt: skip
    exchange = story.told()
    assert exchange.syns() == ()
    assert exchange.first_syn("a") is None
    assert exchange.delivered_to(only(exchange.segments)) == "edge1"
    assert "(rendezvous)" in render(exchange)


def rendezvous(closed_at_ms: float | None, port: int = 41000) -> Exchange:
    """a's rendezvous, closed at that time, and its punch SYN at 100 ms."""
    local, outside = f"192.168.1.2:{port}", f"11.0.1.2:{port}"
    places = ("a-eth0>", "nat_a-eth1<", "nat_a-eth0>", "edge1-eth0<")
    ends = [(local, EDGE)] * 2 + [(outside, EDGE)]
    story = Story()
    story.add(0, places, ends, story.segment("S", 1, 0, 1))
    if closed_at_ms is not None:
        story.add(closed_at_ms, places, ends, story.segment("FA", 2, 1))
    story.tcp(100, "S", 100)
    return story.told()


def test_whether_the_rendezvous_was_closed_before_the_punch() -> None:
    assert rendezvous(closed_at_ms=50).rendezvous_closed_before_punch("a")
    assert not rendezvous(closed_at_ms=150).rendezvous_closed_before_punch("a")
    assert not rendezvous(closed_at_ms=None).rendezvous_closed_before_punch("a")
    assert not rendezvous(closed_at_ms=50, port=41001).rendezvous_closed_before_punch("a")
    assert not rendezvous(closed_at_ms=50).rendezvous_closed_before_punch("b")
