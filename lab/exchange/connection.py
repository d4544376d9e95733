"""The TCP connections between two hosts, put together from their segments; `lab.exchange.story` defines the terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from punchlab.lab.exchange.pair import HostPair
from punchlab.lab.exchange.segment import Hop, Segment
from punchlab.lab.exchange.wire import Kind


@dataclass(frozen=True)
class Connection:
    """One TCP connection between the hosts, by its four-tuple as each of them sees it. Times are CLOCK_REALTIME."""

    at_a: tuple[str, str]
    """(local, remote) endpoint at host a."""
    at_b: tuple[str, str]
    """(local, remote) endpoint at host b."""
    way: tuple[Hop, ...]
    """Every interface that it crosses from a to b: source is a's endpoint as seen there, destination is b's."""
    nats: tuple[str, ...]
    """The NATs among the nodes on its way, in order from a to b."""
    edge: bool
    """Whether any packet of it was seen at an edge."""
    established_ns: int | None
    ended_ns: int | None
    """When its first FIN or RST after that was sent; None when it outlived the capture."""
    simultaneous: frozenset[str]
    """The hosts that opened it simultaneously."""
    segments: tuple[Segment, ...] = field(repr=False)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes on its way from a to b."""
        return tuple(dict.fromkeys(hop.node for hop in self.way))

    @property
    def lifetime(self) -> tuple[float, int]:
        """Orders established connections: longer lived ones later, among those alike the one established first."""
        assert self.established_ns is not None
        return (math.inf if self.ended_ns is None else self.ended_ns), -self.established_ns


def connect(segments: Sequence[Segment], pair: HostPair) -> tuple[Connection, ...]:
    """The connections of which at least one segment went all the way between the hosts, by their first segments."""
    a, b = pair.a.host, pair.b.host
    segments = [segment for segment in segments if segment.kind is not Kind.ICMP]
    through: dict[tuple[tuple[str, str], tuple[str, str]], Segment] = {}
    for segment in segments:
        view_a, view_b = _view(segment, a), _view(segment, b)
        if view_a is not None and view_b is not None:
            through.setdefault((view_a, view_b), segment)
    return tuple(
        _connection(
            at_a,
            at_b,
            first.hops if first.origin == a else tuple(_reversed(hop) for hop in reversed(first.hops)),
            tuple(segment for segment in segments if at_a == _view(segment, a) or at_b == _view(segment, b)),
            pair,
        )
        for (at_a, at_b), first in through.items()
    )


def _connection(
    at_a: tuple[str, str], at_b: tuple[str, str], way: tuple[Hop, ...], segments: tuple[Segment, ...], pair: HostPair
) -> Connection:
    syns = [segment for segment in segments if segment.kind is Kind.SYN]
    acks = [segment for segment in segments if segment.kind is Kind.SYN_ACK]
    established = min((ack.last.time_ns for ack in acks if _completes(ack, syns)), default=None)
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
        simultaneous=frozenset(ack.origin for ack in acks if ack.origin is not None and _repeats(ack, syns)),
        segments=segments,
    )


def _completes(ack: Segment, syns: Sequence[Segment]) -> bool:
    """Whether the SYN-ACK reached a host that had sent the SYN which it acknowledges."""
    return not ack.last.outgoing and any(
        syn.origin == ack.last.node and ack.acknowledgment in syn.acknowledged_by for syn in syns
    )


def _repeats(ack: Segment, syns: Sequence[Segment]) -> bool:
    """Whether the SYN-ACK has the sequence number of a SYN that its sender sent before."""
    return any(syn.origin == ack.origin and syn.sequence == ack.sequence and syn.sent_ns < ack.sent_ns for syn in syns)


def _view(segment: Segment, host: str) -> tuple[str, str] | None:
    """The (local, remote) endpoints of the segment at the host that sent or received it; None at any other."""
    if segment.origin == host:
        return segment.source, segment.destination
    last = segment.last
    return (last.destination, last.source) if last.node == host and not last.outgoing else None


def _reversed(hop: Hop) -> Hop:
    return replace(hop, outgoing=not hop.outgoing, source=hop.destination, destination=hop.source)
