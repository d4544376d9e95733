"""The exchange of two hosts: their SYNs, the answers, and the connections.

Definitions, for hosts a and b:

punch SYN           a SYN (without ACK) of a or b whose destination is neither an edge nor the host's own gateway (which
                    receives port mapping requests). A retransmission is a separate punch SYN.
border              of a host: the outermost NAT in front of it that is not also in front of the other host; without
                    such a NAT, the host itself. Between the two borders is the Internet, or a shared NAT or LAN.
crossed             a punch SYN of a and one of b crossed if they belong to one connection (the endpoints at each border
                    are reversed) and were in flight between the borders at the same time: each left its own border
                    before the other arrived there, and both arrived. So each SYN arrived at a pinhole that the other
                    SYN had just created.
answered            a SYN or SYN-ACK is answered if the node where it ended sent a SYN-ACK, an RST or an ICMP error for
                    it.
dropped             a segment is dropped if it ended, unanswered, at a node that is neither a host nor an edge. This
                    includes segments in flight or in a queue at the end of the capture.
simultaneous open   a host answered the peer's SYN while its own SYN was outstanding (RFC 9293 section 3.5, figure 7):
                    its SYN-ACK has the sequence number of an earlier SYN of the host on that connection. If SYNs
                    cross, both hosts do this. If the peer's NAT dropped the first SYN, only the sender of that SYN
                    does. The SYN-ACK of a listener has a new sequence number (three-way handshake).
established         a host that sent a SYN received the SYN-ACK for it.
winner              the connection that the clients agreed on; by default the longest-lived established connection.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate

from punchlab.lab.capture.frame import Frame
from punchlab.lab.exchange.connection import Connection, connect
from punchlab.lab.exchange.pair import HostPair, HostSide
from punchlab.lab.exchange.segment import Segment, follow
from punchlab.lab.exchange.wire import Kind, address_of


class Exchange:
    """The exchange between the two hosts of `pair`. Hosts and NATs are identified by their node names.

    `frames` are the frames of one trial in order of time; UDP datagrams are ignored. `agreed` is the winner as its
    (local, remote) endpoints at host a; it can be set until `winner` is read. Times are CLOCK_REALTIME nanoseconds as
    in the frames, durations are seconds.

    The constructor, `connections` and the members that use it raise `ExcessiveError` (see `lab.exchange.bounds`).
    """

    def __init__(self, frames: Iterable[Frame], pair: HostPair, agreed: tuple[str, str] | None = None) -> None:
        self.pair = pair
        self.frames = tuple(frames)
        self.segments = tuple(segment for segment in follow(self.frames) if not _background(segment, pair))
        """All captured segments without background traffic, in the order in which they were sent."""
        self.agreed = agreed
        self._answers = _answers(self.segments)

    # Single segments.

    def is_rendezvous(self, segment: Segment) -> bool:
        """Return whether the segment is between a host and an edge."""
        edges = self.pair.edge_addresses
        return address_of(segment.destination) in edges or address_of(segment.source) in edges

    def answer(self, segment: Segment) -> Segment | None:
        """Return the SYN-ACK, RST or ICMP error that answers the SYN or SYN-ACK, or None."""
        return self._answers.get(segment)

    def delivered_to(self, segment: Segment) -> str | None:
        """Return the host or edge that received it, or None."""
        last = segment.last
        return None if last.outgoing or last.node not in self.pair.ends else last.node

    def dropped_at(self, segment: Segment) -> str | None:
        """Return the node that dropped it, or None."""
        if self.delivered_to(segment) is not None or segment in self._answers:
            return None
        return segment.last.node

    # The punch SYNs.

    def syns(self, host: str | None = None) -> tuple[Segment, ...]:
        """Return the punch SYNs of the host (by default of both), including retransmissions, in order of time."""
        return tuple(syn for syn in self._syns if host in (None, syn.origin))

    def first_syn(self, host: str) -> Segment | None:
        """Return the host's first punch SYN to an external address of its peer, else its first punch SYN, or None."""
        _side, peer = self._sides(host)
        syns = self.syns(host)
        return next((syn for syn in syns if address_of(syn.destination) in peer.addresses), next(iter(syns), None))

    @cached_property
    def started(self) -> bool:
        """Whether a host sent a SYN to an address of its peer."""
        return any(
            address_of(syn.destination) in peer.addresses | peer.inside
            for side, peer in ((self.pair.a, self.pair.b), (self.pair.b, self.pair.a))
            for syn in self.syns(side.host)
        )

    @cached_property
    def refused(self) -> tuple[Segment, ...]:
        """The punch SYNs that were answered by an RST or an ICMP error; `answer` returns it."""
        return tuple(syn for syn in self._syns if (answer := self.answer(syn)) and answer.kind is not Kind.SYN_ACK)

    @cached_property
    def dropped(self) -> tuple[Segment, ...]:
        """The punch SYNs that were dropped; `dropped_at` returns the node."""
        return tuple(syn for syn in self._syns if self.dropped_at(syn) is not None)

    @cached_property
    def skew_s(self) -> float | None:
        """The time of b's first punch SYN minus the time of a's; None unless both sent one."""
        first_a, first_b = self.first_syn(self.pair.a.host), self.first_syn(self.pair.b.host)
        return None if first_a is None or first_b is None else (first_b.sent_ns - first_a.sent_ns) / 1e9

    @cached_property
    def crossing(self) -> tuple[Segment, Segment] | None:
        """The first punch SYN of a and of b that crossed, or None."""
        border_a, border_b = self.pair.border(self.pair.a), self.pair.border(self.pair.b)
        # The endpoints at the two borders, those of a first, identify a connection.
        arriving: dict[tuple[str, ...], _ArrivedSyns] = {}
        for theirs in self.syns(self.pair.b.host):
            out_b, in_a = theirs.left(border_b), theirs.reached(border_a)
            if out_b is not None and in_a is not None:
                ends = (in_a.destination, in_a.source, out_b.destination, out_b.source)
                arriving.setdefault(ends, _ArrivedSyns()).add(theirs, out_b.time_ns, in_a.time_ns)
        for ours in self.syns(self.pair.a.host):
            out_a, in_b = ours.left(border_a), ours.reached(border_b)
            if out_a is None or in_b is None:
                continue
            known = arriving.get((out_a.source, out_a.destination, in_b.source, in_b.destination))
            if known is not None and (met := known.first(left_before=in_b.time_ns, came_after=out_a.time_ns)):
                return ours, met
        return None

    @property
    def crossed(self) -> bool:
        """Whether SYNs crossed."""
        return self.crossing is not None

    def delay_s(self, host: str) -> float | None:
        """Return the median one-way delay in seconds from the host's border to that of its peer, or None."""
        import statistics  # the import takes 3 ms, and few trials need it

        side, peer = self._sides(host)
        delays = []
        for segment in self.segments:
            out, into = segment.left(self.pair.border(side)), segment.reached(self.pair.border(peer))
            if out is not None and into is not None and into.time_ns > out.time_ns:
                delays.append(into.time_ns - out.time_ns)
        return statistics.median(delays) / 1e9 if delays else None

    # The connections.

    @cached_property
    def connections(self) -> tuple[Connection, ...]:
        """The connections of which one host received a segment of the other, ordered by the first such segment."""
        return connect(self.segments, self.pair)

    def connection(self, host: str, local: str, remote: str) -> Connection | None:
        """Return the connection with these endpoints at the host, or None."""
        at_a = host == self.pair.a.host
        return next((each for each in self.connections if (each.at_a if at_a else each.at_b) == (local, remote)), None)

    @cached_property
    def winner(self) -> Connection | None:
        """The winning connection; None if there is none or the agreed one was not captured."""
        if self.agreed is not None:
            return self.connection(self.pair.a.host, *self.agreed)
        established = [each for each in self.connections if each.established_ns is not None]
        return max(established, key=lambda each: each.lifetime, default=None)

    @property
    def winner_nats(self) -> tuple[str, ...]:
        """The NATs that the winner crossed, from a to b; empty without a winner."""
        return self.winner.nats if self.winner is not None else ()

    @property
    def winner_touched_edge(self) -> bool:
        """Whether a packet of the winner was captured at an edge."""
        return self.winner is not None and self.winner.edge

    @property
    def simultaneous_open(self) -> bool:
        """Whether a host did a simultaneous open of the winner (`winner.simultaneous` names the hosts)."""
        return self.winner is not None and bool(self.winner.simultaneous)

    def rendezvous_closed_before_punch(self, host: str) -> bool:
        """Return whether the host closed its rendezvous connection before it punched from the same local endpoint.

        True requires that the SYN and FIN of the rendezvous connection and the first punch SYN from that endpoint were
        captured.
        """
        rendezvous = [each for each in self.segments if each.origin == host and self.is_rendezvous(each)]
        used = {each.source for each in rendezvous if each.kind is Kind.SYN}
        first = next((syn for syn in self.syns(host) if syn.source in used), None)
        return first is not None and any(
            each.kind is Kind.FIN and each.source == first.source and each.sent_ns < first.sent_ns
            for each in rendezvous
        )

    def since_rendezvous_s(self, host: str) -> float | None:
        """Return the seconds from the last SYN of the host to an edge before its first punch SYN until that punch SYN.

        During this time, connections of other hosts can use the ports that its NAT allocates next.
        """
        first = self.first_syn(host)
        before = [
            segment.sent_ns
            for segment in self.segments
            if segment.kind is Kind.SYN
            and segment.origin == host
            and self.is_rendezvous(segment)
            and self.delivered_to(segment) in self.pair.edges
            and first is not None
            and segment.sent_ns < first.sent_ns
        ]
        return None if first is None or not before else (first.sent_ns - max(before)) / 1e9

    # The result record.

    def summary(self) -> dict[str, bool | int]:
        """Return the fields for the result record; the counts are of punch SYNs and their answers."""
        refusals = [answer.kind for syn in self.refused if (answer := self.answer(syn)) is not None]
        return {
            "crossed": self.crossed,
            "simultaneous_open": self.simultaneous_open,
            "syns": len(self._syns),
            "resets": refusals.count(Kind.RST),
            "icmp": refusals.count(Kind.ICMP),
            "dropped": len(self.dropped),
        }

    @cached_property
    def _syns(self) -> tuple[Segment, ...]:
        elsewhere = {side.host: self.pair.edge_addresses | side.gateways for side in (self.pair.a, self.pair.b)}
        return tuple(
            segment
            for segment in self.segments
            if segment.kind is Kind.SYN
            and segment.origin in elsewhere
            and address_of(segment.destination) not in elsewhere[segment.origin]
        )

    def _sides(self, host: str) -> tuple[HostSide, HostSide]:
        """Return the side of the host and that of its peer. Raises ValueError for another node."""
        if host == self.pair.a.host:
            return self.pair.a, self.pair.b
        if host == self.pair.b.host:
            return self.pair.b, self.pair.a
        raise ValueError(f"host: {host!r} cannot be used; expected {self.pair.a.host} or {self.pair.b.host}")


