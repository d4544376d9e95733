"""The exchange's corner cases, told with frames that scapy builds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from lab.capture import Frame
from lab.exchange import Exchange, Kind, Pair, Segment, Side, follow
from lab.exchange.wire import decode

A = B = "192.168.1.2:41000"
OUT_A, OUT_B = "11.0.1.2:41000", "11.0.2.2:41000"
EDGE = "11.0.0.1:7000"
PAIR = Pair(
    Side("a", ("nat_a",), frozenset({"11.0.1.2"})),
    Side("b", ("nat_b",), frozenset({"11.0.2.2"})),
    edges={"edge1": frozenset({"11.16.0.2", "11.0.0.1"})},
)
START_NS = 1_800_000_000_000_000_000

# Interface, ">" for out of the node and "<" for into it. The frames of a journey are 10 microseconds apart,
# and 20 ms between the NATs.
FORTH = ("a-eth0>", "nat_a-eth1<", "nat_a-eth0>", "nat_b-eth0<", "nat_b-eth1>", "b-eth0<")
BACK = ("b-eth0>", "nat_b-eth1<", "nat_b-eth0>", "nat_a-eth0<", "nat_a-eth1>", "a-eth0<")
DELAY_MS = 20.0


class Story:
    """Frames, added journey by journey."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._identification = 0

    @property
    def frames(self) -> list[Frame]:
        return sorted(self._frames, key=lambda frame: frame.time_ns)

    def told(self, pair: Pair = PAIR, agreed: tuple[str, str] | None = None) -> Exchange:
        exchange = Exchange(self.frames, pair, agreed)
        print(exchange.timeline())
        return exchange

    def add(self, at_ms: float, places: Sequence[str], ends: Sequence[tuple[str, str]], packet: Packet) -> None:
        """A packet that is at `places` in turn, with source and destination `ends` (the last one holds on)."""
        for number, place in enumerate(places):
            source, destination = ends[min(number, len(ends) - 1)]
            wire = packet.copy()
            wire[IP].src, wire[IP].dst = source.partition(":")[0], destination.partition(":")[0]
            if TCP in wire and ICMP not in wire:
                wire[TCP].sport, wire[TCP].dport = int(source.partition(":")[2]), int(destination.partition(":")[2])
            if number and place[:-1] in ("nat_a-eth0", "nat_b-eth0") and place.endswith("<"):
                at_ms += DELAY_MS
            data = bytes(wire)
            interface = place[:-1]
            time_ns = START_NS + round(at_ms * 1e6)
            node = interface.rpartition("-")[0]
            self._frames.append(Frame(time_ns, node, interface, place.endswith(">"), data, len(data)))
            at_ms += 0.01

    def tcp(
        self,
        at_ms: float,
        flags: str,
        sequence: int,
        acknowledgment: int = 0,
        *,
        forth: bool = True,
        source: tuple[str, str, str] | None = None,
        destination: tuple[str, str, str] | None = None,
        until: int | None = None,
        after: int = 0,
        identification: int | None = None,
    ) -> None:
        """A segment between a and b through both NATs, seen at the places from `after` to before `until`.

        `source` and `destination` are the endpoints before the first NAT, between the NATs and behind the second.
        """
        source = source or ((A, OUT_A, OUT_A) if forth else (B, OUT_B, OUT_B))
        destination = destination or ((OUT_B, OUT_B, B) if forth else (OUT_A, OUT_A, A))
        ends = [(source[leg], destination[leg]) for leg in range(3) for _ in range(2)]
        self._identification += 1
        packet = self.segment(flags, sequence, acknowledgment, identification or self._identification)
        self.add(at_ms, (FORTH if forth else BACK)[after:until], ends[after:], packet)

    @staticmethod
    def segment(flags: str, sequence: int, acknowledgment: int = 0, identification: int = 0) -> Packet:
        return Ether() / IP(id=identification, flags="DF") / TCP(flags=flags, seq=sequence, ack=acknowledgment)

    def handshake(
        self,
        at_ms: float,
        sequence: int = 100,
        local: str = A,
        outside: str = OUT_A,
        remote: str = OUT_B,
        peer: str = B,
    ) -> None:
        """a's SYN and the SYN-ACK of a listener of b."""
        to_b, to_a = (remote, remote, peer), (outside, outside, local)
        self.tcp(at_ms, "S", sequence, source=(local, outside, outside), destination=to_b)
        self.tcp(
            at_ms + 25,
            "SA",
            sequence + 5000,
            sequence + 1,
            forth=False,
            source=(peer, remote, remote),
            destination=to_a,
        )


