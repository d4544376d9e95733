"""Determine from the capture whether host a sent a file to host b directly, through edges, or not at all.

A connection counts as direct if it crosses exactly the NATs on a path between the hosts in the topology. The reports of
the clients are not used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from punchlab.lab.exchange.connection import Connection
from punchlab.lab.exchange.payload import Datagrams, Endpoints, Streams, by_endpoints, datagrams, streams
from punchlab.lab.exchange.segment import Segment
from punchlab.lab.exchange.story import Exchange
from punchlab.lab.exchange.wire import address_of

Ways = Collection[tuple[str, ...]]
"""The NATs on each path between the hosts, from a to b."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Payload bytes from host a to host b.

    `direct_bytes`: bytes on connections and UDP flows between the hosts. `edge_bytes`: the minimum of the bytes that a
    sent to edges and the bytes that b received from edges. `carrier`: the established direct connection with the most
    payload, or None. `connected`: whether there is a carrier, or a UDP flow with payload in both directions. `udp`:
    whether a host sent UDP payload to an address of the other. `complete`: whether all byte counts are known.
    """

    direct_bytes: int
    edge_bytes: int
    carrier: Connection | None
    connected: bool
    udp: bool
    complete: bool


def delivery(exchange: Exchange, ways: Ways) -> Delivery:
    """Return the payload that the capture proves."""
    return _Ledger(exchange, ways).delivery()


class _Ledger:
    def __init__(self, exchange: Exchange, ways: Ways) -> None:
        self._exchange, self._ways, self._pair = exchange, ways, exchange.pair
        self._flows = {side.host: by_endpoints(side.host, exchange.segments) for side in (self._pair.a, self._pair.b)}
        self._datagrams = {side.host: datagrams(side.host, exchange.frames) for side in (self._pair.a, self._pair.b)}

    def delivery(self) -> Delivery:
        a, b = self._pair.a, self._pair.b
        counts = {each: self._between(each) for each in self._direct()}
        udp_sent, udp_received = self._udp(a.host, self._addresses(b.host)), self._udp(b.host, self._addresses(a.host))
        edges = self._pair.edge_addresses
        to_edges = self._with_edges(a.host, sent=True)
        from_edges = self._with_edges(b.host, sent=False)
        known = [
            count + datagrams
            for count, datagrams in (
                (to_edges, self._udp(a.host, edges).sent),
                (from_edges, self._udp(b.host, edges).received),
            )
            if count is not None
        ]
        # A flow in one direction does not count: an edge may have sent its datagrams with a spoofed source address.
        answered = min(udp_sent.received, udp_received.received) > 0
        flowed = min(udp_sent.sent, udp_received.received) if answered else 0
        return Delivery(
            direct_bytes=sum(count or 0 for count in counts.values()) + flowed,
            edge_bytes=min(known, default=0),
            carrier=max(counts, key=lambda each: (counts[each] or 0, each.lifetime), default=None),
            connected=bool(counts) or answered,
            udp=udp_sent.sent + udp_received.sent > 0,
            complete=None not in (*counts.values(), to_edges, from_edges),
        )

    def _direct(self) -> Sequence[Connection]:
        return [
            each
            for each in self._exchange.connections
            if each.established_ns is not None
            and not each.edge
            and each.nats in self._ways
            and self._pair.elsewhere.isdisjoint({address_of(each.at_a[1]), address_of(each.at_b[1])})
        ]

    def _between(self, connection: Connection) -> int | None:
        """Return the bytes from a to b on one connection; the sequence numbers are the same at both hosts."""
        sender = self._streams(self._pair.a.host, connection.at_a)
        receiver = self._streams(self._pair.b.host, connection.at_b)
        counts = []
        for key, stream in sender.items():
            if (same := receiver.get(key[::-1])) is not None:
                stream.sent.merge(same.received)
                counts.append(stream.sent.count)
        return _total(counts)

    def _with_edges(self, host: str, *, sent: bool) -> int | None:
        edges = self._pair.edge_addresses
        return _total(
            (stream.sent if sent else stream.received).count
            for endpoints in self._flows[host]
            if address_of(endpoints[1]) in edges
            for stream in self._streams(host, endpoints).values()
        )

    def _streams(self, host: str, endpoints: Endpoints) -> Streams:
        seen: Sequence[Segment] = self._flows[host].get(endpoints, [])
        return streams(host, seen)

    def _addresses(self, host: str) -> frozenset[str]:
        side = self._pair.a if host == self._pair.a.host else self._pair.b
        return side.addresses | (side.inside if len(self._ways) > 1 else frozenset())

    def _udp(self, host: str, remotes: frozenset[str]) -> Datagrams:
        found = [count for remote, count in self._datagrams[host].items() if remote in remotes]
        return Datagrams(sum(each.sent for each in found), sum(each.received for each in found))


def _total(counts: Iterable[int | None]) -> int | None:
    """Return the sum; None if a count is unknown."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
