"""Limits on what one client address, and all addresses together, may use of an edge.

Theory of operation
-------------------

An edge can distinguish its clients only by address. An IPv4 address is one source. An IPv6 address counts in its /64,
/56 and /48 networks: RFC 6177 assigns a customer between a /64 and a /48, so a /64 may use as much as an IPv4 address,
a /56 twice, and a /48 four times as much. An IPv4-mapped IPv6 address counts as the IPv4 address. Many legitimate
clients may share a source (a carrier-grade NAT, RFC 6888), so the defaults are far above the needs of one household and
far below what overloads an edge.

All listeners of an edge (WebSocket, STUN over TCP) share one rate limiter. A connection is *pending* until its client
has registered, or has been accepted for another purpose. Pending connections have a limit per source and in total. If
the total limit is reached, the oldest pending connection is closed for the new one, so that idle connections block
nobody. Connections of registered clients are never closed for others.

Each source has counters (resources in use) and token buckets (rates). A bucket is one number: the instant at which it
is full again (the generic cell rate algorithm of ITU-T I.371). A source that uses nothing and whose buckets are full is
the same as a new one, so its entry is removed. If the table is still full, the least recently seen source that uses
nothing is removed first. The table never has more than `TABLE` entries plus those in use, and never blocks a new
source.
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
QUIET_S = 10.0  # minimum interval between two log lines about one source
BURST_S = 10.0
SHARES = ((64, 1), (56, 2), (48, 4))
"""The IPv6 networks in which an address counts: prefix length, and the multiple of the limit of one address."""

Held = Literal["connections", "pending", "registrations", "stun_connections", "waiting", "pairs"]
Rate = Literal["connection_rate", "frame_rate", "stun_rate"]
Limit = Held | Rate | Literal["edge_connections"]

_RATES: tuple[Rate, ...] = ("connection_rate", "frame_rate", "stun_rate")
_TEXTS: dict[Limit, str] = {
    "edge_connections": "this edge has too many connections",
    "connections": "too many connections from {source} (at most {most:g})",
    "pending": "too many connections from {source} that have not registered (at most {most:g})",
    "registrations": "too many clients at {source} are waiting for their peers (at most {most:g})",
    "stun_connections": "too many STUN connections from {source} (at most {most:g})",
    "waiting": "too many clients at {source} are waiting at the relay (at most {most:g})",
    "pairs": "too many relayed pairs of {source} (at most {most:g})",
    "connection_rate": "too many connections from {source} in a short time (at most {most:g} per second)",
    "frame_rate": "too many frames from {source} in a short time (at most {most:g} per second)",
    "stun_rate": "too many STUN requests from {source} in a short time (at most {most:g} per second)",
}


@dataclass(frozen=True)
class Limits:
    """The limits of one address, and of all together (`edge_...`). Rates are per second, in bursts of up to ten
    seconds' worth."""

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
        """The maximum number of pending connections: a quarter of all connections, at least 256."""
        return max(min(self.edge_connections, 256), self.edge_connections // 4)


class LimitError(RefusedError):
    """A source has reached `limit`; the text is for the client.

    `recently_reported` is true if the log has a recent line about this source.
    """

    def __init__(self, limit: Limit, text: str, *, recently_reported: bool) -> None:
        self.limit: Limit = limit
        self.recently_reported = recently_reported
        super().__init__(text)


@dataclass(slots=True)
class _Use:
    """What a source uses, and for each rate the instant at which its bucket is full again."""

    connections: int = 0
    pending: int = 0
    registrations: int = 0
    stun_connections: int = 0
    waiting: int = 0
    pairs: int = 0
    connection_rate: float = 0.0
    frame_rate: float = 0.0
    stun_rate: float = 0.0
    reported_at: float = -QUIET_S

    @property
    def holds(self) -> int:
        return self.connections + self.registrations + self.stun_connections + self.waiting + self.pairs


class Admission:
    """One accepted connection. The owner of the connection sets `end`, which closes it at once."""

    __slots__ = ("_descriptor", "_inside", "_ip", "_limiter", "_pending", "end")

    def __init__(self, limiter: RateLimiter, ip: str) -> None:
        self._limiter, self._ip = limiter, ip
        self._pending = self._inside = True
        self._descriptor: int | None = None
        self.end: Callable[[], None] = _nothing

    def name(self, descriptor: int) -> None:
        """Make the admission accessible by the descriptor of its socket until the connection closes."""
        self._descriptor = descriptor
        self._limiter.admissions[descriptor] = self

    def settle(self) -> None:
        """Mark the connection as no longer pending."""
        if self._pending:
            self._pending = False
            self._limiter._settled(self, self._ip)

    def leave(self) -> None:
        """Release the connection when it closes."""
        self.settle()
        if self._inside:
            self._inside = False
            self.end = _nothing  # `end` may have called this method
            if self._descriptor is not None and self._limiter.admissions.get(self._descriptor) is self:
                del self._limiter.admissions[self._descriptor]
            self._limiter._left(self._ip)


def _nothing() -> None:
    pass


class RateLimiter:
    """Counts what each source uses. Each `hold` needs a `release`. `clock` returns seconds."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.connections = 0
        self.on_ended: Callable[[], None] = _nothing
        """Called for each pending connection that is closed for another one."""
        self.admissions: dict[int, Admission] = {}
        """The admissions that have a descriptor, by descriptor."""
        self._clock = clock
        self._pending: OrderedDict[Admission, None] = OrderedDict()  # oldest first
        self._uses: OrderedDict[str, _Use] = OrderedDict()  # least recently seen first

    def __len__(self) -> int:
        return len(self._uses)

    @property
    def pending(self) -> int:
        """The number of pending connections."""
        return len(self._pending)

    def enter(self, ip: str) -> Admission:
        """Count a new connection from `ip`. Raises `LimitError`, and counts nothing, if a limit is reached."""
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
        """Count one more of `what` for `ip`, until `release`. Raises `LimitError`, and counts nothing, if a limit is
        reached."""
        self._check_held(what, ip)
        self._add(what, ip, 1)

    def release(self, what: Held, ip: str) -> None:
        """Release one of `what` for `ip`."""
        self._add(what, ip, -1)

    def take(self, rate: Rate, ip: str) -> None:
        """Count one event from `ip` against a rate. Raises `LimitError` if the rate is exceeded."""
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
        recently_reported = now - use.reported_at < QUIET_S
        if not recently_reported:
            use.reported_at = now
        raise LimitError(limit, _TEXTS[limit].format(source=source, most=most), recently_reported=recently_reported)

    def _uses_of(self, ip: str) -> list[tuple[str, _Use, int]]:
        """Return the sources that an address belongs to, with what they use and their shares."""
        belongs = sources(ip)
        for source, _ in belongs:
            if source in self._uses:
                self._uses.move_to_end(source)
            else:
                self._make_room()
        return [(source, self._uses.setdefault(source, _Use()), share) for source, share in belongs]

    def _make_room(self) -> None:
        """Check the four least recently seen sources; that is enough, because only one source arrives at a time."""
        now = self._clock()
        for source, use in list(itertools.islice(self._uses.items(), 4)):
            if use.holds:
                self._uses.move_to_end(source)  # in use: move it away from the entries that can be removed
            elif len(self._uses) >= TABLE or all(getattr(use, rate) <= now for rate in _RATES):
                del self._uses[source]


def sources(ip: str) -> tuple[tuple[str, int], ...]:
    """Return what an address counts as, with shares: the address itself, or the networks of an IPv6 address."""
    return _ipv6_sources(ip) if ":" in ip else ((ip, 1),)


@functools.lru_cache(64)  # one connection needs this several times
def _ipv6_sources(ip: str) -> tuple[tuple[str, int], ...]:
    address = ipaddress.IPv6Address(ip.partition("%")[0])
    if address.ipv4_mapped is not None:
        return ((str(address.ipv4_mapped), 1),)
    return tuple((str(ipaddress.IPv6Network((int(address), length), strict=False)), share) for length, share in SHARES)


def _taken(full_at: float, now: float, rate: float) -> float | None:
    """Return when a bucket is full again after one more is taken, or None if it does not contain one."""
    full_at = max(full_at, now) + 1 / rate
    return None if full_at - now > BURST_S + 1e-9 else full_at
