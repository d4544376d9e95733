"""a - nat_a - core - nat_b - b, built by hand, with a core that forwards packets only on request of the test.

So a test controls the order of packets exactly: two SYNs cross because both are in the core before either is forwarded.
"""

from __future__ import annotations

import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from punchlab.lab.capture import CapturePoint, Recorder, Recording
from punchlab.lab.exchange import Exchange, HostPair, HostSide
from punchlab.lab.exchange.timeline import render
from punchlab.lab.kernel import namespace
from punchlab.lab.kernel.namespace import Namespace
from punchlab.lab.kernel.rtnetlink import RouteSocket, hardware_address

NAT_A, NAT_B = "11.0.1.2", "11.0.2.2"
A = B = "192.168.1.2"
PORT_A, PORT_B = 41001, 41002
PAIR = HostPair(
    HostSide("a", ("nat_a",), frozenset({NAT_A})),
    HostSide("b", ("nat_b",), frozenset({NAT_B})),
)

# Interfaces of two nodes with their addresses. The outside interface of a NAT is its eth0.
_LINKS = (
    ("a-eth0", f"{A}/24", "nat_a-eth1", "192.168.1.1/24"),
    ("nat_a-eth0", f"{NAT_A}/24", "core-eth1", "11.0.1.1/24"),
    ("nat_b-eth0", f"{NAT_B}/24", "core-eth2", "11.0.2.1/24"),
    ("b-eth0", f"{B}/24", "nat_b-eth1", "192.168.1.1/24"),
)
_GATEWAYS = {"a": "192.168.1.1", "b": "192.168.1.1", "nat_a": "11.0.1.1", "nat_b": "11.0.2.1"}
_NODES = ("a", "nat_a", "core", "nat_b", "b")
_PATIENCE_S = 30

DROP = ""
RESET = "-A INPUT -p tcp -j REJECT --reject-with tcp-reset"
PROHIBIT = "-A INPUT -p tcp -j REJECT --reject-with icmp-admin-prohibited"
_NAT_RULES = """*nat
{forward}
-A POSTROUTING -o {outside} -j SNAT --to-source {address}
COMMIT
*filter
:INPUT DROP
:FORWARD DROP
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -i {inside} -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT
-A INPUT -p icmp -j ACCEPT
{unsolicited}
COMMIT
"""


class Network:
    """The five nodes. `take`, `put` and `carry` are the core. Its sides have the name of the host, "a" or "b"."""

    def __init__(self, nodes: dict[str, Namespace], wires: dict[str, socket.socket]) -> None:
        self.nodes, self._wires = nodes, wires
        self.points = [CapturePoint(nodes[_node(name)], _node(name), name) for link in _LINKS for name in link[::2]]
        self._sockets = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sockets.close()

    def bound(self, host: str, port: int) -> socket.socket:
        """Return a non-blocking TCP socket in the host, bound to the port. It closes with the network."""
        with self.nodes[host].entered():
            made = self._sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((A, port))
        made.setblocking(False)
        return made

    def dial(self, host: str) -> socket.socket:
        """Start the host's connection attempt, from its port to that of the peer's NAT."""
        ports = {"a": (PORT_A, (NAT_B, PORT_B)), "b": (PORT_B, (NAT_A, PORT_A))}
        local, remote = ports[host]
        dialling = self.bound(host, local)
        dialling.connect_ex(remote)
        return dialling

    def take(self, side: str) -> Packet:
        """Return the next IP packet that arrives at the core from that side."""
        wire = self._wires[side]
        assert select.select([wire], [], [], _PATIENCE_S)[0], f"nothing came from {side}"
        return Ether(wire.recv(65535))

    def put(self, packet: Packet, side: str) -> None:
        """Forward the packet to the other side, as a router does."""
        onward = "b" if side == "a" else "a"
        packet[Ether].src, packet[Ether].dst = _MACS[f"core-eth{'ab'.index(onward) + 1}"], _MACS[f"nat_{onward}-eth0"]
        packet[IP].ttl -= 1
        # The sender left the checksums to the hardware, which a veth does not have.
        del packet[IP].chksum
        if TCP in packet:
            del packet[TCP].chksum
        self._wires[onward].send(bytes(packet))

    def carry(self, side: str) -> Packet:
        """Take the next packet from that side and forward it."""
        packet = self.take(side)
        self.put(packet, side)
        return packet

    def settle(self, side: str) -> None:
        """Wait until the NAT of that side has processed all packets sent to it: a ping follows them."""
        number = "ab".index(side) + 1
        ping = Ether(src=_MACS[f"core-eth{number}"], dst=_MACS[f"nat_{side}-eth0"])
        ping /= IP(src=f"11.0.{number}.1", dst=f"11.0.{number}.2") / ICMP()
        self._wires[side].send(bytes(ping))
        while ICMP not in (packet := self.take(side)) or packet[ICMP].type != 0:
            self.put(packet, side)

    def connected(self, *sockets: socket.socket) -> None:
        """Forward all packets in both directions until the sockets are connected."""
        waiting = set(sockets)
        while waiting:
            readable, writable, _ = select.select(list(self._wires.values()), list(waiting), [], _PATIENCE_S)
            assert readable or writable, "nothing happens"
            for side, wire in self._wires.items():
                if wire in readable:
                    self.put(self.take(side), side)
            for done in writable:
                assert done.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                waiting.discard(done)


