"""Address blocks of the Internet, and addresses that a region assigns to homes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from punchlab.lab.errors import InputError

HOME_NETWORK = ipaddress.IPv4Network("192.168.1.0/24")
CARRIER_NETWORK = ipaddress.IPv4Network("100.64.0.0/10")
LARGEST_HOME = 253
"""The hosts of a /24 without the router."""
_SPECIAL = tuple(
    ipaddress.IPv4Network(each)
    for each in (
        *("0.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
"""Special-purpose blocks (RFC 6890), and the blocks of homes and carriers. 10.0.0.0/8 is not included, because a
topology can be an Internet behind NATs.
"""


def public_block(block: object) -> ipaddress.IPv4Network:
    """Return the network, a /8 to /16. Raises `InputError`."""
    try:
        network = ipaddress.IPv4Network(block)
    except (ValueError, TypeError):
        raise InputError("block", block, "an IPv4 network such as 11.0.0.0/8") from None
    if not 8 <= network.prefixlen <= 16:
        raise InputError("block", block, "a prefix length between 8 and 16")
    for special in _SPECIAL:
        if network.overlaps(special):
            raise InputError("block", block, f"addresses outside the reserved block {special}")
    return network


@dataclass(slots=True)
class Region:
    """A region, or the network behind a carrier's NAT: the router of its homes, and their addresses."""

    router: str
    network: ipaddress.IPv4Network
    edge: str | None = None
    homes: int = 0

    def home(self) -> tuple[str, str]:
        """Return the gateway and the address of the next home, both in a new /24. Raises `InputError`."""
        most = LARGEST_HOME if self.network == CARRIER_NETWORK else self.network.num_addresses // 256 - 1
        if self.homes >= most:
            raise InputError("home", self.homes + 1, f"at most {most} homes in {self.network}, each with a /24")
        self.homes += 1
        subnet = self.network.network_address + 256 * self.homes
        return str(subnet + 1), str(subnet + (1 + self.homes if self.network == CARRIER_NETWORK else 2))
