"""Links between nodes of all kinds: the place where packets are held must not affect captures or pinholes of NATs."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from punchlab.lab.errors import LabError
from punchlab.lab.impair import DirectedLink, Impairment, LinkEnd
from punchlab.lab.impair.nfqueue import place
from punchlab.lab.kernel.namespace import Namespace

if TYPE_CHECKING:
    from tests.lab.impair.conftest import Wire

SO_TIMESTAMPNS = 35
ETH_P_ALL, PACKET_OUTGOING = 3, 4
STATEFUL = "*filter\n:INPUT DROP\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n"


def next_capture(sniffer: socket.socket, outgoing: bool) -> float:
    """Return when the next UDP packet of that direction was captured, in s of CLOCK_REALTIME."""
    while True:
        packet, ancillary, _, address = sniffer.recvmsg(2048, 64)
        if (address[2] == PACKET_OUTGOING) is outgoing and packet[9] == socket.IPPROTO_UDP:
            seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
            return float(seconds + nanoseconds / 1e9)


@pytest.mark.parametrize("kind", ["host", "nat", "edge"])
def test_captures_next_to_a_router_show_when_packets_left_and_arrived(
    wires: Callable[..., Wire], implementation: str, kind: str
) -> None:
    wire = wires(implementation, (kind, "router"))
    wire.impair(Impairment(delay_s=0.2), Impairment(delay_s=0.2))
    with wire.here.entered():
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    with sniffer, wire.udp(wire.here) as here, wire.udp(wire.there) as there:
        sniffer.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sniffer.settimeout(5)
        before = time.time()
        here.sendto(b"there", there.getsockname())
        assert next_capture(sniffer, outgoing=True) - before < 0.1
        before = time.time()
        there.sendto(b"back", here.getsockname())
        assert next_capture(sniffer, outgoing=False) - before >= 0.2


@pytest.mark.parametrize("neighbor", ["router", "nat", "host"])
def test_a_pinhole_opens_when_the_packet_leaves_the_nat(
    wires: Callable[..., Wire], implementation: str, neighbor: str
) -> None:
    wire = wires(implementation, ("nat", neighbor))
    with wire.here.entered():
        subprocess.run(["iptables-restore"], input=STATEFUL, text=True, check=True)
    wire.impair(Impairment(delay_s=0.2), Impairment(delay_s=0.2))
    with wire.udp(wire.here) as here, wire.udp(wire.there) as there:
        here.settimeout(5)
        there.sendto(b"crossing", here.getsockname())
        time.sleep(0.1)  # the packet is half way when the pinhole opens
        here.sendto(b"opening", there.getsockname())
        assert here.recv(100) == b"crossing"


@pytest.mark.parametrize(
    ("sender", "receiver", "holder", "table"),
    [
        ("host", "router", "receiver", "raw"),
        ("router", "host", "sender", "mangle"),
        ("nat", "router", "receiver", "raw"),
        ("router", "nat", "sender", "mangle"),
        ("router", "router", "receiver", "raw"),
        ("host", "nat", "receiver", "raw"),
        ("nat", "host", "receiver", "raw"),
        ("nat", "nat", "receiver", "raw"),
        ("switch", "host", "receiver", "raw"),
        ("switch", "nat", "receiver", "raw"),
        ("router", "switch", "sender", "mangle"),
    ],
)
def test_nfqueue_holds_packets_at_the_right_end(sender: str, receiver: str, holder: str, table: str) -> None:
    space = Namespace(-1)
    one, other = LinkEnd(space, "one0", 2, sender), LinkEnd(space, "other0", 3, receiver)
    hold = place(DirectedLink(one, other, Impairment(delay_s=0.01)))
    assert hold.end is (one if holder == "sender" else other)
    assert hold.rule[0] == table


@pytest.mark.parametrize("sender", ["host", "nat", "switch"])
def test_nfqueue_rejects_links_that_it_cannot_hold(sender: str) -> None:
    space = Namespace(-1)
    link = DirectedLink(
        LinkEnd(space, "one0", 2, sender), LinkEnd(space, "other0", 3, "switch"), Impairment(delay_s=0.01)
    )
    with pytest.raises(LabError, match="one0 -> other0: NFQUEUE cannot hold"):
        place(link)