def only(segments: Sequence[Segment]) -> Segment:
    (segment,) = segments
    return segment


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


def test_port_translation_does_not_hide_a_crossing() -> None:
    story = Story()
    outside_a, outside_b = "11.0.1.2:50001", "11.0.2.2:50002"
    story.tcp(0, "S", 100, source=(A, outside_a, outside_a), destination=(outside_b, outside_b, B))
    story.tcp(5, "S", 200, forth=False, source=(B, outside_b, outside_b), destination=(outside_a, outside_a, A))
    exchange = story.told()
    assert exchange.crossed
    assert [each.after for each in only(exchange.syns("a")).translations] == [
        (outside_a, outside_b),
        (outside_a, B),
    ]
    assert exchange.skew_s == pytest.approx(0.005)
    assert exchange.delay_s("a") == pytest.approx(0.02, abs=1e-4)


@pytest.mark.parametrize(
    ("skew_ms", "crossed"), [(-19.9, True), (0, True), (19.9, True), (20.2, False), (-20.2, False)]
)
def test_syns_cross_when_each_leaves_before_the_other_arrives(skew_ms: float, crossed: bool) -> None:
    story = Story()
    story.tcp(100, "S", 100)
    story.tcp(100 + skew_ms, "S", 200, forth=False)
    exchange = story.told()
    assert exchange.crossed is crossed
    assert exchange.skew_s == pytest.approx(skew_ms / 1000)


def test_syns_of_different_connections_do_not_cross() -> None:
    """A symmetric NAT's SYN comes from a port that the peer's SYN does not go to."""
    story = Story()
    story.tcp(0, "S", 100, until=4)
    story.tcp(0, "S", 200, forth=False, source=(B, "11.0.2.2:53211", "11.0.2.2:53211"), until=4)
    exchange = story.told()
    assert not exchange.crossed
    assert [exchange.dropped_at(syn) for syn in exchange.dropped] == ["nat_b", "nat_a"]


def test_a_later_attempt_can_cross() -> None:
    story = Story()
    story.tcp(0, "S", 100, until=4)
    story.tcp(21, "RA", 0, 101, forth=False, source=(OUT_B,) * 3, after=2)
    story.tcp(100, "S", 101)
    story.tcp(105, "S", 200, forth=False)
    exchange = story.told()
    crossing = exchange.crossing
    assert crossing is not None
    assert [segment.sequence for segment in crossing] == [101, 200]
    assert exchange.skew_s == pytest.approx(0.105)


def test_a_public_host_is_its_own_gate() -> None:
    pair = Pair(Side("a", (), frozenset({"11.0.1.2"})), Side("b", ("nat_b",), frozenset({"11.0.2.2"})))
    story = Story()
    story.add(0, FORTH[0:1] + FORTH[3:], [(OUT_A, OUT_B)] * 2 + [(OUT_A, B)], story.segment("S", 100, 0, 1))
    story.add(5, (*BACK[:3], "a-eth0<"), [(B, OUT_A)] * 2 + [(OUT_B, OUT_A)], story.segment("S", 200, 0, 1))
    story.add(30, FORTH[0:1] + FORTH[3:], [(OUT_A, OUT_B)] * 2 + [(OUT_A, B)], story.segment("SA", 100, 201))
    exchange = story.told(pair)
    assert pair.gate(pair.a) == "a"
    assert exchange.winner is not None
    assert exchange.winner.nats == ("nat_b",)
    assert exchange.winner.simultaneous == {"a"}


