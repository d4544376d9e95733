"""Count the payload bytes of each TCP connection and UDP flow in a capture.

TCP: the sequence numbers of SYN, FIN and RST give the byte count of a connection (RFC 9293 section 3.4), without data
segments. A SYN-ACK contains the initial sequence numbers of both directions. The sequence number of a FIN gives the
number of bytes that its sender sent. Without a FIN in one direction, the greatest sequence or acknowledgment number of
any FIN or RST is used.

UDP: the length fields of the datagrams at the two hosts. A fragmented datagram counts once, by its first fragment.
"""

from __future__ import annotations

import socket
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from punchlab.lab.capture.frame import Frame
from punchlab.lab.exchange.segment import Segment
from punchlab.lab.exchange.wire import SEQUENCES, Kind

Endpoints = tuple[str, str]
"""(local, remote) endpoint of a connection or flow at one host, as in `lab.exchange.wire.Packet`."""

_MOST = 1 << 31
"""Counts are modulo 2**32. A count from this value on precedes the initial sequence number and is ignored."""

_SYN_DATA_BITS = 16
_MOST_SYN_DATA = (1 << _SYN_DATA_BITS) - 1
"""Upper bound of the bytes of data in a SYN."""

_ETHERNET, _UDP_HEADER = 14, 8
_IPV4, _IPV6 = 0x0800, 0x86DD
_FRAGMENT_OFFSET = 0x1FFF
_PORTS_AND_LENGTH = struct.Struct("!HHH")


@dataclass(slots=True)
class Direction:
    """Payload bytes in one direction of a connection.

    `finished`: the count of a FIN; `seen`: the greatest count of any FIN or RST. None if no such segment was captured.
    """

    finished: int | None = None
    seen: int | None = None

    @property
    def count(self) -> int | None:
        """The number of bytes; None if it is unknown."""
        return self.seen if self.finished is None else self.finished

    def note(self, count: int, *, finished: bool = False) -> None:
        """Update with the count of a segment, modulo 2**32."""
        if (count := count & SEQUENCES) >= _MOST:
            return
        if finished:
            self.finished = count
        self.seen = count if self.seen is None else max(self.seen, count)

    def merge(self, other: Direction) -> None:
        """Update with the counts of the same direction at the other host."""
        if other.finished is not None:
            self.finished = other.finished
        if other.seen is not None:
            self.note(other.seen)


@dataclass(slots=True)
class Stream:
    """The bytes that one host sent and received on one TCP connection."""

    sent: Direction = field(default_factory=Direction)
    received: Direction = field(default_factory=Direction)


Streams = Mapping[tuple[int, int], Stream]
"""(initial sequence number of the host, of its peer) -> connection; a pair of endpoints can have several."""


def streams(host: str, segments: Iterable[Segment]) -> Streams:
    """Return the TCP connections in the segments of one host and one pair of endpoints, which are in order of time."""
    found: dict[tuple[int, int], Stream] = {}
    current: tuple[int, int] | None = None
    syns = {True: _Openers(), False: _Openers()}
    for segment in segments:
        outgoing, acknowledged = segment.origin == host, segment.acknowledgment
        if segment.kind is Kind.SYN:
            syns[outgoing].add(segment.sequence)
        elif segment.kind is Kind.SYN_ACK and acknowledged is not None:
            opener = syns[not outgoing].acknowledged_by(acknowledged)
            current = (segment.sequence, opener) if outgoing else (opener, segment.sequence)
            found.setdefault(current, Stream())
        elif segment.kind in (Kind.FIN, Kind.RST) and current is not None and segment.sequence != 0:
            # A RST with sequence number 0 belongs to no connection (RFC 9293 section 3.10.7.1).
            stream = found[current]
            own, its = (stream.sent, stream.received) if outgoing else (stream.received, stream.sent)
            own_start, its_start = current if outgoing else current[::-1]
            own.note(segment.sequence - own_start - 1, finished=segment.kind is Kind.FIN)
            if acknowledged is not None:
                its.note(acknowledged - its_start - 1)
    return found