def _answers(segments: Sequence[Segment]) -> dict[Segment, Segment]:
    """Return segment -> its answer, for segments in the order in which they were sent.

    An answer belongs to the latest unanswered segment that matches.
    """
    arrivals = [
        segment for segment in segments if not segment.last.outgoing and segment.kind in (Kind.SYN, Kind.SYN_ACK)
    ]
    # Segments that arrived at the same time stay in the order in which they were sent.
    arrivals.sort(key=lambda segment: segment.last.time_ns, reverse=True)
    arrivals.reverse()
    open_at: dict[tuple[object, ...], list[Segment]] = {}
    answered: dict[Segment, Segment] = {}
    arrived = 0
    for answer in segments:
        while arrived < len(arrivals) and arrivals[arrived].last.time_ns <= answer.sent_ns:
            for key in _answered_by(arrivals[arrived]):
                open_at.setdefault(key, []).append(arrivals[arrived])
            arrived += 1
        fitting = open_at.get((answer.origin, *_fits(answer)), [])
        while fitting and fitting[-1] in answered:
            fitting.pop()
        if fitting:
            answered[fitting.pop()] = answer
    return answered


def _answered_by(segment: Segment) -> Iterator[tuple[object, ...]]:
    """Yield node and the possible values of `_fits` of an answer to a segment that has arrived."""
    node = segment.last.node
    for number in segment.acknowledged_by:
        yield node, "acknowledges", number
    yield node, "continues", segment.acknowledgment
    yield node, "quotes", segment.sequence