def test_behind_one_nat_the_way_is_a_hairpin() -> None:
    shared = Side("a", ("nat",), frozenset({"11.0.1.2"})), Side("b", ("nat",), frozenset({"11.0.1.2"}))
    pair = Pair(*shared)
    a, b, out_a, out_b = "192.168.1.2:41000", "192.168.1.3:41000", "11.0.1.2:41000", "11.0.1.2:41001"
    forth = ("a-eth0>", "nat-eth1<", "nat-eth1>", "b-eth0<")
    back = ("b-eth0>", "nat-eth1<", "nat-eth1>", "a-eth0<")
    story = Story()
    story.add(0, forth, [(a, out_b)] * 2 + [(out_a, b)] * 2, story.segment("S", 100, 0, 1))
    story.add(10, back, [(b, out_a)] * 2 + [(out_b, a)] * 2, story.segment("SA", 900, 101))
    exchange = story.told(pair)
    assert (pair.gate(pair.a), pair.gate(pair.b)) == ("a", "b")
    assert exchange.winner is not None
    assert exchange.winner.nats == ("nat",)
    assert exchange.winner.nodes == ("a", "nat", "b")
    assert (exchange.winner.at_a, exchange.winner.at_b) == ((a, out_b), (b, out_a))


def test_behind_a_shared_carrier_nat_the_gates_are_the_home_nats() -> None:
    pair = Pair(Side("a", ("home_a", "cgn")), Side("b", ("home_b", "cgn")))
    assert (pair.gate(pair.a), pair.gate(pair.b)) == ("home_a", "home_b")


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


def test_the_winner_is_the_connection_that_lived_longest() -> None:
    story = Story()
    story.handshake(0, 100)
    other = {"local": "192.168.1.2:41001", "outside": "11.0.1.2:41001"}
    story.handshake(10, 300, **other)
    story.tcp(200, "FA", 101, 5101)
    exchange = story.told()
    assert len(exchange.connections) == 2
    assert exchange.winner is exchange.connections[1]
    assert exchange.winner.at_a == ("192.168.1.2:41001", OUT_B)
    assert exchange.connections[0].ended_ns is not None


def test_the_winner_is_the_one_that_the_clients_agreed_on() -> None:
    story = Story()
    story.handshake(0, 100)
    story.handshake(10, 300, local="192.168.1.2:41001", outside="11.0.1.2:41001")
    exchange = story.told(agreed=(A, OUT_B))
    assert exchange.winner is exchange.connections[0]
    assert story.told(agreed=(A, "11.9.9.9:1")).winner is None
    assert story.told(agreed=(A, "11.9.9.9:1")).winner_nats == ()


def test_an_unanswered_connection_is_no_winner() -> None:
    story = Story()
    story.tcp(0, "S", 100)
    exchange = story.told()
    assert len(exchange.connections) == 1
    assert exchange.winner is None
    assert not exchange.simultaneous_open


def test_a_syn_ack_for_another_syn_establishes_nothing() -> None:
    story = Story()
    story.tcp(0, "S", 100)
    story.tcp(25, "SA", 900, 99, forth=False)
    assert story.told().winner is None


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
    assert "ICMP host unreachable 11.0.2.2 > 11.0.1.2, answers #1" in exchange.timeline()


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
    assert "ICMP time to live exceeded 11.0.1.1 > 11.0.1.2, answers #1" in exchange.timeline()


