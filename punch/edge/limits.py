"""How much of an edge one client address, and all of them together, may use.

Theory of operation
-------------------
Nobody who comes to an edge can be told from anybody else but by address: an IPv4 address, or the /64 network of an
IPv6 one, since that much belongs to one customer (RFC 6177). Many honest clients may share an address (a carrier's NAT,
RFC 6888), so the defaults are far above what one household needs and far below what hurts an edge.

Each address has two counts (connections open, registrations held) and two token buckets (new connections; frames). A
bucket is one number, the instant at which it will be full again (the generic cell rate algorithm of ITU-T I.371). An
address that holds nothing and whose buckets are full is no different from one never seen, so it is forgotten; when the
table is full for all that, the address longest unseen of those that hold nothing is forgotten first. The table can
never be longer than `TABLE` plus the connections that are open, and never keeps a new address out.
"""

from __future__ import annotations

import ipaddress
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn

from punch.errors import RefusedError

TABLE = 20_000  # addresses
QUIET_S = 10.0  # of what one address is refused, so much is between two lines of the log

Limit = Literal["edge_connections", "connections", "connection_rate", "registrations", "frame_rate"]


@dataclass(frozen=True)
class Limits:
    """What may be used. Rates are per second; ten seconds' worth may come at once."""

    edge_connections: int = 10_000
    connections: int = 100
    connection_rate: float = 20.0
    registrations: int = 50
    frame_rate: float = 20.0


BURST_S = 10.0


class LimitError(RefusedError):
    """An address has used up `limit`; the text is for the client. `told` says whether it was told a moment ago."""

    def __init__(self, limit: Limit, text: str, *, told: bool) -> None:
        self.limit: Limit = limit
        self.told = told
        super().__init__(text)


@dataclass(slots=True)
class _Use:
    connections: int = 0
    registrations: int = 0
    connections_full_at: float = 0.0
    frames_full_at: float = 0.0
    told_at: float = -QUIET_S


class Gate:
    """Keeps the counts. Whatever is entered has to be left again. `clock` is in seconds."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.connections = 0
        self._clock = clock
        self._uses: OrderedDict[str, _Use] = OrderedDict()  # the longest unseen first

    def __len__(self) -> int:
        return len(self._uses)

    def enter(self, ip: str) -> None:
        """A connection from `ip` has come. Raises `LimitError` if it cannot stay, and does not count then."""
        use, now, limits = self._use(ip), self._clock(), self.limits
        if use.connections >= limits.connections:
            self._refuse(use, "connections", f"too many connections from {ip} (at most {limits.connections})")
        if self.connections >= limits.edge_connections:
            self._refuse(use, "edge_connections", "this edge has too many connections")
        full_at = _taken(use.connections_full_at, now, limits.connection_rate)
        if full_at is None:
            rate = f"{limits.connection_rate:g} a second"
            self._refuse(use, "connection_rate", f"too many connections from {ip} in a short time (at most {rate})")
        use.connections_full_at = full_at
        use.connections += 1
        self.connections += 1

    def leave(self, ip: str) -> None:
        """A connection that was entered has ended."""
        self._use(ip).connections -= 1
        self.connections -= 1

    def register(self, ip: str) -> None:
        """A client at `ip` wants a role in a session. Raises `LimitError`, and does not count then."""
        use = self._use(ip)
        if use.registrations >= self.limits.registrations:
            text = f"too many clients at {ip} wait for their peers (at most {self.limits.registrations})"
            self._refuse(use, "registrations", text)
        use.registrations += 1

    def unregister(self, ip: str) -> None:
        """A client that was registered has left."""
        self._use(ip).registrations -= 1

    def frame(self, ip: str) -> None:
        """A frame has come from a client at `ip`. Raises `LimitError`."""
        use = self._use(ip)
        full_at = _taken(use.frames_full_at, self._clock(), self.limits.frame_rate)
        if full_at is None:
            text = f"too many frames from {ip} in a short time (at most {self.limits.frame_rate:g} a second)"
            self._refuse(use, "frame_rate", text)
        use.frames_full_at = full_at

    def _refuse(self, use: _Use, limit: Limit, text: str) -> NoReturn:
        now = self._clock()
        told = now - use.told_at < QUIET_S
        if not told:
            use.told_at = now
        raise LimitError(limit, text, told=told)

    def _use(self, ip: str) -> _Use:
        key = address_key(ip)
        use = self._uses.get(key)
        if use is None:
            self._make_room()
            use = self._uses[key] = _Use()
        self._uses.move_to_end(key)
        return use

    def _make_room(self) -> None:
        """Look at the four longest unseen: cheap, and enough, since only one address comes at a time."""
        now = self._clock()
        for key, use in list(itertools.islice(self._uses.items(), 4)):
            if use.connections or use.registrations:
                self._uses.move_to_end(key)  # it cannot go, and must not stand in the way of those that can
            elif len(self._uses) >= TABLE or max(use.connections_full_at, use.frames_full_at) <= now:
                del self._uses[key]


def address_key(ip: str) -> str:
    """What of an address is counted as one client: an IPv4 address, or the /64 network of an IPv6 one."""
    if ":" not in ip:
        return ip
    address = ipaddress.IPv6Address(ip.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


def _taken(full_at: float, now: float, rate: float) -> float | None:
    """When a bucket will be full again once one more is taken out of it; None if that would be one too many."""
    full_at = max(full_at, now) + 1 / rate
    return None if full_at - now > BURST_S + 1e-9 else full_at
