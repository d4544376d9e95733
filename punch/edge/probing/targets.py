"""Where an edge sends packets to at a port that somebody names: by `/probe`, or by RESPONSE-PORT of a STUN request.

The address is the one that the request came from. Where a proxy or a source NAT stands before the edge, that is not the
client's but one of the edge's own machine or network, whose services nobody may reach by way of the edge. So, from an
`origin`, one of the addresses of the edge's STUN server:

- to a global address, or to one of the same block (private, shared, documentation …) as the origin;
- from a loopback address to loopback addresses; otherwise never to an address of the edge's own computer;
- no port below 1024, where services listen (a NAT keeps those apart: RFC 4787 REQ-3).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.net.reach import is_never, knows
from punchlab.punch.net.sockets import LOWEST_PORT


def refuses_target(target: Endpoint, origin: str, computer: Collection[str]) -> str | None:
    """Why nothing is sent from `origin` to `target`; None if it is. `computer` are the edge's own addresses."""
    if target.port < LOWEST_PORT:
        return f"a port below {LOWEST_PORT}"
    if ipaddress.ip_address(origin).is_loopback and ipaddress.ip_address(target.ip).is_loopback:
        return None
    if target.ip in computer or is_never(target.ip):
        return "an address of this edge, or of no host"
    if not knows(origin, target.ip):
        return "neither a global address nor one of this edge's network"
    return None
