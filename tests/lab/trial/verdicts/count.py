"""Count the traffic from host to host and through edges, only from tshark's fields."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_TCP, _UDP, _ICMP, _ICMPV6 = "6", "17", "1", "58"
_ICMP_ERRORS, _ICMPV6_ERRORS = {"3", "11", "12"}, {"1", "2", "3", "4"}
_MODULUS = 1 << 32
_UDP_HEADER = 8
_CONTROL_PORTS = 61000
"""The lab's control attempt uses local ports from here on; the ports of the toys are below."""

Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class End:
    """One of the two hosts."""

    interface: str
    own: frozenset[str]
    """Its addresses."""
    found: frozenset[str]
    """The addresses at which its peer reaches it: its own, and those of the NATs in front of it."""


@dataclass(frozen=True, slots=True)
class Places:
    """The roles of addresses and interfaces."""

    sender: End
    receiver: End
    edges: frozenset[str]
    nats: Mapping[str, str]
    """Interface -> NAT."""
    ways: frozenset[frozenset[str]]
    """The sets of NATs that a direct connection can cross."""
    strangers: frozenset[str]
    """Addresses of other hosts."""


@dataclass
class Counts:
    """Payload bytes, without retransmissions, and other facts from the packets."""

    direct: int = 0
    """From the sender to the receiver over connections and flows through exactly the NATs between them."""
    to_edges: int = 0
    from_edges: int = 0
    misrouted: int = 0
    """The same between the hosts over another path."""
    connected: bool = False
    """Whether a host got a SYN-ACK for its SYN from its peer, or both received datagrams from each other."""
    foreign: int = 0
    """Packets that a host sent to its peer's addresses with a transport other than TCP."""
    punches: int = 0
    """SYNs to the peer's addresses."""
    refused: bool = False
    """Whether a RST or an ICMP error answered one of those."""

    @property
    def relayed(self) -> int:
        return min(self.to_edges, self.from_edges)


@dataclass
class _Stream:
    """One direction of a TCP connection at one interface, identified by its initial sequence number."""

    outgoing: bool
    remote: str
    ranges: set[tuple[int, int]] = field(default_factory=set)

    @property
    def payload(self) -> int:
        covered = end = 0
        for low, high in sorted(self.ranges):
            covered += max(0, high - max(low, end))
            end = max(end, high)
        return covered


class _Counting:
    def __init__(self, places: Places) -> None:
        self.places, self.counts = places, Counts()
        self._ends = {end.interface: end for end in (places.sender, places.receiver)}
        self._peers = {places.sender.interface: places.receiver, places.receiver.interface: places.sender}
        self._streams: dict[tuple[str, int], _Stream] = {}
        self._initials: dict[tuple[str, str, str], int] = {}
        self._punched: set[tuple[str, int]] = set()
        self._answered: set[tuple[str, int]] = set()
        self._flows: dict[tuple[str, bool, bool], int] = defaultdict(int)

    def take(self, packet: Fields) -> None:
        interface = packet["frame.interface_name"]
        kind = _outer(packet["ip.proto"] or packet["ipv6.nxt"])
        if kind == _TCP:
            self._take_tcp(packet, interface)
        elif interface in self._ends:
            outgoing, remote = self._sides(packet, interface)
            to_peer = remote in self._peers[interface].found
            if kind in (_ICMP, _ICMPV6):
                quoted = _is_error(packet) and packet["tcp.seq"]
                self.counts.refused |= bool(quoted) and (interface, int(quoted)) in self._punched
                return
            self.counts.foreign += outgoing and to_peer
            if kind == _UDP and (to_peer or remote in self.places.edges):
                self._flows[interface, outgoing, to_peer] += int(packet["udp.length"]) - _UDP_HEADER

    def _sides(self, packet: Fields, interface: str) -> tuple[bool, str]:
        """Return whether the host sent it, and the other end's address."""
        source, destination = (
            _outer(packet["ip.src"] or packet["ipv6.src"]),
            _outer(packet["ip.dst"] or packet["ipv6.dst"]),
        )
        outgoing = source in self._ends[interface].own
        return outgoing, destination if outgoing else source

    def _take_tcp(self, packet: Fields, interface: str) -> None:
        one = f"{packet['ip.src'] or packet['ipv6.src']} {packet['tcp.srcport']}"
        other = f"{packet['ip.dst'] or packet['ipv6.dst']} {packet['tcp.dstport']}"
        flags, sequence, length = int(packet["tcp.flags"], 16), int(packet["tcp.seq"]), int(packet["tcp.len"])
        opens = flags & (_SYN | _ACK) == _SYN
        outgoing, remote = self._sides(packet, interface) if interface in self._ends else (False, "")
        if interface in self._ends:
            if int(packet["tcp.srcport" if outgoing else "tcp.dstport"]) >= _CONTROL_PORTS:
                return
            to_peer = remote in self._peers[interface].found
            if opens and outgoing and to_peer:
                self.counts.punches += 1
                # Its data may be acknowledged together with it (RFC 7413).
                self._punched |= {(interface, sequence), (interface, (sequence + length) % _MODULUS)}
            if flags & _ACK and not outgoing and to_peer:
                asked = interface, (int(packet["tcp.ack"]) - 1) % _MODULUS
                if flags & _SYN and asked in self._punched:
                    self.counts.connected = True
                    self._answered.add(asked)
                if flags & _RST and asked in self._punched - self._answered:
                    self.counts.refused = True
        if flags & _RST:
            return
        if flags & _SYN:
            self._initials[interface, one, other] = sequence
            self._streams.setdefault((interface, sequence), _Stream(outgoing, remote))
        initial = self._initials.get((interface, one, other))
        if length and initial is not None:
            start = (sequence + bool(flags & _SYN) - initial - 1) % _MODULUS
            self._streams[interface, initial].ranges.add((start, start + length))

    def total(self) -> Counts:
        sender, receiver, edges = self.places.sender, self.places.receiver, self.places.edges
        for (interface, initial), stream in self._streams.items():
            if interface == sender.interface and stream.outgoing and stream.remote in edges:
                self.counts.to_edges += stream.payload
            if interface != receiver.interface or stream.outgoing:
                continue
            if stream.remote in edges:
                self.counts.from_edges += stream.payload
            elif (sender.interface, initial) in self._streams:
                crossed = frozenset(nat for each, nat in self.places.nats.items() if (each, initial) in self._streams)
                remotes = {stream.remote, self._streams[sender.interface, initial].remote}
                if crossed in self.places.ways and remotes.isdisjoint(self.places.strangers):
                    self.counts.direct += stream.payload
                else:
                    self.counts.misrouted += stream.payload
        received = [self._flows[end.interface, False, True] for end in (sender, receiver)]
        self.counts.connected |= min(received) > 0
        self.counts.direct += received[1]
        self.counts.to_edges += self._flows[sender.interface, True, False]
        self.counts.from_edges += self._flows[receiver.interface, False, False]
        return self.counts


def count(packets: Iterable[Fields], places: Places) -> Counts:
    """Return the counts."""
    counting = _Counting(places)
    for packet in packets:
        counting.take(packet)
    return counting.total()


def _outer(value: str) -> str:
    """Return the packet's own value of a field that a quoted packet also has."""
    return value.partition(";")[0]


def _is_error(packet: Fields) -> bool:
    return _outer(packet["icmp.type"]) in _ICMP_ERRORS or _outer(packet["icmpv6.type"]) in _ICMPV6_ERRORS
