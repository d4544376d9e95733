"""Where a NAT stands, and the words that all its rules share."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from punchlab.punch.nat.behavior import NatBehavior, Unsolicited

TRANSPORTS = ("tcp", "udp")

CLASH = 0x1
"""Mark of a packet whose port belongs to another mapping."""
HAIRPIN = 0x2
"""Mark of a packet from inside to an external address, which is to come from an external endpoint itself."""
ADMITTED = 0x4
"""Mark of a packet that a firewall's filter lets in."""
OVERDUE = 0x8
"""Mark of an unsolicited SYN that has waited for its time, and is now to be answered."""

QUEUE = 5382
"""The NFQUEUE in which unsolicited SYNs wait."""

DYNAMIC = "flags dynamic,timeout; size 8192;"
"""Of sets and maps that packets fill: as many mappings of each transport, more than home routers have.

The kernel makes a hash table of that size at once, which is what loading the rules costs most: 1 ms for all of a NAT's,
but 5 ms with the next larger size.
"""


@dataclass(frozen=True, slots=True)
class Family:
    """The words of netfilter that differ between IPv4 and IPv6: nft's `ip` and address type, iptables' ICMP and REJECT.

    Where the ICMP codes of IPv4 have no namesake (RFC 4443 section 3.1), the counterpart of both kinds of prohibition
    (3/10, 3/13) is 1/1, and that of an unreachable port (3/3) is 1/4.
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
