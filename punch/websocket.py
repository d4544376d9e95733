"""WebSocket connections over a socket of our own making, so that its local address is ours to choose."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from punch.endpoint import EdgeUrl, Endpoint
from punch.frames import MAX_FRAME


async def resolve(url: EdgeUrl, *families: socket.AddressFamily) -> Endpoint:
    """The address of an edge: the IPv4 one, or the IPv6 one of a name that has no other.

    Only one of `families` if any are given. Raises `OSError` if there is none.
    """
    loop = asyncio.get_running_loop()
    first, *others = families or (socket.AF_INET, socket.AF_INET6)
    if ":" in url.host and socket.AF_INET6 in others:
        first, others = socket.AF_INET6, []
    try:
        found = await loop.getaddrinfo(url.host, url.port, family=first, type=socket.SOCK_STREAM)
    except OSError:
        if not others:
            raise
        return await resolve(url, *others)
    return Endpoint.of(found[0][4])


async def open_websocket(sock: socket.socket, url: EdgeUrl, path: str) -> ClientConnection:
    """The WebSocket handshake over a connected socket, which then belongs to the connection.

    No proxy of the environment is used, since the socket is given. Raises `OSError` and `WebSocketException`.
    """
    return await connect(
        f"{url}{path}",
        sock=sock,
        max_size=MAX_FRAME,
        compression=None,
        open_timeout=None,
        ping_interval=None,
        close_timeout=1,
        user_agent_header=None,
    )


async def until_deaf(connection: Connection, interval_s: float, timeout_s: float) -> None:
    """Ping every `interval_s`; return when a ping is not answered within `timeout_s`, or the connection has ended.

    The kernel goes on to acknowledge what is sent to a process that hangs; only the process itself answers a ping.
    """
    try:
        while True:
            await asyncio.sleep(interval_s)
            async with asyncio.timeout(timeout_s):
                await (await connection.ping())
    except (ConnectionClosed, TimeoutError):
        return


def close_by_reset(sock: socket.socket, yes: bool) -> None:
    """Whether closing the socket sends a RST, and forgets the connection at once, or a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", yes, 0))


def abort(connection: Connection) -> None:
    """End a connection at once, by a RST: nothing of it stays that would keep its addresses from being used again."""
    sock = connection.transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        close_by_reset(sock, True)
    connection.transport.abort()


def why(error: OSError) -> str:
    """Why there is no connection, as the kernel says it.

    asyncio puts words of its own into `strerror`; errors of name resolution are negative.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with it ({error.reason})"
    return (
        os.strerror(error.errno)
        if error.errno and error.errno > 0
        else error.strerror or str(error) or "closed by the other end"
    )
