"""The client's side of a relay: a socket whose other end is carried to the peer by an edge.

A WebSocket to the edge is joined to one end of a socket pair, and the caller gets the other end: authentication,
encryption and files are the same as over a punched connection, and know of no relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from punch.client.puncher import Connection
from punch.endpoint import EdgeUrl, Endpoint
from punch.errors import FrameError, PunchFailedError
from punch.relay import MAX_MESSAGE, PATH, parse_joined, relay_frame
from punch.text import printable
from punch.websocket import abort, open_websocket, resolve, until_deaf

PING_S = 10.0  # a dead relay is noticed within two of these
TIMEOUT_S = 35.0  # the edge waits 30 s for the peer
LAST_S = 3.0  # how long an end waits for what is still on its way to the edge


@contextlib.asynccontextmanager
async def relayed(url: EdgeUrl, token: str) -> AsyncIterator[Connection]:
    """A connection to the peer by way of the edge at `url`. Raises `PunchFailedError`."""
    websocket = await _join(url, token)
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    watching = asyncio.create_task(_watch(websocket))
    carrying = [asyncio.create_task(_out(theirs, websocket)), asyncio.create_task(_in(websocket, theirs))]
    try:
        local, remote = (Endpoint.of(address) for address in (websocket.local_address, websocket.remote_address))
        yield Connection(ours, local, remote, "connect")
    finally:
        ours.close()
        # What was written last still has to go out; the end of the pair ends the carrying. A peer that has stopped
        # reading must not keep us from ending.
        try:
            async with asyncio.timeout(LAST_S):
                await asyncio.gather(carrying[0], return_exceptions=True)
                await websocket.close()
        except TimeoutError:
            abort(websocket)
        for task in (carrying[1], watching):
            task.cancel()
        await asyncio.gather(*carrying, watching, return_exceptions=True)
        theirs.close()


async def _join(url: EdgeUrl, token: str) -> ClientConnection:
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            address = await resolve(url)
            sock = socket.socket(address.family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(sock, address)
            websocket = await open_websocket(sock, url, PATH)
            await websocket.send(relay_frame(token))
            parse_joined(await websocket.recv())
            return websocket
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, ConnectionClosed):
            told = printable(error.rcvd.reason) if error.rcvd is not None else "the connection was lost"
            raise PunchFailedError("no_rendezvous", f"relay {url}: {told}") from None
        if isinstance(error, TimeoutError):
            raise PunchFailedError("no_rendezvous", f"relay {url}: no peer within {TIMEOUT_S:g} s") from None
        if isinstance(error, OSError | WebSocketException | EOFError | FrameError):
            raise PunchFailedError("no_rendezvous", f"relay {url}: {printable(str(error))}") from None
        raise


async def _watch(websocket: ClientConnection) -> None:
    await until_deaf(websocket, PING_S, PING_S)
    abort(websocket)


async def _out(source: socket.socket, websocket: ClientConnection) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionClosed, OSError):
        while data := await loop.sock_recv(source, MAX_MESSAGE):
            await websocket.send(data)


async def _in(websocket: ClientConnection, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionClosed, OSError):
        async for message in websocket:
            await loop.sock_sendall(sink, message if isinstance(message, bytes) else message.encode())
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
