"""Traits of a client's NAT, measured through its edge within a second or two, and sent to the peer.

The tests are the short ones of `punch.probe` (RFC 5780 section 4, over TCP). One local address connects to the edge's
two ports at two addresses, which shows the mapping and the port allocation. Then the edge connects back to mappings
that were created towards other endpoints, and to an unmapped port, which shows the filtering and the answer to
unsolicited SYNs. All of this needs an edge with `--stun`; without one, no trait is known.

The traits may be wrong, because only a timeout distinguishes silence from a lost packet. They serve to choose the first
strategy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeVar

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import EdgeUnreachableError
from punchlab.punch.nat import probe
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation, Unsolicited
from punchlab.punch.nat.probe import NotTested
from punchlab.punch.net.sockets import bound_socket, choose_local, connect_result
from punchlab.punch.probe import servers
from punchlab.punch.probe.frames import Dialled
from punchlab.punch.probe.patience import answer_or_silence
from punchlab.punch.probe.servers import Servers
from punchlab.punch.probe.tcp import TcpTests, binding
from punchlab.punch.punching.quota import Servers as Uses

LIMIT_S = 1.2
"""Timeout of reaching the edge in seconds, and of the whole measurement with a near edge."""

_LONGEST_S = 3.0  # timeout of the whole measurement with any edge
_ROUND_TRIPS = 6  # added to the timeout of the whole measurement
_PATIENCE_S = 0.5  # timeout of a test, in addition to two round trips
_LONGEST_PATIENCE_S = 0.9
_MARGIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Traits:
    """One client's NAT. None: not known.

    `translated` distinguishes a NAT from a firewall or none. `delta` is the step of sequential ports, `port` the
    external port of the latest mapping.
    """

    translated: bool | None = None
    mapping: MappingBehavior | None = None
    filtering: FilteringBehavior | None = None
    allocation: PortAllocation | None = None
    delta: int | None = None
    port: int | None = None
    unsolicited: Unsolicited | None = None

    @property
    def known(self) -> bool:
        """Whether enough is known to predict which side can connect."""
        return self.mapping is not None and self.filtering is not None

    @property
    def behavior(self) -> NatBehavior | None:
        """The NAT as input of the outcome prediction; None for a host that accepts any endpoint. Only if `known`."""
        assert self.mapping is not None
        assert self.filtering is not None
        if not self.translated and self.filtering is FilteringBehavior.ENDPOINT_INDEPENDENT:
            return None
        return NatBehavior(
            self.mapping,
            self.filtering,
            self.allocation or PortAllocation.RANDOM,
            self.unsolicited or Unsolicited.DROP,
            port_delta=(self.delta or 1) if self.allocation is PortAllocation.SEQUENTIAL else 1,
        )

    @property
    def dependent(self) -> bool:
        """Whether the peer sees another port than the edge does."""
        return self.mapping is not None and self.mapping is not MappingBehavior.ENDPOINT_INDEPENDENT

    @property
    def refuses(self) -> bool:
        """Whether the NAT may reject an early SYN, by RST or ICMP."""
        return self.unsolicited not in (None, Unsolicited.DROP)

    def to_json(self) -> dict[str, Any]:
        """Return the known traits as plain values."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}

    @classmethod
    def of_json(cls, value: object) -> Traits:
        """Return a peer's traits; unknown and invalid values are None."""
        if not isinstance(value, dict):
            return cls()
        translated, delta, port = value.get("translated"), value.get("delta"), value.get("port")
        return cls(
            translated if isinstance(translated, bool) else None,
            _member(MappingBehavior, value.get("mapping")),
            _member(FilteringBehavior, value.get("filtering")),
            _member(PortAllocation, value.get("allocation")),
            delta if isinstance(delta, int) and 0 < abs(delta) < 65536 else None,
            port if isinstance(port, int) and 0 < port < 65536 else None,
            _member(Unsolicited, value.get("unsolicited")),
        )

    def __str__(self) -> str:
        """Return a short description for the user."""
        if not self.known:
            return "unknown NAT"
        if not self.translated:
            return (
                "no NAT" if self.filtering is FilteringBehavior.ENDPOINT_INDEPENDENT else f"firewall ({self.filtering})"
            )
        ports = f", {self.allocation} ports" if self.dependent and self.allocation is not None else ""
        return f"{self.mapping} mapping{ports}, {self.filtering} filtering"


