"""The nodes and addresses of a topology that the analysis of an exchange needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class HostSide:
    """One of the two hosts, and the NATs in front of it."""

    host: str
    nats: tuple[str, ...] = ()
    """The NAT nodes in front of the host, innermost first; empty for a public host."""
    addresses: frozenset[str] = frozenset()
    """Addresses that reach it from the Internet: the outside addresses of its outermost NAT, or its own."""
    gateways: frozenset[str] = frozenset()
    """The inside addresses of its NATs, to which it sends port mapping requests."""
    inside: frozenset[str] = frozenset()
    """Addresses that reach it from behind the same NAT: its own, and the outside addresses of all its NATs."""


@dataclass(frozen=True)
class HostPair:
    """The two hosts that punch, and the other destinations of packets."""

    a: HostSide
    b: HostSide
    edges: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Edge node -> its addresses, including the anycast address."""
    others: frozenset[str] = frozenset()
    """Other hosts; a packet that reaches one has been delivered, not dropped."""
    background: frozenset[str] = frozenset()
    """Addresses of background traffic, which the analysis ignores."""
    elsewhere: frozenset[str] = frozenset()
    """Addresses of other hosts. A connection with one of them is not a direct connection of the two hosts, even if that
    host forwards every segment."""

    def border(self, side: HostSide) -> str:
        """Return the side's border node (see `lab.exchange.story`)."""
        shared = {*self.a.nats} & {*self.b.nats}
        return next((nat for nat in reversed(side.nats) if nat not in shared), side.host)

    @cached_property
    def edge_addresses(self) -> frozenset[str]:
        """The addresses of all edges."""
        return frozenset().union(*self.edges.values())

    @cached_property
    def ends(self) -> frozenset[str]:
        """The nodes that receive packets: hosts and edges."""
        return frozenset({self.a.host, self.b.host, *self.edges, *self.others})
