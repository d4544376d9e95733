"""Sockets in the nodes of a lab: connect from behind the NAT and from outside, and observe who is reached."""

from __future__ import annotations

import contextlib
import errno
import secrets
import select
import socket
import time
from collections.abc import Iterator

from punchlab import Lab
from punchlab.punch.nat.behavior import NatBehavior
from tests.lab.homes import Homes

PORT = 41000
SILENCE_S = 0.3
"""How long no packet may arrive where none is expected."""
PATIENCE_S = 10
"""The deadline of packets that must arrive."""


class World:
    """One lab with one transport and one address family."""

    def __init__(
        self,
        lab: Lab,
        kind: socket.SocketKind,
        stack: contextlib.ExitStack,
        family: socket.AddressFamily = socket.AF_INET,
    ) -> None:
        self.lab, self.kind, self.stack, self.family = lab, kind, stack, family
        self.servers: dict[tuple[str, int], socket.socket] = {}

    def address(self, node: str) -> str:
        return self.lab[node].address6 if self.family is socket.AF_INET6 else self.lab[node].address

    def bound(self, node: str, port: int) -> socket.socket:
        made = self.stack.enter_context(self.lab[node].socket(self.kind, self.family))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("", port))
        made.settimeout(PATIENCE_S)
        return made

    def listening(self, node: str, port: int) -> socket.socket:
        made = self.bound(node, port)
        if self.kind is socket.SOCK_STREAM:
            made.listen()
        return made

    def mapped(self, host: str, server: str, server_port: int, port: int = PORT) -> tuple[str, int]:
        """Return the endpoint that the server sees when the host connects from the local port."""
        key = (server, server_port)
        if key not in self.servers:
            self.servers[key] = self.listening(server, server_port)
        sender = self.bound(host, port)
        sender.connect((self.address(server), server_port))
        if self.kind is socket.SOCK_DGRAM:
            return _source(self.servers[key], sender)
        sender.send(b"x")
        accepted, (address, number, *_scope) = self.servers[key].accept()
        self.stack.enter_context(accepted)
        return address, number

    def reached(self, outsider: str, outsider_port: int, target: tuple[str, int], hosts: list[str]) -> str | None:
        """Return which of the hosts, listening on PORT, the outsider reaches at the target; None for none."""
        listeners = {host: self.listening(host, PORT) for host in hosts}
        sender = self.bound(outsider, outsider_port)
        sender.setblocking(False)
        assert sender.connect_ex(target) in (0, errno.EINPROGRESS)
        if self.kind is socket.SOCK_DGRAM:
            sender.send(b"y")
        ready, _, _ = select.select(list(listeners.values()), [], [], SILENCE_S)
        names = [host for host, listener in listeners.items() if listener in ready]
        for listener in (*listeners.values(), sender):
            listener.close()
        return names[0] if names else None


def _source(server: socket.socket, sender: socket.socket) -> tuple[str, int]:
    """Return the source of a datagram, which is retransmitted as in TCP: a port drawn twice costs the first one."""
    token, patience = secrets.token_bytes(8), time.monotonic() + PATIENCE_S
    while time.monotonic() < patience:
        sender.send(token)
        while select.select([server], [], [], SILENCE_S)[0]:
            data, seen = server.recvfrom(len(token))
            if data == token:
                return str(seen[0]), int(seen[1])
    raise TimeoutError("no datagram arrives")


@contextlib.contextmanager
def world(
    nat: str | NatBehavior,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    unsolicited: str = "drop",
    port_mapping: str = "preset",
) -> Iterator[World]:
    with (
        Lab(Homes(nat=nat, unsolicited=unsolicited, port_mapping=port_mapping)) as lab,
        contextlib.ExitStack() as stack,
    ):
        yield World(lab, kind, stack)
