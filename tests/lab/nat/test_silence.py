"""RFC 5382 REQ-4 in captures: silence after an unsolicited SYN, then ICMP, unless a SYN leaves meanwhile."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, TCP

from punchlab import Lab
from punchlab.lab.capture import CapturePoint, Recorder, Recording
from punchlab.lab.exchange import Exchange, HostPair, HostSide
from punchlab.lab.exchange.timeline import render
from punchlab.lab.nat.silence import MOST_HELD, Held
from punchlab.punch.nat.behavior import (
    REQ_4_SILENCE_S,
    FilteringBehavior,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    Unsolicited,
)
from tests.commands import punchlab, run
from tests.lab.homes import Homes
from tests.lab.nat.test_firewall import Office
from tests.lab.nat.test_firewall_ipv6 import office
from tests.lab.nat.world import PORT, World

NOBODY = 12345
RFC = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT,
    FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
    PortAllocation.PRESERVING,
    Unsolicited.SILENT_THEN_ICMP,
)
QUICK = replace(RFC, silence_s=1)
FIREWALL = replace(QUICK, translates=False)
LATE_S = 0.5
"""How late an answer may be on a busy machine. No answer may be early."""
PATIENCE_S = 20.0


def send_syn(w: World, port: int, target: tuple[str, int]) -> socket.socket:
    """Connect from the stranger's port without waiting."""
    sender = w.bound("stranger", port)
    sender.setblocking(False)
    assert sender.connect_ex(target) == errno.EINPROGRESS
    return sender


def outcome(sender: socket.socket) -> int:
    """Return the errno with which the connection fails."""
    assert select.select([], [sender], [], PATIENCE_S)[1], "nothing came back"
    return sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def recorder(lab: Lab) -> Recorder:
    nodes = [lab[name] for name in ("a", "stranger", "nat_a")]
    return Recorder(
        [CapturePoint(node.namespace, node.name, each.name) for node in nodes for each in node.graph.interfaces]
    )


def answers(recording: Recording, port: int) -> list[tuple[float, int, int]]:
    """Return (seconds after the first SYN from the stranger's port, type, code) of all its ICMP errors."""
    assert recording.complete
    here = [(frame.time_ns / 1e9, frame.packet) for frame in recording.frames if frame.node == "stranger"]
    started = min(at for at, packet in here if TCP in packet and packet[TCP].sport == port)
    return [
        (at - started, packet[ICMP].type, packet[ICMP].code)
        for at, packet in here
        if ICMP in packet and packet[ICMP].payload.sport == port
    ]


def test_icmp_after_six_seconds_of_silence_but_not_if_a_syn_leaves_after_three() -> None:
    assert RFC.silence_s == REQ_4_SILENCE_S == 6
    with Lab(Homes(nat=RFC)) as lab, contextlib.ExitStack() as stack:
        w = World(lab, socket.SOCK_STREAM, stack)
        outside = lab["nat_a"].address
        with recorder(lab) as recording:
            opening = send_syn(w, 6001, (outside, PORT))
            refused = send_syn(w, 6000, (outside, NOBODY))
            time.sleep(3)  # the time of the outbound SYN
            inside = w.bound("a", PORT)
            inside.settimeout(PATIENCE_S)
            inside.connect((lab["stranger"].address, 6001))
            assert outcome(opening) == 0
            inside.send(b"x")
            opening.setblocking(True)
            assert opening.recv(1) == b"x"
            # By the time of the single expected answer, the other would have arrived, too.
            assert outcome(refused) == errno.ECONNREFUSED
            seen = recording.stop()

        assert answers(seen, 6001) == []
        ((after_s, kind, code),) = answers(seen, 6000)
        assert (kind, code) == (3, 3)
        assert REQ_4_SILENCE_S <= after_s < REQ_4_SILENCE_S + LATE_S

        pair = HostPair(
            HostSide("a", ("nat_a",), frozenset({outside})),
            HostSide("stranger", (), frozenset({lab["stranger"].address})),
        )
        exchange = Exchange(seen.frames, pair)
        print(render(exchange))
        assert exchange.simultaneous_open


