"""Follow a segment across interfaces and NATs.

A NAT changes addresses and ports. It does not change the sequence and acknowledgment numbers, the flags, the TCP
timestamps, and the IP identification of a SYN. Two frames belong to the same segment if these are equal and the packet
can get from one interface to the other: sent by a node and then received by another, or received by a node and then
sent by it. On a bridge, a frame is sent and received by more than one interface. If a node sends a frame that it did
not receive, the frame starts a new segment. Therefore a retransmission is a separate segment, and so is the response
of a NAT.

The kernel captures a sent packet after the queueing discipline, and a received packet before netfilter. If the last
frame of a segment was *received* by a node, the segment ended there: it was addressed to the node, or the node dropped
it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from punchlab.lab.capture.frame import Frame
from punchlab.lab.exchange import bounds
from punchlab.lab.exchange.wire import SEQUENCES, Kind, Packet, decode


@dataclass(frozen=True, slots=True)
class Hop:
    """A segment at one interface, with its endpoints there in the format of `lab.exchange.wire.Packet`."""

    time_ns: int
    """CLOCK_REALTIME."""
    node: str
    interface: str
    outgoing: bool
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Translation:
    """A translation of a segment's endpoints by a NAT."""

    time_ns: int
    """When the NAT sent it."""
    node: str
    before: tuple[str, str]
    """Source and destination when the NAT received it."""
    after: tuple[str, str]
    """Source and destination when the NAT sent it."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One TCP segment with SYN, FIN or RST, or one ICMP error; compared by identity."""

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
        """The acknowledgment numbers of an answer to a SYN or SYN-ACK, with and without the data in it."""
        return frozenset({(self.sequence + 1) & SEQUENCES, (self.sequence + 1 + self.payload) & SEQUENCES})

    @property
    def first(self) -> Hop:
        """The first hop."""
        return self.hops[0]

    @property
    def last(self) -> Hop:
        """The last hop."""
        return self.hops[-1]

    @property
    def origin(self) -> str | None:
        """The node that sent it; None if that node was not captured."""
        return self.first.node if self.first.outgoing else None

    @property
    def sent_ns(self) -> int:
        """Time of the first hop."""
        return self.first.time_ns

    @property
    def source(self) -> str:
        """Its source endpoint at its sender."""
        return self.first.source

    @property
    def destination(self) -> str:
        """Its destination endpoint at its sender."""
        return self.first.destination

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The nodes on its path, in order; a node that it crosses twice appears twice."""
        names = [hop.node for hop in self.hops]
        return tuple(name for place, name in enumerate(names) if place == 0 or names[place - 1] != name)

    @cached_property
    def translations(self) -> tuple[Translation, ...]:
        """The translations of its endpoints, in order."""
        changes = []
        for before, after in zip(self.hops, self.hops[1:], strict=False):
            was, became = (before.source, before.destination), (after.source, after.destination)
            if was != became and before.node == after.node:
                changes.append(Translation(after.time_ns, after.node, was, became))
        return tuple(changes)

    def left(self, node: str) -> Hop | None:
        """Return the last hop at which the node sent it, or None."""
        return next((hop for hop in reversed(self.hops) if hop.node == node and hop.outgoing), None)

    def reached(self, node: str) -> Hop | None:
        """Return the first hop at which the node received it, or None."""
        return next((hop for hop in self.hops if hop.node == node and not hop.outgoing), None)


_Place = tuple[str, str, bool]
"""Node, interface, and whether the node sent the frame."""


@dataclass(eq=False, slots=True)
class _Journey:
    number: int
    packet: Packet
    place: _Place
    """The place of its last frame."""
    places: set[_Place] = field(default_factory=set)
    hops: list[Hop] = field(default_factory=list)


@dataclass(slots=True)
class _Queue:
    """The journeys of a crowd that can continue at one place, as a heap by number; some may have left the crowd."""

    read: int = 0
    """Number of entries of `_Crowd.arrived` that it has read."""
    waiting: list[tuple[int, _Journey]] = field(default_factory=list)


@dataclass(slots=True)
class _Crowd:
    """The journeys with one identity whose last frame is at one place."""

    place: _Place
    arrived: list[_Journey] = field(default_factory=list)
    """All journeys that arrived, including those that have left."""
    present: int = 0
    queues: dict[_Place, _Queue] = field(default_factory=dict)

    def oldest_for(self, place: _Place) -> _Journey | None:
        """Return the oldest journey that has no frame at that place yet."""
        queue = self.queues.setdefault(place, _Queue())
        for journey in self.arrived[queue.read :]:
            if place not in journey.places:
                heapq.heappush(queue.waiting, (journey.number, journey))
        queue.read = len(self.arrived)
        # A journey has at most one frame at each place, so a journey that has left does not return.
        while queue.waiting and queue.waiting[0][1].place != self.place:
            heapq.heappop(queue.waiting)
        return queue.waiting[0][1] if queue.waiting else None


class _Copies:
    """The journeys with one identity. The time per frame grows with the number of places, not of journeys."""

    def __init__(self) -> None:
        self._crowds: dict[_Place, _Crowd] = {}

    def continued_at(self, place: _Place) -> _Journey | None:
        """Return the oldest journey that can continue at the place, or None."""
        node, _interface, outgoing = place
        oldest: _Journey | None = None
        for crowd in self._crowds.values():
            if crowd.place[0] == node or (crowd.place[2] and not outgoing):
                found = crowd.oldest_for(place)
                if found is not None and (oldest is None or found.number < oldest.number):
                    oldest = found
        return oldest

    def move(self, journey: _Journey, place: _Place) -> None:
        """Record a frame of a known or new journey at the place."""
        if journey.places:
            left = self._crowds[journey.place]
            left.present -= 1
            if not left.present:
                del self._crowds[journey.place]
        journey.place = place
        journey.places.add(place)
        crowd = self._crowds.setdefault(place, _Crowd(place))
        crowd.arrived.append(journey)
        crowd.present += 1


def follow(frames: Iterable[Frame]) -> tuple[Segment, ...]:
    """Return the segments in the frames, which are in order of time, in the order in which they were sent.

    If a frame matches several indistinguishable segments, it belongs to the oldest of them. Raises `ExcessiveError` if
    more than `MOST_FRAMES` frames contain segments.
    """
    journeys: list[_Journey] = []
    by_identity: dict[tuple[object, ...], _Copies] = {}
    count = 0
    for frame in frames:
        packet = decode(frame.data)
        if packet is None:
            continue
        count += 1
        if count > bounds.MOST_FRAMES:
            raise bounds.ExcessiveError(
                f"more than {bounds.MOST_FRAMES} frames that open, close or refuse connections, at all interfaces"
            )
        place = (frame.node, frame.interface, frame.outgoing)
        copies = by_identity.setdefault(packet.identity, _Copies())
        journey = copies.continued_at(place)
        if journey is None:
            journey = _Journey(len(journeys), packet, place)
            journeys.append(journey)
        copies.move(journey, place)
        journey.hops.append(
            Hop(frame.time_ns, frame.node, frame.interface, frame.outgoing, packet.source, packet.destination)
        )
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
