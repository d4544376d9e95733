"""Stories that real kernels tell, staged packet by packet in the core."""

from __future__ import annotations

import errno
import select
import socket
import subprocess
from pathlib import Path

import pytest

from punchlab.lab.capture import pcapng
from punchlab.lab.exchange import Exchange, Kind
from punchlab.lab.exchange.timeline import render
from tests.lab.exchange.handmade import (
    DROP,
    NAT_A,
    NAT_B,
    PAIR,
    PORT_A,
    PORT_B,
    PROHIBIT,
    RESET,
    A,
    B,
    Network,
    network,
    record,
    told,
)

AT_A, AT_NAT_A = f"{A}:{PORT_A}", f"{NAT_A}:{PORT_A}"
AT_B, AT_NAT_B = f"{B}:{PORT_B}", f"{NAT_B}:{PORT_B}"


def error_of(dialling: socket.socket) -> int:
    """The errno that a dialling socket ends with."""
    assert select.select([], [dialling], [], 30)[1]
    return dialling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def crossing(net: Network) -> None:
    """Both SYNs are under way before either arrives."""
    a, b = net.dial("a"), net.dial("b")
    from_a, from_b = net.take("a"), net.take("b")
    net.put(from_a, "a")
    net.put(from_b, "b")
    net.connected(a, b)


@pytest.mark.parametrize("unsolicited", [DROP, RESET], ids=["drop", "reset"])
def test_crossing_syns_meet_whatever_the_nats_answer(unsolicited: str) -> None:
    with network(unsolicited) as net:
        recorder = record(net)
        crossing(net)
        exchange = told(recorder.stop())
    assert exchange.crossed
    assert exchange.simultaneous_open
    assert exchange.summary() == {
        "crossed": True,
        "simultaneous_open": True,
        "syns": 2,
        "resets": 0,
        "icmp": 0,
        "dropped": 0,
    }
    winner = exchange.winner
    assert winner is not None
    assert winner.simultaneous == {"a", "b"}
    assert (winner.at_a, winner.at_b) == ((AT_A, AT_NAT_B), (AT_B, AT_NAT_A))
    assert winner.nats == ("nat_a", "nat_b")
    assert winner.nodes == ("a", "nat_a", "core", "nat_b", "b")
    assert not winner.edge
    assert exchange.connection("b", AT_B, AT_NAT_A) is winner


def test_a_syn_is_followed_through_both_nats_with_what_each_made_of_it() -> None:
    with network() as net:
        recorder = record(net)
        crossing(net)
        exchange = told(recorder.stop())
    syn = exchange.first_syn("a")
    assert syn is not None
    assert [(hop.interface, hop.outgoing) for hop in syn.hops] == [
        ("a-eth0", True),
        ("nat_a-eth1", False),
        ("nat_a-eth0", True),
        ("core-eth1", False),
        ("core-eth2", True),
        ("nat_b-eth0", False),
        ("nat_b-eth1", True),
        ("b-eth0", False),
    ]
    assert [(each.node, each.before, each.after) for each in syn.translations] == [
        ("nat_a", (AT_A, AT_NAT_B), (AT_NAT_A, AT_NAT_B)),
        ("nat_b", (AT_NAT_A, AT_NAT_B), (AT_NAT_A, AT_B)),
    ]
    assert exchange.delivered_to(syn) == "b"
    answer = exchange.answer(syn)
    assert answer is not None
    assert (answer.kind, answer.origin) == (Kind.SYN_ACK, "b")
    delay = exchange.delay_s("a")
    assert delay is not None
    assert 0 < delay < 30


def test_a_dropped_first_syn_leaves_a_hole_for_the_second() -> None:
    with network(DROP) as net:
        recorder = record(net)
        a = net.dial("a")
        net.carry("a")
        net.settle("b")
        net.connected(a, net.dial("b"))
        exchange = told(recorder.stop())
    assert not exchange.crossed
    assert [(syn.origin, exchange.dropped_at(syn)) for syn in exchange.dropped] == [("a", "nat_b")]
    assert exchange.winner is not None
    assert exchange.winner.simultaneous == {"a"}  # b's SYN met a's outstanding one; b saw an ordinary handshake
    assert exchange.simultaneous_open
    assert exchange.skew_s is not None
    assert exchange.skew_s > 0


