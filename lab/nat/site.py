"""Where a NAT stands, and the words that all its rules share."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from punch.nat.behavior import NatBehavior

TRANSPORTS = ("tcp", "udp")

CLASH = 0x1
"""Mark of a packet whose port belongs to another mapping."""
HAIRPIN = 0x2
"""Mark of a packet from inside to an external address, which is to come from an external endpoint itself."""
ADMITTED = 0x4
"""Mark of a packet that a firewall's filter lets in."""


@dataclass(frozen=True, slots=True)
class Site:
    """A behavior between two interfaces; `addresses` are the external ones, none repeated."""

    behavior: NatBehavior
    inside: str
    outside: str
    addresses: tuple[str, ...]

    @property
    def external(self) -> str:
        """The external addresses as one nft expression for comparisons."""
        return self.addresses[0] if len(self.addresses) == 1 else f"{{ {', '.join(self.addresses)} }}"


def external_addresses(first: str, behavior: NatBehavior) -> tuple[str, ...]:
    """The addresses of the pool: consecutive ones from the first."""
    start = ipaddress.IPv4Address(first)
    return tuple(str(start + number) for number in range(behavior.pool_size))
