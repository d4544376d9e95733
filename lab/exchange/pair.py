"""Who is who in the topology, as far as an exchange needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class HostSide:
    """One of the two hosts and what is in front of it."""

    host: str
    nats: tuple[str, ...] = ()
    """The NAT nodes in front of it, from the host outwards; none for a public host."""
    addresses: frozenset[str] = frozenset()
    """Where the Internet finds it: the outside addresses of its outermost NAT, or its own."""
    gateways: frozenset[str] = frozenset()
    """Where it finds its own NATs, to ask them for port mappings: their inside addresses."""
    inside: frozenset[str] = frozenset()
    """Where hosts behind the same NAT find it: its own address and the outside addresses of all its NATs."""


@dataclass(frozen=True)
class HostPair:
    """The two hosts that punch, and who else packets can be for."""

    a: HostSide
    b: HostSide
    edges: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Edge node -> its addresses, the anycast address included."""
    others: frozenset[str] = frozenset()
    """Other hosts: a packet that ends there has been delivered, if to the wrong one."""
    background: frozenset[str] = frozenset()
    """Addresses of the background traffic, which is no part of the exchange."""
    elsewhere: frozenset[str] = frozenset()
    """Addresses of other hosts: a connection with one of them is none between the two, even if that host passes on
    every segment."""

    def gate(self, side: HostSide) -> str:
        """The side's gate (see `lab.exchange.story`)."""
        shared = {*self.a.nats} & {*self.b.nats}
        return next((nat for nat in reversed(side.nats) if nat not in shared), side.host)

    @cached_property
    def edge_addresses(self) -> frozenset[str]:
        """Every address of every edge."""
        return frozenset().union(*self.edges.values())

    @cached_property
    def ends(self) -> frozenset[str]:
        """The nodes that packets are for: hosts and edges."""
        return frozenset({self.a.host, self.b.host, *self.edges, *self.others})
