"""How a client's NAT allocates ports, as far as it matters for foretelling or guessing them, and told to the peer.

Measured by looks at a STUN server with at least two ports (an edge with --stun; with --stun-alternate it has two
addresses as well): one local endpoint connects to each of its endpoints, which shows whether the mapping depends on the
destination (RFC 5780 section 4.3), and fresh ones to the first, which shows how ports are allocated (RFC 4787 section
4.2). Where a NAT keeps a port as long as nobody else has it, only the further mappings of one endpoint are in sequence.
All SYNs leave at once, so that other hosts' mappings hardly come in between.
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
from punchlab.punch.probe.fast_binding import Look
from punchlab.punch.punching.quota import Servers

_FRESH = 8
_CLASHES = 3  # ports in sequence that are no chance
_PATIENCE_S = 2.0
_LARGEST_DELTA = 64


@dataclass(frozen=True, slots=True)
class Allocation:
    """What is known: None is unknown. `dependent` of the mapping on the destination, `delta` of ports in sequence."""

    dependent: bool | None = None
    delta: int | None = None

    @property
    def predictable(self) -> bool:
        """Whether the next port is one of a few, and not the registered one."""
        return self.dependent is True and self.delta is not None

    def encode(self) -> str:
        """As text for the peer: only what is known."""
        known: dict[str, Any] = {"dependent": self.dependent, "delta": self.delta}
        return json.dumps({name: value for name, value in known.items() if value is not None}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str | None) -> Allocation:
        """What a peer says, as far as it makes sense: another strategy may say something else, or nothing."""
        try:
            fields = json.loads(text or "{}")
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(fields, dict):
            return cls()
        dependent, delta = fields.get("dependent"), fields.get("delta")
        return cls(dependent if isinstance(dependent, bool) else None, delta if _is_delta(delta) else None)


@dataclass(frozen=True, slots=True)
class Sight:
    """A client's allocation, and how to see its latest port: by `servers`, the STUN endpoints of the edge.

    `from_one`: only the mappings of a local endpoint that has one already are in sequence.
    """

    allocation: Allocation = Allocation()
    servers: tuple[Endpoint, ...] = ()
    from_one: bool = False

    def looks(self, local: Endpoint) -> tuple[Look, Look]:
        """Two looks at the latest port. `local` has a mapping. Raises `OSError`."""
        if self.from_one:
            return Look(self.servers[0], local), Look(self.servers[1], local)
        return Look(self.servers[0]), Look(self.servers[0])


async def measure(edge: EdgeUrl, uses: Servers) -> Sight:
    """How this host's NAT allocates; nothing where the edge has no STUN server. `uses`: see `punch.probe.servers`."""
    from punchlab.punch.probe import servers

    try:
        found = await servers.find([edge], uses)
    except EdgeUnreachableError:
        return Sight()
    await found.close()
    return await _look(tuple(each for each in found.endpoints if each is not None), uses)


async def _look(endpoints: tuple[Endpoint, ...], uses: Servers) -> Sight:
    """The allocation as the `endpoints` of a STUN server see it, the primary one first."""
    primary, *others = endpoints
    with contextlib.ExitStack() as stack:
        try:
            fresh = [stack.enter_context(Look(primary)) for _ in range(_FRESH)]
            same = [stack.enter_context(Look(each, fresh[0].local)) for each in others]
        except (OSError, ArgumentError):
            return Sight()
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
        return Sight(Allocation(dependent, delta), endpoints)
    steps = {after.port - before.port for before, after in pairwise(elsewhere)}
    if dependent and len(elsewhere) >= _CLASHES and len(steps) == 1 and _is_delta(step := steps.pop()):
        return Sight(Allocation(dependent, step), endpoints, from_one=True)
    return Sight(Allocation(dependent), endpoints)


def _is_delta(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= abs(value) <= _LARGEST_DELTA
