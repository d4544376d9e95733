"""Transport addresses, written `ip:port` or `[ipv6]:port`, and URLs of edges, `ws://host:port` or `wss://host:port`."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Any, NamedTuple

from punchlab.punch.errors import ArgumentError

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # RFC 1123 section 2.1
HOST_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_HOST = rf"{HOST_NAME}|\[(?P<ipv6>[0-9a-f:]{{2,39}})\]"
_URL = re.compile(rf"(?P<scheme>wss?)://(?P<host>{_HOST}):(?P<port>[0-9]{{1,5}})/?")

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)


class Endpoint(NamedTuple):
    """IP address and port, usable as an address of a socket of its `family`."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    @classmethod
    def of(cls, address: tuple[Any, ...]) -> Endpoint:
        """Return the endpoint of a `socket` address, which has two more fields for IPv6."""
        return cls(*address[:2])

    @classmethod
    def parse(cls, text: str, *, field: str = "endpoint", any_port: bool = False) -> Endpoint:
        """Parse `ip:port` or `[ipv6]:port` in its canonical form (RFC 5952, without a zone). Raises `ArgumentError`.

        Port 0 is valid only with `any_port`. IPv4-mapped IPv6 addresses (`::ffff:192.0.2.1`) are rejected, because
        rules for IPv4 addresses would not apply to them.
        """
        expected = "an IP address and a port, such as 192.0.2.1:41000 or [2001:db8::1]:41000"
        ip, colon, port = text.rpartition(":")
        canonical = _canonical_ipv6(ip[1:-1]) if ip.startswith("[") and ip.endswith("]") else _canonical_ipv4(ip)
        if canonical is None or not colon or not (port.isascii() and port.isdigit() and len(port) <= 5):
            raise ArgumentError(field, text, expected)
        if not (0 if any_port else 1) <= int(port) <= 65535:
            raise ArgumentError(field, text, f"a port between {0 if any_port else 1} and 65535")
        return cls(canonical, int(port))

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AF_INET6 if ":" in self.ip else socket.AF_INET

    @property
    def is_loopback(self) -> bool:
        """Whether this is an address of 127.0.0.0/8, or ::1."""
        return ipaddress.ip_address(self.ip).is_loopback

    @property
    def is_link_local(self) -> bool:
        """Whether this is an IPv6 address of fe80::/10, which is meaningless without an interface."""
        return ":" in self.ip and ipaddress.IPv6Address(self.ip).is_link_local

    @property
    def is_unicast(self) -> bool:
        """Whether a host can have this address: it is not unspecified, multicast or broadcast."""
        address = ipaddress.ip_address(self.ip)
        return not (address.is_multicast or address.is_unspecified or self.ip == "255.255.255.255")


def _canonical_ipv4(text: str) -> str | None:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return None


def _canonical_ipv6(text: str) -> str | None:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return text if str(address) == text and address.scope_id is None and address.ipv4_mapped is None else None


class EdgeUrl(NamedTuple):
    """The URL of an edge: `ws://host:port`, or `wss://host:port` with TLS. `host` has no brackets."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.tls else 'ws'}://{host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, field: str = "edge") -> EdgeUrl:
        """Parse `ws://host:port` or `wss://host:port`; the host is a name, an IPv4 address, or an IPv6 address in
        brackets.

        Raises `ArgumentError`.
        """
        match = _URL.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ArgumentError(field, text, "ws://HOST:PORT or wss://HOST:PORT")
        ipv6 = match["ipv6"]
        if ipv6 is not None and _canonical_ipv6(ipv6) is None:
            raise ArgumentError(field, text, "ws://HOST:PORT, with IPv6 addresses as in ws://[2001:db8::1]:7001")
        return cls(ipv6 or match["host"], int(match["port"]), match["scheme"] == "wss")