def test_a_guess_that_finds_the_next_port_is_the_winner() -> None:
    """a, behind ports in sequence, comes from 50003; b dials 50001 and on, the third of which crosses a's SYN."""
    story = Story()
    outside = "11.0.1.2:50003"
    story.tcp(0, "S", 100, source=(A, outside, outside))
    for number in range(1, 6):
        guess = f"11.0.1.2:{50000 + number}"
        hit = guess == outside
        story.tcp(number / 10, "S", 200 + number, forth=False, destination=(guess, guess, A), until=None if hit else 4)
        if not hit:
            story.tcp(number / 10 + 21, "RA", 0, 201 + number, source=(guess,) * 3, destination=(OUT_B, OUT_B, B),
                      after=2)  # fmt: skip
    story.tcp(25, "SA", 100, 204, source=(A, outside, outside))
    agreed = (A, OUT_B)
    exchange = story.told(agreed=agreed)
    assert exchange.skew_s == pytest.approx(0.0001)
    crossing = exchange.crossing
    assert crossing is not None
    assert [segment.sequence for segment in crossing] == [100, 203]
    assert exchange.winner is not None
    assert exchange.winner.at_b == (B, outside)
    assert exchange.winner.nats == ("nat_a", "nat_b")
    assert exchange.simultaneous_open
    assert (exchange.summary()["syns"], exchange.summary()["resets"]) == (6, 4)


def test_of_many_ports_the_one_that_a_probe_finds_wins() -> None:
    """a opens ports that nobody knows, b probes; the lucky socket of a is not the one that it registered with."""
    story = Story()
    sockets = [(f"192.168.1.2:{42000 + number}", f"11.0.1.2:{20000 + 7 * number}") for number in range(300)]
    for number, (local, outside) in enumerate(sockets):
        story.tcp(number / 100, "S", 1000 + number, source=(local, outside, outside), until=4)
    probes = [f"11.0.1.2:{20000 + 11 * number}" for number in range(1, 200)]
    lucky_local, lucky = sockets[11]
    for number, probe in enumerate(probes):
        hit = probe == lucky
        story.tcp(40 + number / 10, "S", 9000 + number, forth=False, destination=(probe, probe, lucky_local),
                  until=None if hit else 4)  # fmt: skip
        if hit:
            acknowledgment = 9001 + number
            break
    story.tcp(65, "SA", 1011, acknowledgment, source=(lucky_local, lucky, lucky))
    exchange = story.told(agreed=(lucky_local, OUT_B))
    assert exchange.winner is not None
    assert (exchange.winner.at_a, exchange.winner.at_b) == ((lucky_local, OUT_B), (B, lucky))
    assert exchange.winner.simultaneous == {"a"}
    assert not exchange.crossed
    assert exchange.skew_s == pytest.approx(0.04)


def test_asking_ones_own_gateway_for_a_mapping_is_no_punch() -> None:
    side = Side("a", ("nat_a",), frozenset({"11.0.1.2"}), gateways=frozenset({"192.168.1.1"}))
    story = Story()
    story.add(0, ("a-eth0>", "nat_a-eth1<"), [("192.168.1.2:50000", "192.168.1.1:5000")], story.segment("S", 9, 0, 1))
    story.tcp(100, "S", 100)
    story.tcp(103, "S", 200, forth=False)
    exchange = story.told(Pair(side, PAIR.b, PAIR.edges))
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
    assert "(rendezvous)" in exchange.timeline()


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


def test_a_winner_seen_at_an_edge_is_told() -> None:
    story = Story()
    places = (
        "a-eth0>",
        "nat_a-eth1<",
        "nat_a-eth0>",
        "edge1-eth0<",
        "edge1-eth0>",
        "nat_b-eth0<",
        "nat_b-eth1>",
        "b-eth0<",
    )
    story.add(0, places, [(A, OUT_B)] * 2 + [(OUT_A, OUT_B)] * 4 + [(OUT_A, B)], story.segment("S", 100, 0, 1))
    story.tcp(30, "SA", 900, 101, forth=False)
    assert story.told().winner_touched_edge
    without = Story()
    without.handshake(0)
    assert not without.told().winner_touched_edge


def test_a_syn_that_reaches_the_wrong_host_is_delivered_there() -> None:
    pair = Pair(PAIR.a, PAIR.b, PAIR.edges, others=frozenset({"c"}))
    story = Story()
    story.add(0, ("a-eth0>", "c-eth0<"), [(A, "192.168.1.3:41000")], story.segment("S", 100, 0, 1))
    exchange = story.told(pair)
    assert exchange.delivered_to(only(exchange.syns())) == "c"
    assert exchange.dropped == ()


