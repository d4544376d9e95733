"""The router that this host sends to when it knows no other way: whom NAT-PMP and PCP are spoken with."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

_ROUTES = Path("/proc/net/route")
_UP_AND_GATEWAY = 0x3  # RTF_UP | RTF_GATEWAY of linux/route.h


def default_gateway() -> str | None:
    """Its IPv4 address, that of the route with the lowest metric; None where there is none, or no such table."""
    try:
        lines = _ROUTES.read_text().splitlines()[1:]
    except OSError:
        return None
    found: list[tuple[int, str]] = []
    for line in lines:
        _interface, destination, gateway, flags, _references, _uses, metric, mask, *_rest = line.split()
        if int(flags, 16) & _UP_AND_GATEWAY == _UP_AND_GATEWAY and int(destination, 16) == int(mask, 16) == 0:
            # The kernel prints the four bytes as they lie in memory, as one number of this machine.
            found.append((int(metric), socket.inet_ntoa(struct.pack("=I", int(gateway, 16)))))
    return min(found)[1] if found else None
