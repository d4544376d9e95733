from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from punchlab.lab import impair
from punchlab.lab.errors import MissingCapabilityError
from punchlab.lab.impair import Applied, DirectedLink, Impairment, LinkEnd
from punchlab.lab.kernel import namespace
from punchlab.lab.kernel.namespace import Namespace
from punchlab.lab.kernel.rtnetlink import RouteSocket, hardware_address

HERE, THERE = "11.0.0.1", "11.0.0.2"
_STAMP = struct.Struct("=Id")
_NONE = Impairment()
_IPV6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")


class Arrival(NamedTuple):
    """One datagram: its number, and when it was sent and received (CLOCK_MONOTONIC, s)."""

    number: int
    sent: float
    received: float

    @property
    def delay(self) -> float:
        return self.received - self.sent


class Wire:
    """Two nodes and the veth pair between them: `here` (11.0.0.1) and `there` (11.0.0.2)."""

    def __init__(self, kinds: tuple[str, str], implementation: str) -> None:
        self._stack = ExitStack()
        self._implementation = implementation
        self.here, self.there = namespace.create(2)
        self._stack.callback(self.here.close)
        self._stack.callback(self.there.close)
        ends = [(self.here, "here0", HERE, 1), (self.there, "there0", THERE, 2)]
        for node, *_ in ends:
            with node.entered():
                if _IPV6.exists():  # its neighbor discovery would be counted
                    _IPV6.write_text("1")
        with RouteSocket(self.here) as here, RouteSocket(self.there) as there:
            here.add_veth("here0", 2, hardware_address(1), ("there0", 2, hardware_address(2), self.there))
            here.commit()
            for channel, (_, _, address, _), (_, _, peer, number) in zip((here, there), ends, ends[::-1], strict=True):
                channel.add_address(2, f"{address}/24")
                channel.set_up(1)
                channel.set_up(2)
                channel.add_neighbor(2, peer, hardware_address(number))
                channel.commit()
        self._settle()
        self._ends = [LinkEnd(node, name, 2, kind) for (node, name, _, _), kind in zip(ends, kinds, strict=True)]

    def _settle(self) -> None:
        """Wait until the link passes packets: the kernel enables an end some time after its peer is up."""
        with self.udp(self.here) as here, self.udp(self.there) as there:
            deadline = time.monotonic() + 10
            for sender, receiver in ((here, there), (there, here)):
                while not select.select([receiver], [], [], 0.005)[0]:
                    assert time.monotonic() < deadline
                    sender.sendto(b"", receiver.getsockname())

    def impair(self, forth: Impairment = _NONE, back: Impairment = _NONE, seed: int = 0) -> Applied:
        """`forth` from here to there, `back` the other way. Closed at the end of the test."""
        here, there = self._ends
        links = [DirectedLink(here, there, forth), DirectedLink(there, here, back)]
        return self._stack.enter_context(impair.apply(links, self._implementation, seed))

    def udp(self, node: Namespace) -> socket.socket:
        """Return a bound UDP socket in one of the two nodes."""
        with node.entered():
            made = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind((HERE if node is self.here else THERE, 5000))
        return made

    def send(
        self, count: int, *, gap_s: float = 0.0, size: int = 0, back: bool = False, patience_s: float = 0.5
    ) -> Sequence[Arrival]:
        """Send numbered datagrams one way (there, or `back` here), and return them in the order of arrival.

        `size` is that of the Ethernet frame in bytes (at least 54). Reads until all have arrived, or none for
        `patience_s`.
        """
        source, sink = (self.there, self.here) if back else (self.here, self.there)
        arrivals: list[Arrival] = []
        with self.udp(source) as sender, self.udp(sink) as receiver:
            sender.connect(receiver.getsockname())
            payload = max(size - 14 - 20 - 8 - _STAMP.size, 0)
            start = time.monotonic()
            number = 0
            while len(arrivals) < count:
                wait = max(start + number * gap_s - time.monotonic(), 0) if number < count else patience_s
                if select.select([receiver], [], [], wait)[0]:
                    came, sent = _STAMP.unpack_from(receiver.recv(2048))
                    arrivals.append(Arrival(came, sent, time.monotonic()))
                elif number == count:
                    break
                if number < count and time.monotonic() >= start + number * gap_s:
                    sender.send(_STAMP.pack(number, time.monotonic()) + bytes(payload))
                    number += 1
        return arrivals

    def close(self) -> None:
        """Close what the test opened, then the nodes."""
        self._stack.close()


@pytest.fixture(params=["nfqueue", "netem"])
def implementation(request: pytest.FixtureRequest) -> str:
    """Each implementation that this kernel supports."""
    name = str(request.param)
    try:
        impair.choose(name)
    except MissingCapabilityError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture
def wires() -> Iterator[Callable[..., Wire]]:
    """Create links between nodes of given kinds with a given implementation."""
    with ExitStack() as stack:

        def make(implementation: str, kinds: tuple[str, str] = ("host", "router")) -> Wire:
            wire = Wire(kinds, implementation)
            stack.callback(wire.close)
            return wire

        yield make


@pytest.fixture
def wire(wires: Callable[..., Wire], implementation: str) -> Wire:
    """From a host to a router."""
    return wires(implementation)
