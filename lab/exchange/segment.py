"""Following one segment across interfaces and NATs.

A NAT changes addresses and ports; sequence and acknowledgment number, flags, TCP timestamps and the IP identification
of a SYN go through unchanged. Two frames with these the same show one segment, if a packet can get from one place to
the other: out of a node, then into another; into a node, then out of it (on a bridge also through a second interface).
A frame that goes out of a node without having come into it starts a new journey: the node sent it. So a retransmission
is a segment of its own, and so is the answer of a NAT.

The kernel shows a packet that it sends after its queue and one that it receives before its firewall. A segment whose
last frame came *into* a node ended there: it was for that node, or the node dropped it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from punchlab.lab.capture.frame import Frame
from punchlab.lab.exchange.wire import SEQUENCES, Kind, Packet, decode


@dataclass(frozen=True, slots=True)
class Hop:
    """A segment at one interface. Endpoints are as in `lab.exchange.wire.Packet`, as they were there."""

    time_ns: int
    """CLOCK_REALTIME."""
    node: str
    interface: str
    outgoing: bool
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Translation:
    """What a NAT made of a segment's endpoints."""

    time_ns: int
    """When it went out again."""
    node: str
    before: tuple[str, str]
    """Source and destination when it came in."""
    after: tuple[str, str]
    """Source and destination when it went out."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One TCP segment with SYN, FIN or RST, or one ICMP error, on its way. Equal only to itself."""

    kind: Kind
    sequence: int
    acknowledgment: int | None
    icmp: tuple[int, int] | None
    """Type and code of an ICMP error."""
    hops: tuple[Hop, ...]
    payload: int = 0
    """Bytes of data in a SYN or SYN-ACK (RFC 7413)."""

    @property
    def acknowledged_by(self) -> frozenset[int]:
        """The acknowledgment numbers of an answer to a SYN or SYN-ACK: its receiver accepts the data in it, or not."""
        return frozenset({(self.sequence + 1) & SEQUENCES, (self.sequence + 1 + self.payload) & SEQUENCES})

    @property
    def first(self) -> Hop:
        """Where it was seen first."""
        return self.hops[0]

    @property
    def last(self) -> Hop:
        """Where it was seen last."""
        return self.hops[-1]

    @property
    def origin(self) -> str | None:
        """The node that sent it; None when it came from outside of what was captured."""
        return self.first.node if self.first.outgoing else None

    @property
    def sent_ns(self) -> int:
        """When it was seen first."""
        return self.first.time_ns

    @property
    def source(self) -> str:
        """Its source endpoint as its sender wrote it."""
        return self.first.source

    @property
    def destination(self) -> str:
        """Its destination endpoint as its sender wrote it."""
        return self.first.destination

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The nodes it was seen in, in order, each once per passage."""
        names = [hop.node for hop in self.hops]
        return tuple(name for place, name in enumerate(names) if place == 0 or names[place - 1] != name)

    @cached_property
    def translations(self) -> tuple[Translation, ...]:
        """What the nodes that it crossed made of its endpoints, in order; nodes that changed nothing are left out."""
        changes = []
        for before, after in zip(self.hops, self.hops[1:], strict=False):
            was, became = (before.source, before.destination), (after.source, after.destination)
            if was != became and before.node == after.node:
                changes.append(Translation(after.time_ns, after.node, was, became))
        return tuple(changes)

    def left(self, node: str) -> Hop | None:
        """Where it went out of the node for the last time, None when it never did."""
        return next((hop for hop in reversed(self.hops) if hop.node == node and hop.outgoing), None)

    def reached(self, node: str) -> Hop | None:
        """Where it came into the node for the first time, None when it never did."""
        return next((hop for hop in self.hops if hop.node == node and not hop.outgoing), None)


@dataclass(eq=False)
class _Journey:
    packet: Packet
    hops: list[Hop] = field(default_factory=list)

    def can_continue_at(self, hop: Hop) -> bool:
        last = self.hops[-1]
        if any(
            was.interface == hop.interface and was.outgoing == hop.outgoing and was.node == hop.node
            for was in self.hops
        ):
            return False
        return last.node == hop.node or (last.outgoing and not hop.outgoing)


def follow(frames: Iterable[Frame]) -> tuple[Segment, ...]:
    """The segments in the frames (which are in the order of time), in the order in which they were sent.

    Of several copies that cannot be told apart and could all continue at a frame, the oldest does.
    """
    journeys: list[_Journey] = []
    by_identity: dict[tuple[object, ...], list[_Journey]] = {}
    for frame in frames:
        packet = decode(frame.data)
        if packet is None:
            continue
        hop = Hop(frame.time_ns, frame.node, frame.interface, frame.outgoing, packet.source, packet.destination)
        alike = by_identity.setdefault(packet.identity, [])
        journey = next((candidate for candidate in alike if candidate.can_continue_at(hop)), None)
        if journey is None:
            journey = _Journey(packet)
            alike.append(journey)
            journeys.append(journey)
        journey.hops.append(hop)
    return tuple(
        Segment(
            each.packet.kind,
            each.packet.sequence,
            each.packet.acknowledgment,
            each.packet.icmp,
            tuple(each.hops),
            each.packet.payload,
        )
        for each in journeys
    )
