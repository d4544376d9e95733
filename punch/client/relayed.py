"""The client's side of a relay: a socket whose other end is carried to the peer by an edge.

A WebSocket to the edge is joined to one end of a socket pair, and the caller gets the other end: authentication,
encryption and files are the same as over a punched connection, and know of no relay.

The address of the relay is what an edge says. So it has to be one that an edge may name (`punch.net.reach`), it is
tried a few times in a session, and a relay that cannot be reached takes as long as one that does not answer: the edge
does not learn which ports of a third party are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import FrameError, NoConnectionError, PunchFailedError
from punchlab.punch.net.websocket import abort, open_websocket, protocol_violation, resolve, until_deaf, why
from punchlab.punch.punching.named import Named
from punchlab.punch.punching.puncher import Connection
from punchlab.punch.relay import MAX_MESSAGE, PATH, parse_joined, relay_frame
from punchlab.punch.text import printable

PING_S = 10.0  # a dead relay is noticed within two of these
CONNECT_S = 5.0  # a relay that has not answered by then is not there, nor before
TIMEOUT_S = 35.0  # the edge waits 30 s for the peer
LAST_S = 3.0  # how long an end waits for what is still on its way to the edge


@contextlib.asynccontextmanager
async def relayed(url: EdgeUrl, token: str, ticket: str, named: Named | None = None) -> AsyncIterator[Connection]:
    """A connection to the peer by way of the edge at `url`, if that is `named`, or None for one that is trusted.

    The edge of the session gave out the `ticket`. Raises `PunchFailedError`.
    """
    websocket = await _join(url, token, ticket, named)
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


async def _join(url: EdgeUrl, token: str, ticket: str, named: Named | None) -> ClientConnection:
    begun = time.monotonic()
    try:
        websocket = await _connect(url, named)
    except NoConnectionError as error:
        await asyncio.sleep(begun + CONNECT_S - time.monotonic())
        raise PunchFailedError("no_rendezvous", f"relay {url}: {error}") from None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            try:
                await websocket.send(relay_frame(token, ticket))
                parse_joined(await websocket.recv())
            except BaseException:
                abort(websocket)
                raise
            return websocket
    except ConnectionClosed as closed:
        told = printable(closed.rcvd.reason) if closed.rcvd is not None else protocol_violation(closed)
        reason = told or "the connection was lost"
    except TimeoutError:
        reason = f"no peer within {TIMEOUT_S:g} s"
    except FrameError as error:
        reason = str(error)
    raise PunchFailedError("no_rendezvous", f"relay {url}: {reason}")


async def _connect(url: EdgeUrl, named: Named | None) -> ClientConnection:
    """Raises `NoConnectionError`, after `CONNECT_S` at most."""
    try:
        async with asyncio.timeout(CONNECT_S):
            address = await resolve(url)
    except TimeoutError:
        raise NoConnectionError(f"no answer within {CONNECT_S:g} s") from None
    except OSError as error:
        raise NoConnectionError(why(error)) from None
    if named is not None and (refusal := named.refuses_at(address)) is not None:
        raise NoConnectionError(f"{address}: {refusal}")
    websocket = await open_websocket(url, PATH, timeout_s=CONNECT_S, at=address)
    if named is not None:
        named.answered(address.ip)
    return websocket


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