_MACS = {
    name: hardware_address(2 * number + place)
    for number, link in enumerate(_LINKS)
    for place, name in enumerate(link[::2])
}


@contextmanager
def network(unsolicited: str = DROP, *, forward_to_b: bool = False) -> Iterator[Network]:
    """Yield the network, with that answer of both NATs to unsolicited SYNs. On request, nat_b forwards b's port."""
    with ExitStack() as stack:
        nodes = dict(zip(_NODES, namespace.create(len(_NODES)), strict=True))
        for node in nodes.values():
            stack.callback(node.close)
        _wire(nodes)
        for name in ("nat_a", "nat_b"):
            with nodes[name].entered():
                Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
                rules = _NAT_RULES.format(
                    forward=f"-A PREROUTING -i nat_b-eth0 -p tcp --dport {PORT_B} -j DNAT --to {B}"
                    if forward_to_b and name == "nat_b"
                    else "",
                    outside=f"{name}-eth0",
                    inside=f"{name}-eth1",
                    address=NAT_A if name == "nat_a" else NAT_B,
                    unsolicited=unsolicited,
                )
                subprocess.run(["iptables-restore"], input=rules, text=True, check=True)
        wires = {}
        with nodes["core"].entered():
            for side, interface in (("a", "core-eth1"), ("b", "core-eth2")):
                ethertype_ipv4 = 0x0800
                wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                wires[side] = stack.enter_context(wire)
                wire.bind((interface, ethertype_ipv4))
        yield stack.enter_context(Network(nodes, wires))


def record(net: Network) -> Recorder:
    """Return a running recorder for all interfaces of the network."""
    recorder = Recorder(net.points)
    recorder.start()
    return recorder


def told(recording: Recording, pair: HostPair = PAIR) -> Exchange:
    """Return the exchange of the recording, and print its timeline for failures."""
    assert recording.complete
    exchange = Exchange(recording.frames, pair)
    print(render(exchange))
    return exchange


def _wire(nodes: dict[str, Namespace]) -> None:
    with ExitStack() as stack:
        sockets = {name: stack.enter_context(RouteSocket(node)) for name, node in nodes.items()}
        indexes: dict[str, int] = {}
        for one, one_address, other, other_address in _LINKS:
            for name in (one, other):
                indexes[name] = 2 + sum(_node(known) == _node(name) for known in indexes)
            peer = (other, indexes[other], _MACS[other], nodes[_node(other)])
            sockets[_node(one)].add_veth(one, indexes[one], _MACS[one], peer)
            sockets[_node(one)].commit()
            ends = ((one, one_address, other, other_address), (other, other_address, one, one_address))
            for here, address, there, there_address in ends:
                route_socket = sockets[_node(here)]
                route_socket.add_address(indexes[here], address)
                route_socket.add_neighbor(indexes[here], there_address.partition("/")[0], _MACS[there])
                route_socket.set_up(indexes[here])
                route_socket.commit()
        for name, gateway in _GATEWAYS.items():
            sockets[name].add_route("0.0.0.0/0", gateway)
            sockets[name].commit()
    for name in indexes:
        with nodes[_node(name)].entered():
            # The query makes the kernel process the carrier; until then it may drop packets there.
            subprocess.run(["ip", "link", "show", "dev", name], check=True, capture_output=True)


def _node(interface: str) -> str:
    return interface.rpartition("-")[0]
