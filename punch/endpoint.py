"""An IPv4 transport address, written `ip:port`, and the `ws://host:port` of an edge."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from punch.errors import InputError

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # RFC 1123 section 2.1
_URL = re.compile(rf"ws://(?P<host>{_LABEL}(?:\.{_LABEL})*):(?P<port>[0-9]{{1,5}})/?")


class Endpoint(NamedTuple):
    """IPv4 address and TCP port; usable wherever `socket` wants an address of AF_INET."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, field: str = "endpoint", any_port: bool = False) -> Endpoint:
        """`ip:port` in its one canonical form. Port 0 only with `any_port`. Raises `InputError`."""
        expected = "an IPv4 address and a port, such as 192.0.2.1:41000"
        ip, colon, port = text.rpartition(":")
        try:
            canonical = str(ipaddress.IPv4Address(ip))
        except ValueError:
            raise InputError(field, text, expected) from None
        if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5):
            raise InputError(field, text, expected)
        if not (0 if any_port else 1) <= int(port) <= 65535:
            raise InputError(field, text, f"a port between {0 if any_port else 1} and 65535")
        return cls(canonical, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether this is an address of 127.0.0.0/8."""
        return ipaddress.IPv4Address(self.ip).is_loopback

    @property
    def is_unicast(self) -> bool:
        """Whether a host could have this address: not unspecified, multicast or broadcast."""
        address = ipaddress.IPv4Address(self.ip)
        return not (address.is_multicast or address.is_unspecified or self.ip == "255.255.255.255")


class EdgeUrl(NamedTuple):
    """Where an edge listens: `ws://host:port`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"ws://{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, field: str = "edge") -> EdgeUrl:
        """`ws://host:port`, host a name or an IPv4 address. Raises `InputError`."""
        match = _URL.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise InputError(field, text, "ws://HOST:PORT")
        return cls(match["host"], int(match["port"]))
