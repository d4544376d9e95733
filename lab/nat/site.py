"""Interfaces and addresses of a NAT, and names that its rules share."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from punchlab.punch.nat.behavior import NatBehavior, Unsolicited

TRANSPORTS = ("tcp", "udp")

CLASH = 0x1
"""Mark of a packet whose port belongs to another mapping."""
HAIRPIN = 0x2
"""Mark of a packet from inside to an external address that needs an external source (hairpinning)."""
ADMITTED = 0x4
"""Mark of a packet that a firewall admits."""
OVERDUE = 0x8
"""Mark of an unsolicited SYN whose delay has ended, to be answered."""

QUEUE = 5382
"""The NFQUEUE for unsolicited SYNs."""

DYNAMIC = "flags dynamic,timeout; size 8192;"
"""Flags and size of sets and maps that packets fill. The size exceeds the number of mappings of home routers.

The kernel allocates the hash table at once, which dominates the time to load rules: 1 ms per NAT, but 5 ms with the
next larger size.
"""


@dataclass(frozen=True, slots=True)
class Family:
    """Names in nft and iptables that differ between IPv4 and IPv6: nft's protocol and address type, ICMP and REJECT.

    ICMPv6 lacks some codes of ICMP (RFC 4443 section 3.1): both kinds of prohibition (3/10, 3/13) become 1/1, an
    unreachable port (3/3) becomes 1/4.
    """

    ip: str
    address: str
    icmp: str
    reject: Mapping[Unsolicited, str]


IPV4 = Family(
    "ip",
    "ipv4_addr",
    "icmp",
    {
        Unsolicited.RESET: "tcp-reset",
        Unsolicited.PORT_UNREACHABLE: "icmp-port-unreachable",
        Unsolicited.HOST_PROHIBITED: "icmp-host-prohibited",
        Unsolicited.ADMIN_PROHIBITED: "icmp-admin-prohibited",
    },
)
IPV6 = Family(
    "ip6",
    "ipv6_addr",
    "ipv6-icmp",
    {
        Unsolicited.RESET: "tcp-reset",
        Unsolicited.PORT_UNREACHABLE: "icmp6-port-unreachable",
        Unsolicited.HOST_PROHIBITED: "icmp6-adm-prohibited",
        Unsolicited.ADMIN_PROHIBITED: "icmp6-adm-prohibited",
    },
)


@dataclass(frozen=True, slots=True)
class Site:
    """A behavior between two interfaces. `addresses` are the distinct external addresses."""

    behavior: NatBehavior
    inside: str
    outside: str
    addresses: tuple[str, ...]

    @property
    def external(self) -> str:
        """The external addresses as one nft expression for comparisons."""
        return self.addresses[0] if len(self.addresses) == 1 else f"{{ {', '.join(self.addresses)} }}"


def external_addresses(first: str, behavior: NatBehavior) -> tuple[str, ...]:
    """Return the addresses of the pool: consecutive addresses starting with the first."""
    start = ipaddress.IPv4Address(first)
    return tuple(str(start + number) for number in range(behavior.pool_size))