def _fits(answer: Segment) -> tuple[str, int | None]:
    """Return the relation of an answer to its segment; an RST without ACK continues its sequence (RFC 9293)."""
    if answer.kind is Kind.ICMP:
        return "quotes", answer.sequence
    if answer.kind in (Kind.RST, Kind.SYN_ACK) and answer.acknowledgment is not None:
        return "acknowledges", answer.acknowledgment
    if answer.kind is Kind.RST:
        return "continues", answer.sequence
    return "nothing", None


class _ArrivedSyns:
    """SYNs of one host on one connection: when each left its sender's border and arrived at the other border."""

    def __init__(self) -> None:
        self._syns: list[tuple[int, int, Segment]] = []

    def add(self, syn: Segment, left_ns: int, came_ns: int) -> None:
        """Add the next SYN, in the order in which they were sent."""
        self._syns.append((left_ns, came_ns, syn))

    def first(self, *, left_before: int, came_after: int) -> Segment | None:
        """Return the first SYN that left before one time and arrived after the other, or None."""
        left, last_came = self._latest
        number = bisect_left(left, left_before)
        if not number or last_came[number - 1] <= came_after:
            return None
        return next(syn for left_ns, came_ns, syn in self._syns if left_ns < left_before and came_ns > came_after)

    @cached_property
    def _latest(self) -> tuple[Sequence[int], Sequence[int]]:
        """The sorted departure times; for each, the latest arrival time of the SYNs that left until then."""
        times = sorted((left_ns, came_ns) for left_ns, came_ns, _syn in self._syns)
        return [left for left, _came in times], list(accumulate((came for _left, came in times), max))


def _background(segment: Segment, pair: HostPair) -> bool:
    # A background address may belong to a router, which sends ICMP errors about punch SYNs.
    ends = {address_of(segment.source), address_of(segment.destination)}
    return segment.kind is not Kind.ICMP and not pair.background.isdisjoint(ends)