def read(text: str | None) -> dict[str, Any]:
    """Return the JSON object of a peer's traits; an empty one if they are something else."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


async def measure(edge: EdgeUrl, uses: Uses | None = None) -> Traits:
    """Measure the traits within `LIMIT_S` plus some round trips; a trait that takes longer, or another edge, is None.

    `uses`: see `punch.probe.servers`.
    """
    started = time.monotonic()
    found: Servers | None = None
    try:
        async with asyncio.timeout(LIMIT_S) as limit:
            found = await servers.find([edge], uses)
            round_trip_s = (time.monotonic() - started) / 2  # TCP's handshake, and the WebSocket's
            ends_at = started + min(LIMIT_S + _ROUND_TRIPS * round_trip_s, _LONGEST_S)
            limit.reschedule(asyncio.get_running_loop().time() + ends_at - time.monotonic())
            return await _measure(found, ends_at)
    except (TimeoutError, EdgeUnreachableError, OSError):
        return Traits()
    finally:
        if found is not None:
            await found.close()


async def _measure(found: Servers, ends_at: float) -> Traits:
    local = choose_local(None, found.primary)
    started = time.monotonic()
    servers_s = ends_at - started - _MARGIN_S
    externals = await _external(local, [each for each in found.endpoints if each is not None], servers_s)
    now = time.monotonic()
    for server in externals:
        found.answered(server)
    if found.primary not in externals:
        return Traits()
    two_round_trips_s = now - started
    # Before the wait for an answer begins, a mapping must be created and the request must reach the edge.
    patience_s = min(
        _LONGEST_PATIENCE_S, _PATIENCE_S + two_round_trips_s, ends_at - now - 1.5 * two_round_trips_s - _MARGIN_S
    )
    first, *others = (None if each is None else externals.get(each) for each in found.endpoints)
    assert first is not None
    mapping = probe.mapping(first, *others)
    known = Traits(
        first != local,
        None if isinstance(mapping, NotTested) else mapping,
        port=list(externals.values())[-1].port,
        **_allocation(local, list(externals.values())),
    )
    if patience_s <= 0:
        return known
    tests = TcpTests(found, patience_s)
    try:
        async with asyncio.timeout(ends_at - now):
            filtering, answer = await asyncio.gather(tests.filtering(), tests.unsolicited(first.ip, patience_s))
    except TimeoutError:
        return known
    unsolicited = _unsolicited(answer)
    return Traits(
        known.translated,
        known.mapping,
        None if isinstance(filtering, NotTested) else filtering,
        known.allocation,
        known.delta,
        known.port,
        unsolicited,
    )


async def _external(local: Endpoint, toward: list[Endpoint], patience_s: float) -> dict[Endpoint, Endpoint]:
    """Return what each server sees of `local`; servers that do not answer are missing. The SYNs are sent in this order.

    If a server does not answer, this takes `patience_s`. Raises `OSError`.
    """
    with contextlib.ExitStack() as stack:
        dialled: list[tuple[Endpoint, socket.socket]] = []
        for server in toward:
            sock = stack.enter_context(bound_socket(local))
            sock.connect_ex(server)
            dialled.append((server, sock))
        seen = await asyncio.gather(*(answer_or_silence(patience_s, _ask(sock)) for _server, sock in dialled))
    pairs = zip(dialled, seen, strict=True)
    return {server: external for (server, _sock), external in pairs if external is not None}


async def _ask(sock: socket.socket) -> Endpoint | None:
    number = await connect_result(sock)
    return await binding(sock) if number == 0 else None


def _allocation(local: Endpoint, externals: list[Endpoint]) -> dict[str, Any]:
    """Return the port allocation, given the external endpoints of one local address."""
    ports = list(dict.fromkeys(each.port for each in externals))
    if len(ports) < 2:
        return {"allocation": PortAllocation.PRESERVING if local.port in ports else PortAllocation.RANDOM}
    # If the NAT preserves ports, the first mapping does not belong to the sequence.
    steps = {after - before for before, after in pairwise(ports[1:])}
    if len(ports) >= probe.FEWEST_PORTS and len(steps) == 1 and abs(next(iter(steps))) <= _LARGEST_DELTA:
        return {"allocation": PortAllocation.SEQUENTIAL, "delta": steps.pop()}
    return {"allocation": PortAllocation.RANDOM}


_LARGEST_DELTA = 64
"""Larger equal steps are considered chance."""


def _unsolicited(answer: Dialled | NotTested) -> Unsolicited | None:
    if isinstance(answer, NotTested):
        return None
    if answer.answer == "accept":
        return None
    return _member(Unsolicited, answer.answer) or Unsolicited.HOST_PROHIBITED


_Member = TypeVar("_Member", bound=StrEnum)


def _member(kind: type[_Member], value: object) -> _Member | None:
    return kind(value) if isinstance(value, str) and value in set(kind) else None
