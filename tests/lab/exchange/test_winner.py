"""Which connection won, and the way that it took."""

from __future__ import annotations

import pytest

from punchlab.lab.exchange import HostPair, HostSide
from tests.lab.exchange.story import BACK, FORTH, OUT_A, OUT_B, A, B, Story


def test_a_public_host_is_its_own_gate() -> None:
    pair = HostPair(HostSide("a", (), frozenset({"11.0.1.2"})), HostSide("b", ("nat_b",), frozenset({"11.0.2.2"})))
    story = Story()
    story.add(0, FORTH[0:1] + FORTH[3:], [(OUT_A, OUT_B)] * 2 + [(OUT_A, B)], story.segment("S", 100, 0, 1))
    story.add(5, (*BACK[:3], "a-eth0<"), [(B, OUT_A)] * 2 + [(OUT_B, OUT_A)], story.segment("S", 200, 0, 1))
    story.add(30, FORTH[0:1] + FORTH[3:], [(OUT_A, OUT_B)] * 2 + [(OUT_A, B)], story.segment("SA", 100, 201))
    exchange = story.told(pair)
    assert pair.border(pair.a) == "a"
    assert exchange.winner is not None
    assert exchange.winner.nats == ("nat_b",)
    assert exchange.winner.simultaneous == {"a"}


def test_behind_one_nat_the_way_is_a_hairpin() -> None:
    shared = HostSide("a", ("nat",), frozenset({"11.0.1.2"})), HostSide("b", ("nat",), frozenset({"11.0.1.2"}))
    pair = HostPair(*shared)
    a, b, out_a, out_b = "192.168.1.2:41000", "192.168.1.3:41000", "11.0.1.2:41000", "11.0.1.2:41001"
    forth = ("a-eth0>", "nat-eth1<", "nat-eth1>", "b-eth0<")
    back = ("b-eth0>", "nat-eth1<", "nat-eth1>", "a-eth0<")
    story = Story()
    story.add(0, forth, [(a, out_b)] * 2 + [(out_a, b)] * 2, story.segment("S", 100, 0, 1))
    story.add(10, back, [(b, out_a)] * 2 + [(out_b, a)] * 2, story.segment("SA", 900, 101))
    exchange = story.told(pair)
    assert (pair.border(pair.a), pair.border(pair.b)) == ("a", "b")
    assert exchange.winner is not None
    assert exchange.winner.nats == ("nat",)
    assert exchange.winner.nodes == ("a", "nat", "b")
    assert (exchange.winner.at_a, exchange.winner.at_b) == ((a, out_b), (b, out_a))


def test_behind_a_shared_carrier_nat_the_gates_are_the_home_nats() -> None:
    pair = HostPair(HostSide("a", ("home_a", "cgn")), HostSide("b", ("home_b", "cgn")))
    assert (pair.border(pair.a), pair.border(pair.b)) == ("home_a", "home_b")


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
