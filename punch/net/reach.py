"""Rules for addresses that a client receives from an edge, or from the peer through an edge.

An edge can supply any address. A client that connected to all of them would scan its own network for the edge.
`Reach` checks each address before the client sends a packet to it:

- Never allowed: unspecified, link-local, multicast, broadcast and reserved addresses; IPv6 addresses outside
  2000::/3 and fc00::/7, which excludes NAT64 prefixes and IPv4-mapped addresses; and addresses of 2000::/3 that embed
  an IPv4 address or are assigned to protocols (6to4 2002::/16; Teredo and others 2001::/23).
- An address of a block that is not global (loopback, private, shared, documentation and benchmarking) is allowed only
  if the client is connected to its edge at an address of the same block, because such an edge can have other clients
  in that block.
- An address of this computer is allowed only if the edge runs on this computer.
- A host candidate (`host`) is allowed only within the networks of the interface from which the client punches, except
  the address of the network and its broadcast address. Such an address may be in any block that is allowed at all.
- A peer's port must be at least 1024: NATs do not map lower ports (RFC 4787 REQ-3), and services listen there. A server
  that an edge supplies may also have port 80 or 443.

A client whose own address is a loopback address connects to loopback addresses only, because the loopback interface
reaches nothing else. Two clients and an edge on one computer are tested in this way.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from dataclasses import dataclass

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.net.interfaces import Network, addresses
from punchlab.punch.net.sockets import LOWEST_PORT

SHARED = ipaddress.ip_network("100.64.0.0/10")
"""Shared address space of carriers (RFC 6598)."""

_WEB_PORTS = (80, 443)

_LOOPBACK = ("127.0.0.0/8", "::1/128")
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")  # RFC 1918, RFC 4193
_EXAMPLES = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15", "2001:db8::/32", "3fff::/20")
_BLOCKS: dict[Network, str] = {
    ipaddress.ip_network(block): kind
    for kind, blocks in (
        ("loopback", _LOOPBACK),
        ("private", _PRIVATE),
        ("shared", (str(SHARED),)),
        ("example", _EXAMPLES),
    )
    for block in blocks
}
_NEVER = tuple(
    ipaddress.ip_network(block)
    for block in (
        "0.0.0.0/8",  # RFC 791: this network
        "169.254.0.0/16",  # RFC 3927: link-local
        "192.0.0.0/24",  # RFC 6890: protocols
        "192.88.99.0/24",  # RFC 7526: 6to4 relays, deprecated
        "224.0.0.0/4",  # RFC 5771: multicast
        "240.0.0.0/4",  # RFC 1112: reserved, and the broadcast address
        "2001::/23",  # RFC 2928: Teredo, ORCHID, protocols
        "2002::/16",  # RFC 3056: 6to4
    )
)
_GLOBAL6 = ipaddress.ip_network("2000::/3")  # RFC 4291 section 2.4; IANA assigns global unicast from it


@dataclass(frozen=True)
class Reach:
    """The rules for one client: its `own` address to punch from, and the IP address of its `edge`.

    `computer` contains the addresses of this computer, `networks` the networks of the interface with the own address.
    """

    own: Endpoint
    edge: str
    computer: frozenset[str]
    networks: tuple[Network, ...]

    @classmethod
    def of(cls, own: Endpoint, edge: str) -> Reach:
        """Return the rules for this computer in its present state. Raises `OSError`."""
        found = addresses()
        interfaces = {each.interface for each in found if each.ip == own.ip}
        networks = tuple(each.network for each in found if each.interface in interfaces)
        return cls(own, edge, frozenset(each.ip for each in found), networks)

    def refuses_peer(self, address: Endpoint) -> str | None:
        """Return why a client must not use `address` as the public address of its peer; None if it may."""
        if address.port < LOWEST_PORT:
            return f"a port below {LOWEST_PORT}"
        if self.own.is_loopback or address.is_loopback:
            return self._refuses_loopback(address)
        return self.refuses_server(address.ip)

    def refuses_host(self, address: Endpoint) -> str | None:
        """Return why a client must not use `address` as a host candidate of its peer; None if it may."""
        if address.port < LOWEST_PORT:
            return f"a port below {LOWEST_PORT}"
        if self.own.is_loopback or address.is_loopback:
            return self._refuses_loopback(address)
        if is_never(address.ip):
            return "not an address of a host"
        if self._is_ours(address.ip):
            return "an address of this computer"
        ip = ipaddress.ip_address(address.ip)
        networks = [network for network in self.networks if network.version == ip.version and ip in network]
        if not networks:
            return "outside the networks of this computer"
        if any(_has_ends(network) and ip in (network[0], network[-1]) for network in networks):
            return "a network address or broadcast address"
        return None

    def is_neighbor(self, address: Endpoint) -> bool:
        """Return whether an IPv6 address is in the client's own network, or in the same /64; loopback is not."""
        if address.family != socket.AF_INET6 or self.own.family != socket.AF_INET6 or self.own.is_loopback:
            return False
        ip = ipaddress.ip_address(address.ip)
        link = ipaddress.ip_network((self.own.ip, 64), strict=False)  # DHCPv6 (RFC 8415) assigns a /128
        return any(network.version == 6 and ip in network for network in (link, *self.networks))

    def refuses_server(self, ip: str) -> str | None:
        """Return why a client must not use `ip` as another address of its edge, or as a relay; None if it may."""
        if ip == self.edge:
            return None
        if is_never(ip):
            return "not an address of a host"
        if not knows(self.edge, ip):
            return "in another network than the edge"
        if self._is_ours(ip):
            return "an address of this computer"
        return None

    def _refuses_loopback(self, address: Endpoint) -> str | None:
        if not (self.own.is_loopback and address.is_loopback):
            return "loopback addresses are allowed only for a client with a loopback address"
        return "the client's own address" if address == self.own else None

    def _is_ours(self, ip: str) -> bool:
        """Return whether this computer has the address and its edge runs elsewhere."""
        on_this_computer = self.edge in self.computer or ipaddress.ip_address(self.edge).is_loopback
        return ip in self.computer and not on_this_computer


