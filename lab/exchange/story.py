"""What the segments between two hosts amount to.

Definitions, for hosts a and b:

punch SYN           a SYN (without ACK) sent by a or b to an address that is neither an edge's nor its own gateway's
                    (which it asks for port mappings). A retransmission is another one.
gate                of a host: the outermost NAT in front of it that the other host is not behind as well; without one,
                    the host itself. Between the two gates lies the Internet, or the NAT (or LAN) that both share.
crossed             a punch SYN of a and one of b, of one connection (what reaches each gate is the reverse of what
                    left it), were under way between the gates at once: each left its own gate before the other
                    reached it, and both arrived. So each found the hole that the other's sender had just made.
answered            a SYN or SYN-ACK that ended at a node which then sent a SYN-ACK, an RST or an ICMP error for it.
dropped             a segment that ended, unanswered, at a node that is no host and no edge; so did one still under way
                    (or held in a queue) when the capture ended.
simultaneous open   a host answered the peer's SYN while its own was outstanding (RFC 9293 section 3.5, figure 7): its
                    SYN-ACK has the sequence number of a SYN that it sent before on that connection. When SYNs cross,
                    both hosts do; when the first SYN was dropped at the peer's NAT, only its sender does. A listener
                    answers with a sequence number of its own: that is the three-way handshake.
established         a host that sent a SYN received the SYN-ACK for it.
winner              the connection that the clients agreed on; unless told, the longest-lived established one.
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
    """The exchange between the two hosts of `pair`. Hosts and NATs are named by their nodes.

    `frames` are those of one trial, in the order of time; UDP datagrams among them are no part of the story. `agreed`
    names the winner by its (local, remote) endpoints at host a; it can be set until `winner` is read. Times are
    CLOCK_REALTIME nanoseconds as in the frames, durations seconds.

    The constructor and `connections` (with what depends on them) raise `ExcessiveError`, see `lab.exchange.bounds`.
    """

    def __init__(self, frames: Iterable[Frame], pair: HostPair, agreed: tuple[str, str] | None = None) -> None:
        self.pair = pair
        self.frames = tuple(frames)
        self.segments = tuple(segment for segment in follow(self.frames) if not _background(segment, pair))
        """Every segment that was seen, background traffic apart, in the order in which they were sent."""
        self.agreed = agreed
        self._answers = _answers(self.segments)

    # Single segments: what they are and what became of them.

    def is_rendezvous(self, segment: Segment) -> bool:
        """Whether it is between a host and an edge."""
        edges = self.pair.edge_addresses
        return address_of(segment.destination) in edges or address_of(segment.source) in edges

    def answer(self, segment: Segment) -> Segment | None:
        """The SYN-ACK, RST or ICMP error that the node where the SYN or SYN-ACK ended sent for it."""
        return self._answers.get(segment)

    def delivered_to(self, segment: Segment) -> str | None:
        """The host or edge that received it."""
        last = segment.last
        return None if last.outgoing or last.node not in self.pair.ends else last.node

    def dropped_at(self, segment: Segment) -> str | None:
        """The node where it vanished: neither delivered nor answered."""
        if self.delivered_to(segment) is not None or segment in self._answers:
            return None
        return segment.last.node

    # The punch SYNs.

    def syns(self, host: str | None = None) -> tuple[Segment, ...]:
        """The punch SYNs of the host (of both without one), retransmissions included, in the order of time."""
        return tuple(syn for syn in self._syns if host in (None, syn.origin))

    def first_syn(self, host: str) -> Segment | None:
        """The host's first punch SYN to where the Internet finds its peer; failing that, its first to anywhere."""
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
        """The punch SYNs that an RST or an ICMP error answered; `answer` tells which and whose."""
        return tuple(syn for syn in self._syns if (answer := self.answer(syn)) and answer.kind is not Kind.SYN_ACK)

    @cached_property
    def dropped(self) -> tuple[Segment, ...]:
        """The punch SYNs that vanished; `dropped_at` tells where."""
        return tuple(syn for syn in self._syns if self.dropped_at(syn) is not None)

    @cached_property
    def skew_s(self) -> float | None:
        """When b's first SYN left its host minus when a's did; None unless both sent one."""
        first_a, first_b = self.first_syn(self.pair.a.host), self.first_syn(self.pair.b.host)
        return None if first_a is None or first_b is None else (first_b.sent_ns - first_a.sent_ns) / 1e9

    @cached_property
    def crossing(self) -> tuple[Segment, Segment] | None:
        """The first punch SYNs, a's and b's, that crossed."""
        gate_a, gate_b = self.pair.gate(self.pair.a), self.pair.gate(self.pair.b)
        # By the endpoints between the gates, a's first: one connection.
        arriving: dict[tuple[str, ...], _Arriving] = {}
        for theirs in self.syns(self.pair.b.host):
            out_b, in_a = theirs.left(gate_b), theirs.reached(gate_a)
            if out_b is not None and in_a is not None:
                ends = (in_a.destination, in_a.source, out_b.destination, out_b.source)
                arriving.setdefault(ends, _Arriving()).add(theirs, out_b.time_ns, in_a.time_ns)
        for ours in self.syns(self.pair.a.host):
            out_a, in_b = ours.left(gate_a), ours.reached(gate_b)
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
        """The one-way delay from the host's gate to its peer's: the median over what was seen at both."""
        import statistics  # it takes 3 ms to import, and few trials want this

        side, peer = self._sides(host)
        delays = []
        for segment in self.segments:
            out, into = segment.left(self.pair.gate(side)), segment.reached(self.pair.gate(peer))
            if out is not None and into is not None and into.time_ns > out.time_ns:
                delays.append(into.time_ns - out.time_ns)
        return statistics.median(delays) / 1e9 if delays else None

    # The connections.

    @cached_property
    def connections(self) -> tuple[Connection, ...]:
        """The connections of which at least one segment went all the way between the hosts, by their first segments."""
        return connect(self.segments, self.pair)

    def connection(self, host: str, local: str, remote: str) -> Connection | None:
        """The connection that has these endpoints at the host."""
        at_a = host == self.pair.a.host
        return next((each for each in self.connections if (each.at_a if at_a else each.at_b) == (local, remote)), None)

    @cached_property
    def winner(self) -> Connection | None:
        """The winning connection; None without one, or when the agreed one was not seen."""
        if self.agreed is not None:
            return self.connection(self.pair.a.host, *self.agreed)
        established = [each for each in self.connections if each.established_ns is not None]
        return max(established, key=lambda each: each.lifetime, default=None)

    @property
    def winner_nats(self) -> tuple[str, ...]:
        """The NATs that the winner crossed, from a to b; none without a winner."""
        return self.winner.nats if self.winner is not None else ()

    @property
    def winner_touched_edge(self) -> bool:
        """Whether any packet of the winner was seen at an edge."""
        return self.winner is not None and self.winner.edge

    @property
    def simultaneous_open(self) -> bool:
        """Whether the winner was opened simultaneously, by one host or both (`winner.simultaneous` tells which)."""
        return self.winner is not None and bool(self.winner.simultaneous)

    def rendezvous_closed_before_punch(self, host: str) -> bool:
        """Whether the host closed its rendezvous connection first and punched from the same local endpoint afterwards.

        The SYN and the host's FIN of the former and the first punch SYN from that endpoint must have been seen.
        """
        rendezvous = [each for each in self.segments if each.origin == host and self.is_rendezvous(each)]
        used = {each.source for each in rendezvous if each.kind is Kind.SYN}
        first = next((syn for syn in self.syns(host) if syn.source in used), None)
        return first is not None and any(
            each.kind is Kind.FIN and each.source == first.source and each.sent_ns < first.sent_ns
            for each in rendezvous
        )

    def since_rendezvous_s(self, host: str) -> float | None:
        """From the last SYN of the host that an edge received before its first punch SYN until that one.

        So long had other hosts' connections to take the ports that its NAT gives out next.
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

    # For the record, and for people.

    def summary(self) -> dict[str, bool | int]:
        """The part of the result record; the counts are of punch SYNs and of the answers to them."""
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
        """The host's own side and its peer's. Raises ValueError for a node that is neither."""
        if host == self.pair.a.host:
            return self.pair.a, self.pair.b
        if host == self.pair.b.host:
            return self.pair.b, self.pair.a
        raise ValueError(f"{host}: neither {self.pair.a.host} nor {self.pair.b.host}")


def _answers(segments: Sequence[Segment]) -> dict[Segment, Segment]:
    """Segment -> its answer. An answer is for the latest segment, yet unanswered, that it fits.

    The segments are in the order in which they were sent.
    """
    arrivals = [
        segment for segment in segments if not segment.last.outgoing and segment.kind in (Kind.SYN, Kind.SYN_ACK)
    ]
    # Of those that arrived at the same time, the one that was sent first is taken first.
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
    """What the answers to a segment that has arrived have in common with it, see `_fits`."""
    node = segment.last.node
    for number in segment.acknowledged_by:
        yield node, "acknowledges", number
    yield node, "continues", segment.acknowledgment
    yield node, "quotes", segment.sequence


def _fits(answer: Segment) -> tuple[str, int | None]:
    """What connects an answer to its question. An RST without ACK continues the sequence it was sent for (RFC 9293)."""
    if answer.kind is Kind.ICMP:
        return "quotes", answer.sequence
    if answer.kind in (Kind.RST, Kind.SYN_ACK) and answer.acknowledgment is not None:
        return "acknowledges", answer.acknowledgment
    if answer.kind is Kind.RST:
        return "continues", answer.sequence
    return "nothing", None


class _Arriving:
    """SYNs of one host on one connection: when each left its sender's gate and when it came to the other one."""

    def __init__(self) -> None:
        self._syns: list[tuple[int, int, Segment]] = []

    def add(self, syn: Segment, left_ns: int, came_ns: int) -> None:
        """Take in a SYN. The SYNs are added in the order in which they were sent."""
        self._syns.append((left_ns, came_ns, syn))

    def first(self, *, left_before: int, came_after: int) -> Segment | None:
        """The first one that left and came at such times."""
        left, last_came = self._latest
        number = bisect_left(left, left_before)
        if not number or last_came[number - 1] <= came_after:
            return None
        return next(syn for left_ns, came_ns, syn in self._syns if left_ns < left_before and came_ns > came_after)

    @cached_property
    def _latest(self) -> tuple[Sequence[int], Sequence[int]]:
        """When they left, in order; for each of these times, when the last of the SYNs that left until then came."""
        times = sorted((left_ns, came_ns) for left_ns, came_ns, _syn in self._syns)
        return [left for left, _came in times], list(accumulate((came for _left, came in times), max))


def _background(segment: Segment, pair: HostPair) -> bool:
    # An ICMP error comes from such an address as a router's: it may well be about a punch.
    ends = {address_of(segment.source), address_of(segment.destination)}
    return segment.kind is not Kind.ICMP and not pair.background.isdisjoint(ends)
