"""Which frames are one segment, and how far it came."""

from __future__ import annotations

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from punchlab.lab.exchange import HostPair, Kind, follow
from tests.lab.exchange.story import OUT_A, OUT_B, PAIR, A, B, Story, only


def test_a_retransmission_is_a_syn_of_its_own() -> None:
    story = Story()
    story.tcp(0, "S", 100, until=4)
    story.tcp(1000, "S", 100)
    exchange = story.told()
    first, second = exchange.syns()
    assert exchange.dropped_at(first) == "nat_b"
    assert exchange.delivered_to(second) == "b"
    assert exchange.summary()["syns"] == 2
    assert exchange.summary()["dropped"] == 1


def test_identical_segments_are_told_apart_by_where_they_began() -> None:
    """Two RSTs for two copies of one SYN differ in nothing."""
    story = Story()
    for at_ms in (0, 1000):
        story.tcp(at_ms, "S", 100, until=4)
        story.tcp(at_ms + 21, "RA", 0, 101, forth=False, source=(OUT_B,) * 3, after=2, identification=7)
    exchange = story.told()
    resets = [segment for segment in exchange.segments if segment.kind is Kind.RST]
    assert [exchange.answer(syn) for syn in exchange.refused] == resets
    assert [exchange.delivered_to(reset) for reset in resets] == ["a", "a"]
    assert exchange.summary()["resets"] == 2


def test_copies_that_overlap_are_each_followed_to_their_end() -> None:
    story = Story()
    story.tcp(0, "RA", 0, 101, identification=7)
    story.tcp(5, "RA", 0, 101, identification=7)
    one, other = follow(story.frames)
    assert len(one.hops) == len(other.hops) == 6
    assert (other.sent_ns - one.sent_ns) == 5_000_000


def test_a_nat_may_send_a_packet_back_the_way_it_came() -> None:
    """A hairpin through a router outside of the capture: out of the NAT and in again at the same interface."""
    story = Story()
    places = ("a-eth0>", "nat_a-eth1<", "nat_a-eth0>", "nat_a-eth0<")
    story.add(0, places, [(A, OUT_A)] * 2 + [(OUT_A, OUT_A)], story.segment("S", 100, 0, 1))
    assert len(only(follow(story.frames)).hops) == 4


def test_a_bridge_shows_a_packet_on_itself_and_on_its_port() -> None:
    story = Story()
    places = ("a-eth0>", "nat_a-port1<", "nat_a-bridge<", "nat_a-eth0>")
    story.add(0, places, [(A, OUT_B)] * 3 + [(OUT_A, OUT_B)], story.segment("S", 100, 0, 1))
    assert only(follow(story.frames)).nodes == ("a", "nat_a")


def test_a_syn_that_reaches_the_wrong_host_is_delivered_there() -> None:
    pair = HostPair(PAIR.a, PAIR.b, PAIR.edges, others=frozenset({"c"}))
    story = Story()
    story.add(0, ("a-eth0>", "c-eth0<"), [(A, "192.168.1.3:41000")], story.segment("S", 100, 0, 1))
    exchange = story.told(pair)
    assert exchange.delivered_to(only(exchange.syns())) == "c"
    assert exchange.dropped == ()


def test_a_segment_from_outside_of_the_capture_has_no_origin() -> None:
    story = Story()
    story.tcp(0, "S", 100, after=3)
    segment = only(follow(story.frames))
    assert segment.origin is None
    assert segment.nodes == ("nat_b", "b")


def test_a_fin_is_one_segment_though_an_interface_splits_what_it_ends() -> None:
    whole = Story.segment("FA", 1000, 50) / Raw(b"x" * 3000)
    tail = Story.segment("FA", 1000 + 1448 * 2, 50) / Raw(b"x" * (3000 - 1448 * 2))
    story = Story()
    story.add(0, ("a-eth0>",), [(A, OUT_B)], whole)
    story.add(1, ("nat_a-eth1<",), [(A, OUT_B)], tail)
    assert only(follow(story.frames)).nodes == ("a", "nat_a")


def test_timestamps_tell_a_syn_ack_from_its_retransmission() -> None:
    story = Story()
    for at_ms, stamp in ((0, 1), (1000, 2)):
        options = [("Timestamp", (stamp, 0))]
        packet = Ether() / IP(id=0) / TCP(flags="SA", seq=5, ack=6, options=options)
        story.add(at_ms, ("b-eth0>", "nat_b-eth1<"), [(B, OUT_A)], packet)
    assert len(follow(story.frames)) == 2
