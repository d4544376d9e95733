"""How connections end at once."""

from __future__ import annotations

import asyncio
import socket
import struct


def close_by_reset(sock: socket.socket, yes: bool) -> None:
    """Whether closing the socket sends a RST, and forgets the connection at once, or a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", yes, 0))


def abort_transport(transport: asyncio.WriteTransport) -> None:
    """Close a transport, and drop what it has not sent yet.

    Unlike `transport.abort()`, it may be called when a transport that was closed has since sent all that it had:
    asyncio then fails (`AttributeError`, Python 3.11 to 3.13).
    """
    if not transport.is_closing() or transport.get_write_buffer_size() > 0:
        transport.abort()
