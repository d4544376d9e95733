"""Where the peer may be reached: its public endpoint as the edge saw it, and the private ones it named."""

from __future__ import annotations

from typing import Literal, NamedTuple

from punch.endpoint import Endpoint
from punch.frames import Contact

Kind = Literal["public", "private"]


class Candidate(NamedTuple):
    """One address to dial."""

    address: Endpoint
    kind: Kind


def candidates(peer: Contact, own: Endpoint) -> list[Candidate]:
    """The addresses to dial, the public one first, none twice.

    Left out: exactly `own` local address (both homes use the same private addresses: that would be dialling oneself),
    and the loopback network unless `own` is in it (a peer has no business naming our local services).
    """
    offered = [Candidate(peer.public, "public"), *(Candidate(each, "private") for each in peer.private)]
    chosen: dict[Endpoint, Candidate] = {}
    for each in offered:
        if each.address != own and (own.is_loopback or not each.address.is_loopback):
            chosen.setdefault(each.address, each)
    return list(chosen.values())
