"""Background traffic: connections of other hosts behind a NAT.

Neighbors of the hosts in the topology open connections to a public address, with Poisson arrivals. They have addresses
of the NAT's inside network and share one MAC address. They are not nodes: a packet socket at the far end of the NAT's
inside link sends and receives for them, and captures of that node do not contain these packets. The public address is
that of the first router of the Internet.

The server closes a TCP connection as soon as it is open. A UDP connection is a datagram and its answer. A silent server
never answers; a neighbor does not retransmit its SYN, because that would change no mapping.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import itertools
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from punchlab.lab.errors import InputError
from punchlab.lab.events import packets
from punchlab.lab.graph import Graph, Interface
from punchlab.lab.inputs import numbers
from punchlab.lab.kernel.rtnetlink import RouteSocket, hardware_address
from punchlab.lab.process.node import Node

MOST_PER_S = 1000.0
"""The maximum rate. Each connection sends about six packets through the whole lab."""

_NEIGHBORS = 32
_FIRST_PORT, _PORTS = 32768, 28232
"""Source ports are from Linux's ephemeral range."""

_LONGEST_WAIT_S = 3600.0
"""The timeout of epoll is limited to a few weeks."""

_MAC_NUMBER = 1 << 24
"""Above the number of every interface of a lab."""

_ETH_P_ALL, _SOL_PACKET, _QDISC_BYPASS, _SO_ATTACH_FILTER = 3, 263, 20, 26
_LOAD_WORD, _LOAD_HALF, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_DROP_ALL = ((_RETURN, 0, 0, 0),)
"""A socket filter that drops every packet, so that the kernel does not answer."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection to open: seconds since the start, the neighbor, the transport, and whether the server is silent."""

    at_s: float
    neighbor: int
    udp: bool
    silent: bool


def schedule(rate: float, seed: int | str, *, udp: float = 0.0, silent: float = 0.0) -> Iterator[Arrival]:
    """Return Poisson arrivals with `rate` per second. `udp` and `silent` are fractions.

    The same arguments give the same arrivals. Infinite, but empty for a rate of 0. Raises `InputError`.
    """
    check_rate(rate)
    for name, fraction in (("udp", udp), ("silent", silent)):
        numbers.share(name, fraction)
    return _arrivals(rate, random.Random(seed), udp, silent)


def check_rate(rate: float) -> None:
    """Raise `InputError` for an invalid rate."""
    numbers.number("background", rate, least=0, most=MOST_PER_S, unit="connections per second")


def _arrivals(rate: float, draws: random.Random, udp: float, silent: float) -> Iterator[Arrival]:
    at_s = 0.0
    while rate:
        at_s += draws.expovariate(rate)
        yield Arrival(at_s, draws.randrange(_NEIGHBORS), draws.random() < udp, draws.random() < silent)