@pytest.mark.parametrize("filtering", FilteringBehavior)
@pytest.mark.parametrize("mapping", [MappingBehavior.ENDPOINT_INDEPENDENT, MappingBehavior.ADDRESS_AND_PORT_DEPENDENT])
def test_every_kind_of_nat_delays_its_answer(mapping: MappingBehavior, filtering: FilteringBehavior) -> None:
    with Lab(Homes(nat=replace(QUICK, mapping=mapping, filtering=filtering))) as lab, contextlib.ExitStack() as stack:
        w = World(lab, socket.SOCK_STREAM, stack)
        with recorder(lab) as recording:
            mapped = w.mapped("a", "server", 5000)
            senders = [send_syn(w, 6000 + number, (mapped[0], NOBODY)) for number in range(10)]
            if filtering is not FilteringBehavior.ENDPOINT_INDEPENDENT:
                # A SYN that the filter does not admit is as unsolicited as one to an unmapped port.
                senders.append(send_syn(w, 6010, mapped))
            assert {outcome(sender) for sender in senders} == {errno.ECONNREFUSED}
            seen = recording.stop()
        for number in range(len(senders)):
            # One each, although the kernel retransmitted the SYN after a second.
            ((after_s, kind, code),) = answers(seen, 6000 + number)
            assert (kind, code) == (3, 3)
            assert 1 <= after_s < 1 + LATE_S


def test_a_firewall_delays_its_answer() -> None:
    with Lab(Office(firewall=FIREWALL)) as lab, contextlib.ExitStack() as stack:
        silent_for_its_hosts(World(lab, socket.SOCK_STREAM, stack))


def test_a_firewall_delays_its_answer_over_ipv6() -> None:
    with office(FIREWALL) as w:
        silent_for_its_hosts(w)


def silent_for_its_hosts(w: World) -> None:
    opening = send_syn(w, 6001, (w.address("a"), PORT))
    dialled = time.monotonic()
    refused = send_syn(w, 6000, (w.address("a"), PORT))
    inside = w.bound("a", PORT)
    inside.connect((w.address("stranger"), 6001))
    assert outcome(opening) == 0
    assert outcome(refused) == errno.ECONNREFUSED
    assert 1 <= time.monotonic() - dialled < 1 + LATE_S


def test_only_a_syn_of_the_same_connection_cancels_the_answer() -> None:
    with Lab(Homes(nat=QUICK)) as lab, contextlib.ExitStack() as stack:
        w = World(lab, socket.SOCK_STREAM, stack)
        refused = send_syn(w, 6000, (lab["nat_a"].address, PORT))
        # From the same port to another port of the stranger, and from another port to the same.
        for local, remote in ((PORT, 6001), (PORT + 1, 6000)):
            other = w.bound("a", local)
            other.setblocking(False)
            other.connect_ex((lab["stranger"].address, remote))
        assert outcome(refused) == errno.ECONNREFUSED


def test_nat_show_and_the_script_name_the_helper() -> None:
    shown = run(punchlab("nat", "show", "rfc_ideal"))
    assert "helper process: punchlab.lab.nat.silence" in shown.stdout
    rules = run(punchlab("nat", "show", "rfc_ideal", "--rules", "--outside", "eth9"))
    assert "python3 -m punchlab.lab.nat.silence --outside eth9 --silence 6" in rules.stdout
    assert "helper" not in run(punchlab("nat", "show", "full_cone", "--rules")).stdout


def test_a_flood_does_not_exhaust_memory_and_the_oldest_syn_is_answered_first() -> None:
    held = Held(6.0)
    connections = [(number.to_bytes(6, "big"), b"server") for number in range(MOST_HELD + 1)]
    taken = [held.add(each, number, now=number) for number, each in enumerate(connections)]
    assert taken == [True] * MOST_HELD + [False]
    assert not held.add(connections[0], 9, now=1)
    assert held.next_due == 6
    assert held.cancel((b"server", connections[1][0])) == 1
    assert held.cancel(connections[2]) is None
    assert list(held.overdue(now=8)) == [0, 2]
    assert held.next_due == 9