def test_the_skew_is_of_the_syns_to_where_the_internet_finds_the_peer() -> None:
    story = Story()
    story.add(0, ("a-eth0>",), [(A, "10.9.9.9:41000")], story.segment("S", 50, 0, 1))
    story.tcp(10, "S", 100)
    story.tcp(13, "S", 200, forth=False)
    exchange = story.told()
    assert exchange.skew_s == pytest.approx(0.003)
    assert exchange.summary()["syns"] == 3
    assert exchange.dropped_at(exchange.syns("a")[0]) == "a"


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


def ipv6(payload: Packet, source: str = "2a11::1", destination: str = "2a11::2") -> bytes:
    return bytes(Ether() / IPv6(src=source, dst=destination) / payload)


@pytest.mark.parametrize(
    ("flags", "kind", "acknowledgment"),
    [("S", Kind.SYN, None), ("SA", Kind.SYN_ACK, 6), ("FA", Kind.FIN, 6), ("R", Kind.RST, None), ("A", None, None)],
)
def test_segments_over_ipv6(flags: str, kind: Kind | None, acknowledgment: int | None) -> None:
    packet = decode(ipv6(TCP(flags=flags, seq=5, ack=6, sport=41000, dport=41001)))
    assert (packet and packet.kind) == kind
    if packet is not None:
        assert (packet.source, packet.destination) == ("[2a11::1]:41000", "[2a11::2]:41001")
        assert (packet.sequence, packet.acknowledgment) == (5, acknowledgment)


def test_an_icmpv6_error_quotes_a_segment_and_neighbor_discovery_is_no_error() -> None:
    quoted = IPv6(src="2a11::1", dst="2a11::2") / TCP(flags="S", seq=77, sport=41000, dport=41001)
    packet = decode(ipv6(ICMPv6DestUnreach(code=4) / quoted, "2a11::9", "2a11::1"))
    assert packet is not None
    assert (packet.kind, packet.icmp, packet.sequence) == (Kind.ICMP, (1, 4), 77)
    assert (packet.source, packet.destination) == ("2a11::9", "2a11::1")
    assert decode(ipv6(ICMPv6ND_NS(tgt="2a11::1"))) is None
    for length in range(14, 100):
        decode(ipv6(ICMPv6DestUnreach(code=4) / quoted)[:length])  # cut short: no matter


def test_the_timeline_is_in_order_and_counts_from_the_first_punch_syn() -> None:
    story = Story()
    story.add(0, ("a-eth0>", "edge1-eth0<"), [(A, EDGE)], story.segment("S", 1, 0, 1))
    story.tcp(50, "S", 100, until=4)
    story.tcp(71, "RA", 0, 101, forth=False, source=(OUT_B,) * 3, after=2)
    story.tcp(150, "S", 200, until=4)
    assert story.told().timeline() == (
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
    assert exchange.timeline() == ""
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


@pytest.mark.parametrize(
    "packet",
    [
        Ether() / IP() / UDP(),
        Ether() / IP() / TCP(flags="A"),
        Ether() / IP() / ICMP(type=8),
        Ether() / IP(frag=5) / TCP(flags="S"),
        Ether() / IP() / ICMP(type=3, code=3) / IPerror() / UDP(),
        Ether(type=0x0806) / Raw(b"\0" * 28),
        Ether(type=0x86DD) / Raw(b"\0" * 60),
    ],
    ids=["udp", "acknowledgment", "echo", "fragment", "udp-error", "arp", "ipv6"],
)
def test_what_no_story_needs_is_left_out(packet: Packet) -> None:
    assert decode(bytes(packet)) is None


@given(st.binary(max_size=120) | st.binary(max_size=80).map(lambda rest: bytes(12) + b"\x08\x00\x45" + rest))
def test_no_bytes_upset_the_decoder(data: bytes) -> None:
    decode(data)


@given(st.integers(0, 54))
def test_a_frame_cut_short_is_left_out_or_told_the_same(length: int) -> None:
    data = bytes(Ether() / IP(id=1) / TCP(flags="S", seq=5))
    assert decode(data[:length]) in (None, decode(data))
