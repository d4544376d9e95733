"""Where an edge may send packets if a client chooses the port, by `/probe` or by RESPONSE-PORT of a STUN request.

The destination address is the source address of the request. Behind a proxy or a source NAT, this is not the address of
the client but of the edge's own machine or network, whose services must not be reachable through the edge. Therefore an
edge sends from `origin`, one of the addresses of its STUN server:

- to global addresses, and to addresses of the same block (private, shared, documentation ...) as the origin;
- from a loopback address to loopback addresses; otherwise never to an address of the edge's own machine;
- to no port below 1024, the range of well-known services (a NAT keeps the ranges apart: RFC 4787 REQ-3).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.net.reach import is_never, knows
from punchlab.punch.net.sockets import LOWEST_PORT


def refuses_target(target: Endpoint, origin: str, computer: Collection[str]) -> str | None:
    """Return why nothing is sent from `origin` to `target`, or None. `computer` contains the edge's own addresses."""
    if target.port < LOWEST_PORT:
        return f"a port below {LOWEST_PORT}"
    if ipaddress.ip_address(origin).is_loopback and ipaddress.ip_address(target.ip).is_loopback:
        return None
    if target.ip in computer or is_never(target.ip):
        return "an address of this edge, or not a unicast address of a host"
    if not knows(origin, target.ip):
        return "neither a global address nor one of this edge's network"
    return None
