"""Shared by tests of NAT events: transports, behaviors, and a connection that may survive an event."""

from __future__ import annotations

import select
import socket
from dataclasses import replace

import pytest

from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation
from tests.lab.nat.world import PORT, SILENCE_S, World

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
TRANSPORTS = pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
CONE = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.PRESERVING
)
RANDOM_CONE = replace(CONE, port_allocation=PortAllocation.RANDOM)
SEQUENTIAL = NatBehavior(
    MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.SEQUENTIAL
)


class Talk:
    """A connection (over UDP: a pair of sockets) from an inside host to the server, and its external endpoint."""

    def __init__(self, w: World, host: str = "a", port: int = PORT, server_port: int = 5000) -> None:
        self.inner, listener = w.bound(host, port), w.listening("server", server_port)
        target = (w.lab["server"].address, server_port)
        self.inner.connect(target)
        self.inner.send(b"x")
        self.outer: socket.socket
        if w.kind is TCP:
            self.outer, self.seen = listener.accept()
            w.stack.enter_context(self.outer)
            self.outer.settimeout(2)
            assert self.outer.recv(1) == b"x"
        else:
            self.outer = listener
            _data, self.seen = listener.recvfrom(1)
            self.outer.connect(self.seen)
        assert self.goes_out()
        assert self.comes_in()

    def goes_out(self, wait_s: float = 2) -> bool:
        return passes(self.inner, self.outer, wait_s)

    def comes_in(self, wait_s: float = 2) -> bool:
        return passes(self.outer, self.inner, wait_s)

    @property
    def dead(self) -> bool:
        """Return whether no packet passes in either direction."""
        return not self.goes_out(SILENCE_S) and not self.comes_in(SILENCE_S)


def passes(sender: socket.socket, receiver: socket.socket, wait_s: float) -> bool:
    sender.send(b"y")
    return bool(select.select([receiver], [], [], wait_s)[0]) and receiver.recv(64)[-1:] == b"y"