class Background:
    """The background traffic of one NAT, from construction until `stop`. All of it is sent to the public `address`.

    Raises `InputError` if the inside network has no free address.
    """

    def __init__(self, graph: Graph, nodes: Mapping[str, Node], nat: Node, arrivals: Iterator[Arrival]) -> None:
        self.opened = 0
        """Connections opened so far."""
        self._arrivals = arrivals
        # `Internet.home` adds the outside interface first, then the inside interface.
        inside = nat.graph.interfaces[1]
        wire = next(each for each in graph.links if inside in (each.one, each.other))
        far = wire.other if wire.one is inside else wire.one
        router = _first_router(graph, nat.name)
        self.address = (router.address or "").partition("/")[0]
        self._macs = (_packed(inside.mac), _packed(hardware_address(_MAC_NUMBER)))
        self._neighbors = _assign_neighbors(graph, nat, inside)
        self._ports = [_FIRST_PORT + number * (_PORTS // _NEIGHBORS) for number in range(len(self._neighbors))]
        with contextlib.ExitStack() as stack:
            self._wire = stack.enter_context(_wire(nodes[far.node], far.name, self._macs[1]))
            self._servers = {
                (udp, silent): stack.enter_context(_server(nodes[router.node], self.address, udp=udp, silent=silent))
                for udp in (False, True)
                for silent in (False, True)
            }
            self._wake = os.eventfd(0, os.EFD_CLOEXEC)
            stack.callback(os.close, self._wake)
            self._stack = stack.pop_all()
        self._targets = {
            kind: (socket.inet_aton(self.address), server.getsockname()[1]) for kind, server in self._servers.items()
        }
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the traffic. Idempotent."""
        if self._thread.is_alive():
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        self._stack.close()

    def _run(self) -> None:
        started_s = time.monotonic()
        handlers: dict[socket.socket, Callable[[], None]] = {
            self._wire: self._answer,
            self._servers[False, False]: self._accept,
            self._servers[True, False]: self._echo,
        }
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            for source, handler in handlers.items():
                selector.register(source, selectors.EVENT_READ, handler)
            arrival = next(self._arrivals, None)
            while True:
                due_s = started_s + arrival.at_s - time.monotonic() if arrival is not None else _LONGEST_WAIT_S
                for key, _events in selector.select(min(max(0.0, due_s), _LONGEST_WAIT_S)):
                    if key.data is None:
                        return
                    with contextlib.suppress(OSError):  # a link is down or a queue is full: the packet is lost
                        key.data()
                if arrival is not None and started_s + arrival.at_s <= time.monotonic():
                    with contextlib.suppress(OSError):
                        self._open(arrival)
                        self.opened += 1
                    arrival = next(self._arrivals, None)

    def _open(self, arrival: Arrival) -> None:
        neighbor = arrival.neighbor % len(self._neighbors)
        port = self._ports[neighbor]
        self._ports[neighbor] = _FIRST_PORT + (port + 1 - _FIRST_PORT) % _PORTS
        source = (self._neighbors[neighbor], port)
        target = self._targets[arrival.udp, arrival.silent]
        if arrival.udp:
            self._wire.send(packets.udp(self._macs, source, target))
        else:
            self._wire.send(packets.tcp(self._macs, source, target, packets.SYN, (random.getrandbits(32), 0)))

    def _answer(self) -> None:
        """Acknowledge a SYN-ACK to a neighbor, and answer a FIN with a FIN."""
        segment = packets.read_tcp(self._wire.recv(2048))
        if segment is None or segment.flags & packets.RST:
            return
        if segment.flags & packets.SYN:
            flags = packets.ACK
        elif segment.flags & packets.FIN:
            flags = packets.ACK | packets.FIN
        else:
            return
        numbers = (segment.acknowledgment, segment.end)
        self._wire.send(packets.tcp(self._macs, segment.destination, segment.source, flags, numbers))

    def _accept(self) -> None:
        accepted, _neighbor = self._servers[False, False].accept()
        accepted.close()

    def _echo(self) -> None:
        data, neighbor = self._servers[True, False].recvfrom(64)
        self._servers[True, False].sendto(data, neighbor)


def _assign_neighbors(graph: Graph, nat: Node, inside: Interface) -> list[bytes]:
    """Assign the last free inside addresses to the neighbors, and add them to the NAT's neighbor table."""
    network = ipaddress.IPv4Interface(inside.address or "").network
    interfaces = [inside, *(there for here, there in graph.neighbors() if here is inside)]
    taken = {ipaddress.IPv4Interface(each.address or "").ip for each in interfaces}
    descending = (network.broadcast_address - number for number in range(1, network.num_addresses - 1))
    free = list(itertools.islice((each for each in descending if each not in taken), _NEIGHBORS))
    if not free:
        raise InputError("background", nat.name, f"a NAT with a free address in {network}")
    with RouteSocket(nat.namespace) as route_socket:
        for each in free:
            route_socket.add_neighbor(inside.index, str(each), hardware_address(_MAC_NUMBER))
        route_socket.commit()
    return [each.packed for each in free]


def _first_router(graph: Graph, nat: str) -> Interface:
    """Return the interface of the router after the outermost NAT. Raises `InputError` if there is none."""
    outermost = [nat, *graph.outwards(nat)][-1]
    outside = graph.nodes[outermost].interfaces[0]
    ends = (pair for link in graph.links for pair in ((link.one, link.other), (link.other, link.one)))
    found = next((there for here, there in ends if here is outside and graph.nodes[there.node].kind == "router"), None)
    if found is None:
        raise InputError("background", nat, "a NAT with a router on its outside")
    return found


def _wire(node: Node, interface: str, mac: bytes) -> socket.socket:
    """Return a socket that sends frames from the interface and receives frames for the MAC address."""
    ours = (
        (_LOAD_WORD, 0, 0, 0),
        (_JUMP_IF_EQUAL, 0, 3, int.from_bytes(mac[:4])),
        (_LOAD_HALF, 0, 0, 4),
        (_JUMP_IF_EQUAL, 0, 1, int.from_bytes(mac[4:])),
        (_RETURN, 0, 0, 2048),
        (_RETURN, 0, 0, 0),
    )
    with node.entered():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    made.setblocking(False)
    _attach(made, ours)
    made.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
    # All protocols: on a bridge port, a socket for a single protocol receives nothing.
    made.bind((interface, _ETH_P_ALL))
    return made


def _server(node: Node, address: str, *, udp: bool, silent: bool) -> socket.socket:
    made = node.socket(socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    made.setblocking(False)
    if silent:
        _attach(made, _DROP_ALL)
    made.bind((address, 0))
    if not udp:
        made.listen()
    return made


def _attach(made: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    """Attach a socket filter: instructions of (code, jump if true, jump if false, operand), as in linux/filter.h."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
