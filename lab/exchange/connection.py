"""Group segments into the TCP connections between two hosts; `lab.exchange.story` defines the terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from punchlab.lab.exchange import bounds
from punchlab.lab.exchange.pair import HostPair
from punchlab.lab.exchange.segment import Hop, Segment
from punchlab.lab.exchange.wire import Kind

_View = tuple[str, str]
"""(local, remote) endpoint at a host."""


@dataclass(frozen=True)
class Connection:
    """One TCP connection between the hosts. Times are CLOCK_REALTIME nanoseconds."""

    at_a: tuple[str, str]
    """(local, remote) endpoint at host a."""
    at_b: tuple[str, str]
    """(local, remote) endpoint at host b."""
    way: tuple[Hop, ...]
    """The interfaces on its path from a to b; at each, `source` is the endpoint of a and `destination` that of b."""
    nats: tuple[str, ...]
    """The NATs on its path, in order from a to b."""
    edge: bool
    """Whether a packet of the connection was captured at an edge."""
    established_ns: int | None
    ended_ns: int | None
    """Time of the first FIN or RST after it was established; None if the capture contains neither."""
    simultaneous: frozenset[str]
    """The hosts that did a simultaneous open."""
    segments: tuple[Segment, ...] = field(repr=False)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes on its path from a to b."""
        return tuple(dict.fromkeys(hop.node for hop in self.way))

    @property
    def lifetime(self) -> tuple[float, int]:
        """Sort key of established connections: by end, then by establishment; the earliest established sorts last."""
        assert self.established_ns is not None
        return (math.inf if self.ended_ns is None else self.ended_ns), -self.established_ns


def connect(segments: Sequence[Segment], pair: HostPair) -> tuple[Connection, ...]:
    """Return the connections of which one host received a segment of the other, ordered by the first such segment.

    Raises `ExcessiveError` if they have more than `MOST_MEMBERS` segments.
    """
    a, b = pair.a.host, pair.b.host
    through: dict[tuple[_View, _View], Segment] = {}
    seen_at_a: dict[_View, list[int]] = {}
    seen_at_b: dict[_View, list[int]] = {}
    for number, segment in enumerate(segments):
        if segment.kind is Kind.ICMP:
            continue
        view_a, view_b = _view(segment, a), _view(segment, b)
        if view_a is not None:
            seen_at_a.setdefault(view_a, []).append(number)
        if view_b is not None:
            seen_at_b.setdefault(view_b, []).append(number)
        if view_a is not None and view_b is not None:
            through.setdefault((view_a, view_b), segment)
    if sum(len(seen_at_a[at_a]) + len(seen_at_b[at_b]) for at_a, at_b in through) > bounds.MOST_MEMBERS:
        raise bounds.ExcessiveError(f"the connections have more than {bounds.MOST_MEMBERS} segments")
    return tuple(
        _connection(
            at_a,
            at_b,
            first.hops if first.origin == a else tuple(_reversed(hop) for hop in reversed(first.hops)),
            tuple(segments[number] for number in sorted({*seen_at_a[at_a], *seen_at_b[at_b]})),
            pair,
        )
        for (at_a, at_b), first in through.items()
    )


def _connection(
    at_a: _View, at_b: _View, way: tuple[Hop, ...], segments: tuple[Segment, ...], pair: HostPair
) -> Connection:
    acks = [segment for segment in segments if segment.kind is Kind.SYN_ACK]
    acknowledged, first_sent = _syns(segments)
    established = min(
        (
            ack.last.time_ns
            for ack in acks
            # It acknowledges a SYN of the host that received it.
            if not ack.last.outgoing and (ack.last.node, ack.acknowledgment) in acknowledged
        ),
        default=None,
    )
    closing = [segment.sent_ns for segment in segments if segment.kind in (Kind.FIN, Kind.RST)]
    nats = {*pair.a.nats, *pair.b.nats}
    return Connection(
        at_a,
        at_b,
        way,
        nats=tuple(node for node in dict.fromkeys(hop.node for hop in way) if node in nats),
        edge=any(hop.node in pair.edges for segment in segments for hop in segment.hops),
        established_ns=established,
        ended_ns=min((sent for sent in closing if established is not None and sent >= established), default=None),
        simultaneous=frozenset(
            ack.origin
            for ack in acks
            # It has the sequence number of an earlier SYN of the same host.
            if ack.origin is not None and first_sent.get((ack.origin, ack.sequence), math.inf) < ack.sent_ns
        ),
        segments=segments,
    )


def _syns(segments: Sequence[Segment]) -> tuple[set[tuple[str | None, int | None]], dict[tuple[str | None, int], int]]:
    """Return the SYNs as (sender, acknowledgment number), and (sender, sequence number) -> time of the first SYN."""
    acknowledged: set[tuple[str | None, int | None]] = set()
    first_sent: dict[tuple[str | None, int], int] = {}
    for syn in segments:
        if syn.kind is Kind.SYN:
            acknowledged.update((syn.origin, number) for number in syn.acknowledged_by)
            sent = first_sent.setdefault((syn.origin, syn.sequence), syn.sent_ns)
            first_sent[syn.origin, syn.sequence] = min(sent, syn.sent_ns)
    return acknowledged, first_sent


def _view(segment: Segment, host: str) -> _View | None:
    """Return the (local, remote) endpoints of the segment at the host; None if the host did not send or receive it."""
    if segment.origin == host:
        return segment.source, segment.destination
    last = segment.last
    return (last.destination, last.source) if last.node == host and not last.outgoing else None


def _reversed(hop: Hop) -> Hop:
    return replace(hop, outgoing=not hop.outgoing, source=hop.destination, destination=hop.source)