@functools.lru_cache(256)
def _block(ip: str) -> Network | None:
    """Return the non-global block that contains the address, if any."""
    address = ipaddress.ip_address(ip)
    return next((block for block in _BLOCKS if address.version == block.version and address in block), None)


def refuses_server_port(port: int) -> str | None:
    """Return why a client must not use that port of a server supplied by its edge; None if it may."""
    return None if port >= LOWEST_PORT or port in _WEB_PORTS else f"a port below {LOWEST_PORT}, and not 80 or 443"


def knows(edge: str, ip: str) -> bool:
    """Return whether an edge with address `edge` can have clients at `ip`: global, or in the same block."""
    block = _block(ip)
    return block is None or _are_alike(block, _block(edge))


def is_global(ip: str) -> bool:
    """Return whether the address is outside all of the blocks above and a host may have it."""
    return _block(ip) is None and not is_never(ip)


def _are_alike(block: Network, edge_block: Network | None) -> bool:
    """Return whether the blocks are equal, or of one kind and different families: an edge may have both families."""
    if edge_block is None:
        return False
    return block == edge_block or (block.version != edge_block.version and _BLOCKS[block] == _BLOCKS[edge_block])


@functools.lru_cache(256)
def is_never(ip: str) -> bool:
    """Return whether no client or server can have the address."""
    address = ipaddress.ip_address(ip)
    if any(address.version == block.version and address in block for block in _NEVER):
        return True
    if address.version == 4:
        return False
    return address not in _GLOBAL6 and _block(ip) is None


def _has_ends(network: Network) -> bool:
    """Return whether the first and last address are not those of hosts; a /31 has none (RFC 3021)."""
    return network.version == 4 and network.prefixlen < 31