def test_a_reset_closes_the_hole_and_refuses_the_second_syn_too() -> None:
    with network(RESET) as net:
        recorder = record(net)
        a = net.dial("a")
        net.carry("a")
        net.carry("b")  # the RST
        assert error_of(a) == errno.ECONNREFUSED
        b = net.dial("b")
        net.carry("b")
        net.carry("a")
        assert error_of(b) == errno.ECONNREFUSED
        exchange = told(recorder.stop())
    resets = [answer for syn in exchange.refused if (answer := exchange.answer(syn))]
    assert [syn.origin for syn in exchange.refused] == ["a", "b"]
    assert [(reset.kind, reset.origin) for reset in resets] == [(Kind.RST, "nat_b"), (Kind.RST, "nat_a")]
    assert [exchange.delivered_to(reset) for reset in resets] == ["a", "b"]
    assert exchange.summary() == {
        "crossed": False,
        "simultaneous_open": False,
        "syns": 2,
        "resets": 2,
        "icmp": 0,
        "dropped": 0,
    }
    assert exchange.winner is None


def test_an_icmp_error_refuses_and_names_its_code() -> None:
    with network(PROHIBIT) as net:
        recorder = record(net)
        a = net.dial("a")
        net.carry("a")
        net.carry("b")
        assert error_of(a) == errno.EHOSTUNREACH
        exchange = told(recorder.stop())
    (syn,) = exchange.refused
    answer = exchange.answer(syn)
    assert answer is not None
    assert (answer.kind, answer.icmp, answer.origin) == (Kind.ICMP, (3, 13), "nat_b")
    assert exchange.delivered_to(answer) == "a"
    assert exchange.summary()["icmp"] == 1


def test_a_syn_that_the_core_loses_was_dropped_there() -> None:
    with network() as net:
        recorder = record(net)
        net.dial("a")
        net.take("a")
        exchange = told(recorder.stop())
    assert [exchange.dropped_at(syn) for syn in exchange.dropped] == ["core"]
    assert exchange.skew_s is None
    assert exchange.delay_s("a") is None


def test_a_listener_behind_a_forwarded_port_is_no_simultaneous_open() -> None:
    with network(forward_to_b=True) as net:
        recorder = record(net)
        listener = net.bound("b", PORT_B)
        listener.listen()
        net.connected(net.dial("a"))
        exchange = told(recorder.stop())
    assert exchange.winner is not None
    assert exchange.winner.nats == ("nat_a", "nat_b")
    assert not exchange.simultaneous_open
    assert not exchange.crossed


def test_wireshark_shows_each_syn_in_order_through_both_nats(tmp_path: Path) -> None:
    with network() as net:
        recorder = record(net)
        crossing(net)
        recording = recorder.stop()
    file = tmp_path / "trial.pcapng"
    pcapng.write(file, recording)
    (syn,) = Exchange(recording.frames, PAIR).syns("a")
    this_syn = f"tcp.flags == 2 && tcp.seq_raw == {syn.sequence}"
    fields = ("frame.interface_name", "ip.src", "tcp.srcport", "ip.dst", "tcp.dstport")
    command = ["tshark", "-r", str(file), "-Y", this_syn, "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    inside = (A, str(PORT_A), NAT_B, str(PORT_B))
    between = (NAT_A, str(PORT_A), NAT_B, str(PORT_B))
    behind = (NAT_A, str(PORT_A), B, str(PORT_B))
    assert [tuple(row.split("\t")) for row in rows] == [
        ("a-eth0", *inside),
        ("nat_a-eth1", *inside),
        ("nat_a-eth0", *between),
        ("core-eth1", *between),
        ("core-eth2", *between),
        ("nat_b-eth0", *between),
        ("nat_b-eth1", *behind),
        ("b-eth0", *behind),
    ]


def test_the_file_tells_the_same_story_as_the_capture(tmp_path: Path) -> None:
    with network(RESET) as net:
        recorder = record(net)
        crossing(net)
        recording = recorder.stop()
    pcapng.write(tmp_path / "trial.pcapng", recording)
    again = pcapng.read(tmp_path / "trial.pcapng")
    assert render(Exchange(again.frames, PAIR)) == render(Exchange(recording.frames, PAIR))