class _Openers:
    """The initial sequence numbers of the SYNs of one host."""

    def __init__(self) -> None:
        self._count = 0
        self._all: set[int] = set()
        # Block of 2**16 sequence numbers -> (key, count) of its SYNs, both ascending. A later SYN removes the pairs
        # with a greater or equal key, so the last pair up to a key is the latest SYN up to that key. The keys are the
        # sequence numbers, or in `_downwards` their negatives.
        self._upwards: dict[int, list[tuple[int, int]]] = {}
        self._downwards: dict[int, list[tuple[int, int]]] = {}

    def add(self, sequence: int) -> None:
        """Add the next SYN."""
        self._count += 1
        self._all.add(sequence)
        block = sequence >> _SYN_DATA_BITS
        for latest, key in ((self._upwards, sequence), (self._downwards, -sequence)):
            known = latest.setdefault(block, [])
            while known and known[-1][0] >= key:
                known.pop()
            known.append((key, self._count))

    def acknowledged_by(self, acknowledgment: int) -> int:
        """Return the sequence number of the acknowledged SYN, which may contain data (RFC 7413).

        Without an exact match, the latest SYN less than 64 KiB before the acknowledgment number matches. If no SYN
        matches, return the number before the acknowledgment number.
        """
        exact = (acknowledgment - 1) & SEQUENCES
        if exact in self._all:
            return exact
        low = (exact - _MOST_SYN_DATA) & SEQUENCES
        below = _greatest(self._upwards.get(exact >> _SYN_DATA_BITS, ()), exact)
        above = _greatest(self._downwards.get(low >> _SYN_DATA_BITS, ()), -low)
        near = [each for each in (below, above) if each is not None]
        return abs(max(near, key=lambda each: each[1])[0]) if near else exact


def _greatest(known: Sequence[tuple[int, int]], most: int) -> tuple[int, int] | None:
    """Return the last pair with a key of at most `most`, from ascending pairs."""
    number = bisect_right(known, most, key=lambda each: each[0])
    return known[number - 1] if number else None


@dataclass(frozen=True, slots=True)
class Datagrams:
    """The bytes of UDP payload that one host sent to one address and received from it."""

    sent: int = 0
    received: int = 0


def datagrams(host: str, frames: Iterable[Frame]) -> Mapping[str, Datagrams]:
    """Return remote address -> the UDP payload that the host sent to it and received from it."""
    found: dict[str, Datagrams] = {}
    for frame in frames:
        if frame.node == host and (decoded := _decode_udp(frame.data)) is not None:
            source, destination, length = decoded
            remote = destination if frame.outgoing else source
            known = found.get(remote, Datagrams())
            found[remote] = (
                Datagrams(known.sent + length, known.received)
                if frame.outgoing
                else Datagrams(known.sent, known.received + length)
            )
    return found


def _decode_udp(data: bytes) -> tuple[str, str, int] | None:
    """Return source address, destination address and payload length of a frame; None if it is not UDP."""
    try:
        ethertype = int.from_bytes(data[12:14])
        if ethertype == _IPV4 and data[_ETHERNET + 9] == socket.IPPROTO_UDP:
            if int.from_bytes(data[_ETHERNET + 6 : _ETHERNET + 8]) & _FRAGMENT_OFFSET:
                return None
            ends = (socket.inet_ntoa(data[at : at + 4]) for at in (_ETHERNET + 12, _ETHERNET + 16))
            start = _ETHERNET + (data[_ETHERNET] & 0x0F) * 4
        elif ethertype == _IPV6 and data[_ETHERNET + 6] == socket.IPPROTO_UDP:
            ends = (socket.inet_ntop(socket.AF_INET6, data[at : at + 16]) for at in (_ETHERNET + 8, _ETHERNET + 24))
            start = _ETHERNET + 40
        else:
            return None
        source, destination = ends
        return source, destination, max(0, _PORTS_AND_LENGTH.unpack_from(data, start)[2] - _UDP_HEADER)
    except (struct.error, IndexError, OSError, ValueError):
        return None


def by_endpoints(host: str, segments: Iterable[Segment]) -> Mapping[Endpoints, list[Segment]]:
    """Return (local, remote) endpoints -> the TCP segments that the host sent or received, in order of time."""
    found: dict[Endpoints, list[tuple[int, Segment]]] = {}
    for segment in segments:
        for endpoints, time_ns in _views(segment, host):
            found.setdefault(endpoints, []).append((time_ns, segment))
    return {key: [each for _time, each in sorted(seen, key=lambda item: item[0])] for key, seen in found.items()}


def _views(segment: Segment, host: str) -> Iterator[tuple[Endpoints, int]]:
    if segment.kind is Kind.ICMP:
        return
    if segment.origin == host:
        yield (segment.source, segment.destination), segment.sent_ns
    elif segment.last.node == host and not segment.last.outgoing:
        yield (segment.last.destination, segment.last.source), segment.last.time_ns
