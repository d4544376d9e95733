"""Which addresses a client sends packets to because somebody names them: the edge, or the peer by way of the edge.

An edge can name any address, so a client that believed it would scan the network that it is in. These rules hold for
every address that is named, before a packet goes there (`Reach`):

- Never: unspecified, link-local, multicast, broadcast and reserved addresses; IPv6 addresses that are not unicast ones
  of 2000::/3 or fc00::/7, and of those none that carry an IPv4 address or are assigned to protocols (6to4 2002::/16,
  Teredo and others 2001::/23; the NAT64 prefixes and IPv4-mapped addresses are outside of 2000::/3).
- An address of a block that is not global (loopback, private, of a carrier's inside, documentation and benchmarks) only
  if the client is connected to its edge at an address of the same block: there the edge sees its other clients too.
- An address of this computer only if the edge is on this computer.
- A host candidate (`private`) only in the networks of the interface that the client punches from, and not the address
  of such a network itself, or its broadcast address. There it may be of any block that is allowed at all.
- No port below 1024 of a peer: a NAT keeps those apart (RFC 4787 REQ-3), and services listen there. Of a server that
  an edge names, 80 and 443 besides.

A client whose own address is on the loopback network dials there and nowhere else, since from there nothing else is
reached; this is how two clients and an edge on one computer are tried.
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
"""The inside of carriers' NATs (RFC 6598)."""

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
_GLOBAL6 = ipaddress.ip_network("2000::/3")  # RFC 4291 section 2.4, and what IANA assigns from


@dataclass(frozen=True)
class Reach:
    """The rules for one client: its `own` address to punch from, and the IP address of its `edge`.

    `computer` are the addresses of this computer, `networks` those of the interface that has the own address.
    """

    own: Endpoint
    edge: str
    computer: frozenset[str]
    networks: tuple[Network, ...]

    @classmethod
    def of(cls, own: Endpoint, edge: str) -> Reach:
        """Of this computer as it is now. Raises `OSError`."""
        found = addresses()
        interfaces = {each.interface for each in found if each.ip == own.ip}
        networks = tuple(each.network for each in found if each.interface in interfaces)
        return cls(own, edge, frozenset(each.ip for each in found), networks)

    def refuses_peer(self, address: Endpoint) -> str | None:
        """Why a client does not dial `address` as the public address of its peer; None if it does."""
        if address.port < LOWEST_PORT:
            return f"a port below {LOWEST_PORT}"
        if self.own.is_loopback or address.is_loopback:
            return self._refuses_loopback(address)
        return self.refuses_server(address.ip)

    def refuses_host(self, address: Endpoint) -> str | None:
        """Why a client does not dial `address` as one that its peer has itself; None if it does."""
        if address.port < LOWEST_PORT:
            return f"a port below {LOWEST_PORT}"
        if self.own.is_loopback or address.is_loopback:
            return self._refuses_loopback(address)
        if is_never(address.ip):
            return "an address that no peer has"
        if self._is_ours(address.ip):
            return "an address of this computer"
        ip = ipaddress.ip_address(address.ip)
        networks = [network for network in self.networks if network.version == ip.version and ip in network]
        if not networks:
            return "outside of the networks of this computer"
        if any(_has_ends(network) and ip in (network[0], network[-1]) for network in networks):
            return "the address of a network, or its broadcast address"
        return None

    def is_neighbor(self, address: Endpoint) -> bool:
        """Whether an IPv6 address, but for the loopback one, is in the client's own network, or in the same /64."""
        if address.family != socket.AF_INET6 or self.own.family != socket.AF_INET6 or self.own.is_loopback:
            return False
        ip = ipaddress.ip_address(address.ip)
        link = ipaddress.ip_network((self.own.ip, 64), strict=False)  # DHCPv6 (RFC 8415) gives a /128 on it
        return any(network.version == 6 and ip in network for network in (link, *self.networks))

    def refuses_server(self, ip: str) -> str | None:
        """Why a client does not connect to `ip` as another address of its edge, or a relay; None if it does."""
        if ip == self.edge:
            return None
        if is_never(ip):
            return "an address that no host has"
        if not knows(self.edge, ip):
            return "not an address that its edge can know, which is in another network"
        if self._is_ours(ip):
            return "an address of this computer"
        return None

    def _refuses_loopback(self, address: Endpoint) -> str | None:
        if not (self.own.is_loopback and address.is_loopback):
            return "the loopback network is dialled from itself, and only itself"
        return "the client's own address" if address == self.own else None

    def _is_ours(self, ip: str) -> bool:
        """Whether this computer has the address, and its edge is elsewhere."""
        on_this_computer = self.edge in self.computer or ipaddress.ip_address(self.edge).is_loopback
        return ip in self.computer and not on_this_computer


@functools.lru_cache(256)
def _block(ip: str) -> Network | None:
    """The block that is not global which an address is in."""
    address = ipaddress.ip_address(ip)
    return next((block for block in _BLOCKS if address.version == block.version and address in block), None)


def refuses_server_port(port: int) -> str | None:
    """Why a client does not connect to that port of a server that its edge names; None if it does."""
    return None if port >= LOWEST_PORT or port in _WEB_PORTS else f"a port below {LOWEST_PORT}, and not 80 or 443"


def knows(edge: str, ip: str) -> bool:
    """Whether an edge that is reached at `edge` can know clients at `ip`: it is global, or in the same block."""
    block = _block(ip)
    return block is None or _are_alike(block, _block(edge))


def is_global(ip: str) -> bool:
    """Whether an address is in none of the blocks above, and a host may have it."""
    return _block(ip) is None and not is_never(ip)


def _are_alike(block: Network, edge_block: Network | None) -> bool:
    """Whether they are one, or of one kind and different families: an edge may have an address of each."""
    if edge_block is None:
        return False
    return block == edge_block or (block.version != edge_block.version and _BLOCKS[block] == _BLOCKS[edge_block])


@functools.lru_cache(256)
def is_never(ip: str) -> bool:
    """Whether no client or server has the address."""
    address = ipaddress.ip_address(ip)
    if any(address.version == block.version and address in block for block in _NEVER):
        return True
    if address.version == 4:
        return False
    return address not in _GLOBAL6 and _block(ip) is None


def _has_ends(network: Network) -> bool:
    """Whether its first and its last address are none of hosts (RFC 3021 has it otherwise for two of them)."""
    return network.version == 4 and network.prefixlen < 31
