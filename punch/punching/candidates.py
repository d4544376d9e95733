"""Where the peer may be reached: its public endpoint as the edge saw it, and the private ones it named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.frames import Contact

Kind = Literal["public", "private", "predicted", "guess", "mapped", "reversed"]
"""`public`: the endpoint that the edge saw; `private`: one that the peer has itself; `predicted` and `guess`: a port
that the peer's NAT may have allocated; `mapped`: one that the peer's NAT was asked for; `reversed`: where a connection
of the peer's came from, dialled back."""


class Candidate(NamedTuple):
    """One address to dial."""

    address: Endpoint
    kind: Kind


MAX_HOST_CANDIDATES = 2
"""Addresses of its own that are taken from what a peer names. Our client names one."""


def candidates(peer: Contact, own: Endpoint, own_public: Endpoint) -> list[Candidate]:
    """The addresses to dial, none twice: the private ones first for hosts behind one NAT, else the public one.

    Left out: exactly `own` local address (both homes use the same private addresses: that would be dialling oneself),
    and what is not of the same family as `own`. Whether one may be dialled is for `punch.punching.admission` to say.
    """
    public = [each for each in (peer.public, peer.public6) if each is not None]
    private = [each for each in peer.private if each.family == own.family][:MAX_HOST_CANDIDATES]
    offered = [*(Candidate(each, "public") for each in public), *(Candidate(each, "private") for each in private)]
    chosen: dict[Endpoint, Candidate] = {}
    for each in offered:
        if each.address.family == own.family and each.address != own:
            chosen.setdefault(each.address, each)
    neighbors = peer.public.ip == own_public.ip
    return sorted(chosen.values(), key=lambda each: (each.kind == "public") is neighbors)


def beside(peer: Contact, own6: Endpoint | None) -> list[Candidate]:
    """What a client that has shown its edge an IPv6 address, `own6`, can dial beside the `candidates` of IPv4."""
    if own6 is None:
        return []
    public = [each for each in (peer.public, peer.public6) if each is not None and each.family == own6.family]
    return [Candidate(each, "public") for each in public if each != own6]


def of_one_lan(targets: Iterable[Candidate], peer: Contact, own_public: Endpoint) -> list[Endpoint]:
    """Addresses among `targets` at which hosts behind one public address may reach each other without their NAT."""
    if peer.public.ip != own_public.ip:
        return []
    return [each.address for each in targets if each.kind == "private"]
