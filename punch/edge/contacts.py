"""Which addresses an edge hands out: nobody can make it send two clients' SYNs to a third party.

A client is dialled by its peer at the address where the edge saw it, and at the private ones that it named. Those it
can make up. So a private candidate is handed out only if it lies in a network that is private by definition, where it
leads no further than the peer's own network, or has the very address at which the edge saw the client.
"""

from __future__ import annotations

import ipaddress

from punchlab.punch.endpoint import Endpoint

PRIVATE = tuple(
    ipaddress.ip_network(each)
    for each in (
        "10.0.0.0/8",  # RFC 1918
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # carriers' NATs, RFC 6598
        "169.254.0.0/16",  # link-local, RFC 3927
        "127.0.0.0/8",
        "fc00::/7",  # unique local, RFC 4193
        "::1/128",
    )
)


def is_private(ip: str) -> bool:
    """Whether an address belongs to a network that leads nowhere but into one's own.

    IPv6's link-local ones do not count: without an interface, which only their own host knows, they lead nowhere.
    """
    address = ipaddress.ip_address(ip)
    return any(address in network for network in PRIVATE)


def harmless(private: tuple[Endpoint, ...], public: Endpoint) -> tuple[Endpoint, ...]:
    """Those of a client's `private` candidates that may be handed out; `public` is where the edge saw it."""
    return tuple(each for each in private if each.ip == public.ip or is_private(each.ip))
