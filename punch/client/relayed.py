"""The client's side of a relay: a socket whose data an edge forwards to the peer.

The client connects a WebSocket to the edge and copies its data to and from one end of a socket pair. The caller gets
the other end, so authentication, encryption and file transfer work as over a punched connection.

The edge supplies the address of the relay, so the client limits what the edge can do with it. The address must be one
that an edge may supply (`punch.net.reach`), the client tries it a few times per session, and an unreachable relay takes
as long as one that does not answer. The edge therefore cannot find out which ports of a third party are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from punchlab.punch.codec import decode, encode
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import FrameError, NoConnectionError, PunchFailedError
from punchlab.punch.net.websocket import abort, open_websocket, protocol_violation, resolve, until_unresponsive, why
from punchlab.punch.punching.puncher import Connection
from punchlab.punch.punching.supplied_servers import SuppliedServers
from punchlab.punch.relay import MAX_MESSAGE, PATH, Join, Joined
from punchlab.punch.text import printable

PING_S = 10.0  # the client detects a dead relay within two of these
CONNECT_S = 5.0  # timeout of connecting; a failure is also reported only after this time
TIMEOUT_S = 35.0  # the edge waits 30 s for the peer
LAST_S = 3.0  # timeout of sending the remaining data to the edge


@contextlib.asynccontextmanager
async def relayed(
    url: EdgeUrl, token: str, ticket: str, servers: SuppliedServers | None = None
) -> AsyncIterator[Connection]:
    """Connect to the peer through the relay at `url`; `servers` limits addresses from an edge (None: a trusted one).

    The edge of the session issued the `ticket`. Raises `PunchFailedError`.
    """
    websocket = await _join(url, token, ticket, servers)
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
        # Closing our end makes `_out` send the remaining data and return. The timeout is for a peer that does not read.
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


async def _join(url: EdgeUrl, token: str, ticket: str, servers: SuppliedServers | None) -> ClientConnection:
    started = time.monotonic()
    try:
        websocket = await _connect(url, servers)
    except NoConnectionError as error:
        await asyncio.sleep(started + CONNECT_S - time.monotonic())
        raise PunchFailedError("no_rendezvous", f"relay {url}: {error}") from None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            try:
                await websocket.send(encode(Join(token, ticket)))
                decode(await websocket.recv(), Joined)
            except BaseException:
                abort(websocket)
                raise
            return websocket
    except ConnectionClosed as closed:
        text = printable(closed.rcvd.reason) if closed.rcvd is not None else protocol_violation(closed)
        reason = text or "the connection was lost"
    except TimeoutError:
        reason = f"no peer within {TIMEOUT_S:g} s"
    except FrameError as error:
        reason = str(error)
    raise PunchFailedError("no_rendezvous", f"relay {url}: {reason}")


async def _connect(url: EdgeUrl, servers: SuppliedServers | None) -> ClientConnection:
    """Open the WebSocket. Raises `NoConnectionError` after at most `CONNECT_S`."""
    try:
        async with asyncio.timeout(CONNECT_S):
            address = await resolve(url)
    except TimeoutError:
        raise NoConnectionError(f"no answer within {CONNECT_S:g} s") from None
    except OSError as error:
        raise NoConnectionError(why(error)) from None
    if servers is not None and (refusal := servers.refuses_at(address)) is not None:
        raise NoConnectionError(f"{address}: {refusal}")
    websocket = await open_websocket(url, PATH, timeout_s=CONNECT_S, at=address)
    if servers is not None:
        servers.answered(address.ip)
    return websocket


async def _watch(websocket: ClientConnection) -> None:
    await until_unresponsive(websocket, PING_S, PING_S)
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
