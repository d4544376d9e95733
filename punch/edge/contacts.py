"""Which addresses an edge gives to a peer. A client cannot make an edge direct two clients' SYNs at a third party.

A peer connects to the address at which the edge sees the client, and to the private candidates that the client
registered. A client can register any address. A private candidate is therefore passed on only if it belongs to a
network that is private by definition, so that it leads no further than the peer's own network, or if it has the address
at which the edge sees the client.
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
        "100.64.0.0/10",  # carrier-grade NATs, RFC 6598
        "169.254.0.0/16",  # link-local, RFC 3927
        "127.0.0.0/8",
        "fc00::/7",  # unique local, RFC 4193
        "::1/128",
    )
)


def is_private(ip: str) -> bool:
    """Return whether an address belongs to a network that is not routed on the Internet.

    IPv6 link-local addresses do not count: they are meaningless without an interface, which only their own host knows.
    """
    address = ipaddress.ip_address(ip)
    return any(address in network for network in PRIVATE)


def allowed_candidates(private: tuple[Endpoint, ...], public: Endpoint) -> tuple[Endpoint, ...]:
    """Return those of a client's `private` candidates that its peer may get; `public` is where the edge sees the
    client."""
    return tuple(each for each in private if each.ip == public.ip or is_private(each.ip))
