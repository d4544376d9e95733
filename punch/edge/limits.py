"""How much of an edge one client address, and all of them together, may use.

Theory of operation
-------------------
Nobody who comes to an edge can be distinguished but by address. An IPv4 address is one source. An IPv6 address
counts in its /64, /56 and /48 networks: RFC 6177 gives a customer between a /64 and a /48, so a /64 may use as much as
an IPv4 address, a /56 twice, and a /48 four times as much. An IPv4-mapped IPv6 address counts as the IPv4 address. Many
honest clients may share a source (a carrier's NAT, RFC 6888), so the defaults are far above what one household needs
and far below what hurts an edge.

Every listener of an edge (WebSocket, STUN over TCP) has the same gate. A connection is *pending* until its client has
registered, or has been accepted for what it came for: until then it has said nothing that costs it anything. Pending
connections have a limit per source and in total. At a limit in total the oldest pending one is ended for the
new one, so that connections that only wait keep nobody out; those of registered clients are never ended for others.

Each source has counts (what is held) and token buckets (what comes). A bucket is one number, the instant at which it
will be full again (the generic cell rate algorithm of ITU-T I.371). A source that holds nothing and whose buckets are
full is no different from one never seen, so it is forgotten; when the table is full for all that, the source longest
unseen of those that hold nothing is forgotten first. The table can never be longer than `TABLE` plus what is held, and
never keeps a new source out.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn

from punchlab.punch.errors import RefusedError

TABLE = 20_000  # sources
QUIET_S = 10.0  # of what one source is refused, so much is between two lines of the log
BURST_S = 10.0
SHARES = ((64, 1), (56, 2), (48, 4))
"""The IPv6 networks in which an address counts, by prefix length, and how often the limit of an address each has."""

Held = Literal["connections", "pending", "registrations", "stun_connections", "waiting", "pairs"]
Rate = Literal["connection_rate", "frame_rate", "stun_rate"]
Limit = Held | Rate | Literal["edge_connections"]

_RATES: tuple[Rate, ...] = ("connection_rate", "frame_rate", "stun_rate")
_TEXTS: dict[Limit, str] = {
    "edge_connections": "this edge has too many connections",
    "connections": "too many connections from {source} (at most {most:g})",
    "pending": "too many connections from {source} that have not registered (at most {most:g})",
    "registrations": "too many clients at {source} wait for their peers (at most {most:g})",
    "stun_connections": "too many STUN connections from {source} (at most {most:g})",
    "waiting": "too many clients at {source} wait at the relay (at most {most:g})",
    "pairs": "too many pairs of {source} are relayed (at most {most:g})",
    "connection_rate": "too many connections from {source} in a short time (at most {most:g} a second)",
    "frame_rate": "too many frames from {source} in a short time (at most {most:g} a second)",
    "stun_rate": "too many STUN requests from {source} in a short time (at most {most:g} a second)",
}


@dataclass(frozen=True)
class Limits:
    """What one address may use, and all together (`edge_...`). Rates are per second; ten seconds' worth at once."""

    edge_connections: int = 10_000
    connections: int = 100
    pending: int = 50
    registrations: int = 50
    stun_connections: int = 50
    waiting: int = 20
    pairs: int = 10
    connection_rate: float = 20.0
    frame_rate: float = 20.0
    stun_rate: float = 100.0

    @property
    def edge_pending(self) -> int:
        """How many connections may be pending: a quarter of all, or 256 if that is more."""
        return max(min(self.edge_connections, 256), self.edge_connections // 4)


class LimitError(RefusedError):
    """A source has used up `limit`; the text is for the client. `told` says whether it was told a moment ago."""

    def __init__(self, limit: Limit, text: str, *, told: bool) -> None:
        self.limit: Limit = limit
        self.told = told
        super().__init__(text)


@dataclass(slots=True)
class _Use:
    """What is held, and per rate the instant at which its bucket is full again."""

    connections: int = 0
    pending: int = 0
    registrations: int = 0
    stun_connections: int = 0
    waiting: int = 0
    pairs: int = 0
    connection_rate: float = 0.0
    frame_rate: float = 0.0
    stun_rate: float = 0.0
    told_at: float = -QUIET_S

    @property
    def holds(self) -> int:
        return self.connections + self.registrations + self.stun_connections + self.waiting + self.pairs


class Admission:
    """One connection that was let in. `end` ends it at once; the owner of the connection sets it."""

    __slots__ = ("_descriptor", "_gate", "_inside", "_ip", "_pending", "end")

    def __init__(self, gate: RateLimiter, ip: str) -> None:
        self._gate, self._ip = gate, ip
        self._pending = self._inside = True
        self._descriptor: int | None = None
        self.end: Callable[[], None] = _nothing

    def name(self, descriptor: int) -> None:
        """Let it be found by the descriptor of its socket, until it leaves."""
        self._descriptor = descriptor
        self._gate.admissions[descriptor] = self

    def settle(self) -> None:
        """It is pending no more."""
        if self._pending:
            self._pending = False
            self._gate._settled(self, self._ip)

    def leave(self) -> None:
        """It has ended."""
        self.settle()
        if self._inside:
            self._inside = False
            self.end = _nothing  # which may have led back here
            if self._descriptor is not None and self._gate.admissions.get(self._descriptor) is self:
                del self._gate.admissions[self._descriptor]
            self._gate._left(self._ip)


def _nothing() -> None:
    pass


class RateLimiter:
    """Keeps the counts. Whatever is held has to be released again. `clock` is in seconds."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.connections = 0
        self.on_ended: Callable[[], None] = _nothing
        """Called for each pending connection that is ended for another one."""
        self.admissions: dict[int, Admission] = {}
        """By descriptor, those that have one."""
        self._clock = clock
        self._pending: OrderedDict[Admission, None] = OrderedDict()  # the oldest first
        self._uses: OrderedDict[str, _Use] = OrderedDict()  # the longest unseen first

    def __len__(self) -> int:
        return len(self._uses)

    @property
    def pending(self) -> int:
        """How many connections are pending."""
        return len(self._pending)

    def enter(self, ip: str) -> Admission:
        """A connection from `ip` has come. Raises `LimitError` if it cannot stay, and does not count then."""
        self._check_held("connections", ip)
        self._check_held("pending", ip)
        full = self.connections >= self.limits.edge_connections
        if full and not self._pending:
            self._refuse(self._uses_of(ip)[0][1], "edge_connections", "", 0)
        self.take("connection_rate", ip)
        if full or len(self._pending) >= self.limits.edge_pending:
            self._end_oldest()
        self._add("connections", ip, 1)
        self._add("pending", ip, 1)
        self.connections += 1
        admission = Admission(self, ip)
        self._pending[admission] = None
        return admission

    def hold(self, what: Held, ip: str) -> None:
        """`ip` holds one more of something, until it is released. Raises `LimitError`, and does not count then."""
        self._check_held(what, ip)
        self._add(what, ip, 1)

    def release(self, what: Held, ip: str) -> None:
        """One that was held is held no more."""
        self._add(what, ip, -1)

    def take(self, rate: Rate, ip: str) -> None:
        """Something has come from `ip`, of which there may be so many a second. Raises `LimitError`."""
        now, most = self._clock(), float(getattr(self.limits, rate))
        found = []
        for source, use, share in self._uses_of(ip):
            full_at = _taken(getattr(use, rate), now, most * share)
            if full_at is None:
                self._refuse(use, rate, source, most * share)
            found.append((use, full_at))
        for use, full_at in found:
            setattr(use, rate, full_at)

    def _end_oldest(self) -> None:
        oldest = next(iter(self._pending))
        self.on_ended()
        oldest.settle()
        oldest.end()

    def _check_held(self, what: Held, ip: str) -> None:
        most = getattr(self.limits, what)
        for source, use, share in self._uses_of(ip):
            if getattr(use, what) >= most * share:
                self._refuse(use, what, source, most * share)

    def _add(self, what: Held, ip: str, count: int) -> None:
        for _, use, _ in self._uses_of(ip):
            setattr(use, what, getattr(use, what) + count)

    def _settled(self, admission: Admission, ip: str) -> None:
        del self._pending[admission]
        self._add("pending", ip, -1)

    def _left(self, ip: str) -> None:
        self._add("connections", ip, -1)
        self.connections -= 1

    def _refuse(self, use: _Use, limit: Limit, source: str, most: float) -> NoReturn:
        now = self._clock()
        told = now - use.told_at < QUIET_S
        if not told:
            use.told_at = now
        raise LimitError(limit, _TEXTS[limit].format(source=source, most=most), told=told)

    def _uses_of(self, ip: str) -> list[tuple[str, _Use, int]]:
        """The sources to which an address belongs, with what they use and their shares."""
        belongs = sources(ip)
        for source, _ in belongs:
            if source in self._uses:
                self._uses.move_to_end(source)
            else:
                self._make_room()
        return [(source, self._uses.setdefault(source, _Use()), share) for source, share in belongs]

    def _make_room(self) -> None:
        """Look at the four longest unseen: cheap, and enough, since only one source comes at a time."""
        now = self._clock()
        for source, use in list(itertools.islice(self._uses.items(), 4)):
            if use.holds:
                self._uses.move_to_end(source)  # it cannot go, and must not stand in the way of those that can
            elif len(self._uses) >= TABLE or all(getattr(use, rate) <= now for rate in _RATES):
                del self._uses[source]


def sources(ip: str) -> tuple[tuple[str, int], ...]:
    """What an address counts as: itself, or the networks of an IPv6 one; each with its share."""
    return _ipv6_sources(ip) if ":" in ip else ((ip, 1),)


@functools.lru_cache(64)  # one connection asks several times
def _ipv6_sources(ip: str) -> tuple[tuple[str, int], ...]:
    address = ipaddress.IPv6Address(ip.partition("%")[0])
    if address.ipv4_mapped is not None:
        return ((str(address.ipv4_mapped), 1),)
    return tuple((str(ipaddress.IPv6Network((int(address), length), strict=False)), share) for length, share in SHARES)


def _taken(full_at: float, now: float, rate: float) -> float | None:
    """When a bucket will be full again once one more is taken out of it; None if that would be one too many."""
    full_at = max(full_at, now) + 1 / rate
    return None if full_at - now > BURST_S + 1e-9 else full_at
