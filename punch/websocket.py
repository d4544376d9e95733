"""WebSocket connections over a socket of our own making, so that its local address is ours to choose."""

from __future__ import annotations

import asyncio
import socket

from websockets.asyncio.client import ClientConnection, connect

from punch.endpoint import EdgeUrl, Endpoint
from punch.frames import MAX_FRAME


async def resolve(url: EdgeUrl) -> Endpoint:
    """The IPv4 address of an edge. Raises `OSError` if its name has none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(url.host, url.port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    return Endpoint(*found[0][4][:2])


async def open_websocket(
    sock: socket.socket, url: EdgeUrl, path: str, *, ping_interval_s: float | None = None
) -> ClientConnection:
    """The WebSocket handshake over a connected socket, which then belongs to the connection.

    No proxy of the environment is used, since the socket is given. Raises `OSError` and `WebSocketException`.
    """
    return await connect(
        f"{url}{path}",
        sock=sock,
        max_size=MAX_FRAME,
        compression=None,
        open_timeout=None,
        ping_interval=ping_interval_s,
        ping_timeout=ping_interval_s,
        close_timeout=1,
        user_agent_header=None,
    )
