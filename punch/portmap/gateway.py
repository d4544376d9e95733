"""The default gateway of this host, which NAT-PMP and PCP requests are sent to."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

_ROUTES = Path("/proc/net/route")
_UP_AND_GATEWAY = 0x3  # RTF_UP | RTF_GATEWAY of linux/route.h


def default_gateway() -> str | None:
    """Return the IPv4 address of the default route with the lowest metric; None without one, or without a routing
    table."""
    try:
        lines = _ROUTES.read_text().splitlines()[1:]
    except OSError:
        return None
    found: list[tuple[int, str]] = []
    for line in lines:
        _interface, destination, gateway, flags, _references, _uses, metric, mask, *_rest = line.split()
        if int(flags, 16) & _UP_AND_GATEWAY == _UP_AND_GATEWAY and int(destination, 16) == int(mask, 16) == 0:
            # The kernel prints the four bytes as one integer in host byte order.
            found.append((int(metric), socket.inet_ntoa(struct.pack("=I", int(gateway, 16)))))
    return min(found)[1] if found else None
