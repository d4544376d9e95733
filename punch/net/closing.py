"""Abrupt closing of connections and transports."""

from __future__ import annotations

import asyncio
import socket
import struct


def close_by_reset(sock: socket.socket, yes: bool) -> None:
    """Make closing the socket send a RST and discard its state at once (`yes`), or send a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", yes, 0))


def abort_transport(transport: asyncio.WriteTransport) -> None:
    """Close a transport and discard its unsent data.

    `transport.abort()` raises `AttributeError` (Python 3.11 to 3.13) if the transport was closed and has since sent all
    of its data. This function does nothing in that case.
    """
    if not transport.is_closing() or transport.get_write_buffer_size() > 0:
        transport.abort()
