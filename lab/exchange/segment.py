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

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from punchlab.lab.capture.frame import Frame
from punchlab.lab.exchange import bounds
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


_Place = tuple[str, str, bool]
"""Node, interface, and whether the frame went out."""


@dataclass(eq=False, slots=True)
class _Journey:
    number: int
    packet: Packet
    place: _Place
    """Where it was seen last."""
    places: set[_Place] = field(default_factory=set)
    hops: list[Hop] = field(default_factory=list)


@dataclass(slots=True)
class _Queue:
    """The journeys of a crowd that can continue at one place: a heap, by number. Some may have left the crowd."""

    read: int = 0
    """How many of those that arrived it has seen."""
    waiting: list[tuple[int, _Journey]] = field(default_factory=list)


@dataclass(slots=True)
class _Crowd:
    """The journeys with one identity that were seen last at one place."""

    place: _Place
    arrived: list[_Journey] = field(default_factory=list)
    """Those that have left are still in it."""
    present: int = 0
    queues: dict[_Place, _Queue] = field(default_factory=dict)

    def oldest_for(self, place: _Place) -> _Journey | None:
        """The oldest journey here that has not been at that place."""
        queue = self.queues.setdefault(place, _Queue())
        for journey in self.arrived[queue.read :]:
            if place not in journey.places:
                heapq.heappush(queue.waiting, (journey.number, journey))
        queue.read = len(self.arrived)
        # A journey is at each place at most once, so one that has left does not come back.
        while queue.waiting and queue.waiting[0][1].place != self.place:
            heapq.heappop(queue.waiting)
        return queue.waiting[0][1] if queue.waiting else None


class _Copies:
    """The journeys with one identity. A frame costs time for each of the places, not for each of the journeys."""

    def __init__(self) -> None:
        self._crowds: dict[_Place, _Crowd] = {}

    def continued_at(self, place: _Place) -> _Journey | None:
        """The oldest journey that can continue at the place; None without one."""
        node, _interface, outgoing = place
        oldest: _Journey | None = None
        for crowd in self._crowds.values():
            if crowd.place[0] == node or (crowd.place[2] and not outgoing):
                found = crowd.oldest_for(place)
                if found is not None and (oldest is None or found.number < oldest.number):
                    oldest = found
        return oldest

    def move(self, journey: _Journey, place: _Place) -> None:
        """The journey, known or new, is seen at the place."""
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
    """The segments in the frames (which are in the order of time), in the order in which they were sent.

    Of several copies that cannot be told apart and could all continue at a frame, the oldest does. Raises
    `ExcessiveError` for more than `MOST_FRAMES` frames of segments.
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
