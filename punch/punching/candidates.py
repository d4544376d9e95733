"""The peer's candidates: its reflexive address as the edge saw it, and the host addresses that it registered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.frames import Contact

Kind = Literal["srflx", "host", "predicted", "guess", "mapped", "prflx"]
"""Candidate types, the first two and the last as in RFC 8445 section 5.1.1. `srflx`: server-reflexive, the endpoint
that the edge saw; `host`: an address of the peer's host; `predicted` and `guess`: a port that the peer's NAT may have
allocated; `mapped`: a port mapping that the peer requested from its NAT; `prflx`: peer-reflexive, the source of an
incoming connection of the peer."""


class Candidate(NamedTuple):
    """One address to connect to."""

    address: Endpoint
    kind: Kind


MAX_HOST_CANDIDATES = 2
"""Host candidates accepted from a peer. This client sends one."""


def candidates(peer: Contact, own: Endpoint, own_public: Endpoint) -> list[Candidate]:
    """Return the distinct candidates of the family of `own`: host candidates first for hosts behind one NAT, else last.

    The result excludes `own`: if both networks use the same private addresses, the client would connect to itself.
    `punch.punching.admission` decides which of them may be used.
    """
    public = [each for each in (peer.public, peer.public6) if each is not None]
    private = [each for each in peer.private if each.family == own.family][:MAX_HOST_CANDIDATES]
    offered = [*(Candidate(each, "srflx") for each in public), *(Candidate(each, "host") for each in private)]
    chosen: dict[Endpoint, Candidate] = {}
    for each in offered:
        if each.address.family == own.family and each.address != own:
            chosen.setdefault(each.address, each)
    neighbors = peer.public.ip == own_public.ip
    return sorted(chosen.values(), key=lambda each: (each.kind == "srflx") is neighbors)


def ipv6_candidates(peer: Contact, own6: Endpoint | None) -> list[Candidate]:
    """Return the IPv6 candidates for a client with the reflexive IPv6 address `own6`; none for None."""
    if own6 is None:
        return []
    public = [each for each in (peer.public, peer.public6) if each is not None and each.family == own6.family]
    return [Candidate(each, "srflx") for each in public if each != own6]


def lan_addresses(targets: Iterable[Candidate], peer: Contact, own_public: Endpoint) -> list[Endpoint]:
    """Return the targets at which hosts behind one public address may reach each other without their NAT."""
    if peer.public.ip != own_public.ip:
        return []
    return [each.address for each in targets if each.kind == "host"]
