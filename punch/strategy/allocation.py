"""How a client's NAT allocates ports, as far as predicting or guessing them requires, and its exchange with the peer.

The client measures this with a STUN server with at least two ports (an edge with --stun; with --stun-alternate it has
two addresses as well). One local endpoint connects to each server endpoint, which shows whether the mapping depends on
the destination (RFC 5780 section 4.3). Fresh local endpoints connect to the first server endpoint, which shows the port
allocation (RFC 4787 section 4.2). If a NAT preserves a port that no other host uses, only the further mappings of one
local endpoint are in sequence. All SYNs are sent at once, so that few mappings of other hosts lie in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import ArgumentError, EdgeUnreachableError
from punchlab.punch.nat.behavior import PortAllocation
from punchlab.punch.nat.probe import FEWEST_PORTS, port_allocation
from punchlab.punch.probe.fast_binding import FastBinding
from punchlab.punch.punching.quota import Servers

_FRESH = 8
_CLASHES = 3  # minimum number of sequential ports that is significant
_PATIENCE_S = 2.0
_LARGEST_DELTA = 64


@dataclass(frozen=True, slots=True)
class Allocation:
    """A NAT's allocation. None is unknown. `dependent`: destination-dependent mapping; `delta`: sequential ports."""

    dependent: bool | None = None
    delta: int | None = None

    @property
    def predictable(self) -> bool:
        """Whether the port is not the registered one and the next one can be predicted."""
        return self.dependent is True and self.delta is not None

    def encode(self) -> str:
        """Return the known fields as text for the peer."""
        known: dict[str, Any] = {"dependent": self.dependent, "delta": self.delta}
        return json.dumps({name: value for name, value in known.items() if value is not None}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str | None) -> Allocation:
        """Parse a peer's text; unknown or invalid fields are None, because the peer may use another strategy."""
        try:
            fields = json.loads(text or "{}")
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(fields, dict):
            return cls()
        dependent, delta = fields.get("dependent"), fields.get("delta")
        return cls(dependent if isinstance(dependent, bool) else None, delta if _is_delta(delta) else None)


@dataclass(frozen=True, slots=True)
class AllocationProbe:
    """A client's allocation, and how to query its latest port: `servers` are the STUN endpoints of the edge.

    `from_one`: only further mappings of a local endpoint that already has one are in sequence.
    """

    allocation: Allocation = Allocation()
    servers: tuple[Endpoint, ...] = ()
    from_one: bool = False

    def queries(self, local: Endpoint) -> tuple[FastBinding, FastBinding]:
        """Return two queries of the latest port. `local` has a mapping. Raises `OSError`."""
        if self.from_one:
            return FastBinding(self.servers[0], local), FastBinding(self.servers[1], local)
        return FastBinding(self.servers[0]), FastBinding(self.servers[0])


async def measure(edge: EdgeUrl, uses: Servers) -> AllocationProbe:
    """Measure the allocation of this host's NAT; unknown without a STUN server. `uses`: see `punch.probe.servers`."""
    from punchlab.punch.probe import servers

    try:
        found = await servers.find([edge], uses)
    except EdgeUnreachableError:
        return AllocationProbe()
    await found.close()
    return await _measure(tuple(each for each in found.endpoints if each is not None), uses)


async def _measure(endpoints: tuple[Endpoint, ...], uses: Servers) -> AllocationProbe:
    """Measure the allocation with the `endpoints` of a STUN server, the primary one first."""
    primary, *others = endpoints
    with contextlib.ExitStack() as stack:
        try:
            fresh = [stack.enter_context(FastBinding(primary)) for _ in range(_FRESH)]
            same = [stack.enter_context(FastBinding(each, fresh[0].local)) for each in others]
        except (OSError, ArgumentError):
            return AllocationProbe()
        for each in (*fresh, *same):
            each.start()
        seen = await asyncio.gather(*(each.external(_PATIENCE_S) for each in (*fresh, *same)))
    for each, external in zip((*fresh, *same), seen, strict=True):
        if external is not None:
            uses.answered(each.server.ip)
    first, elsewhere = seen[0], [external for external in seen[_FRESH:] if external is not None]
    dependent = any(external != first for external in elsewhere) if elsewhere and first is not None else None
    ports = [(each.local.port, external.port) for each, external in zip(fresh, seen, strict=False) if external]
    allocation, delta = port_allocation(ports) if len(ports) >= FEWEST_PORTS else (None, None)
    if allocation == PortAllocation.SEQUENTIAL and _is_delta(delta):
        return AllocationProbe(Allocation(dependent, delta), endpoints)
    steps = {after.port - before.port for before, after in pairwise(elsewhere)}
    if dependent and len(elsewhere) >= _CLASHES and len(steps) == 1 and _is_delta(step := steps.pop()):
        return AllocationProbe(Allocation(dependent, step), endpoints, from_one=True)
    return AllocationProbe(Allocation(dependent), endpoints)


def _is_delta(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= abs(value) <= _LARGEST_DELTA
