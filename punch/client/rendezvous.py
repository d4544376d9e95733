"""The client's side of the rendezvous: from a chosen local address, register at an edge and hear of the peer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from typing import Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from punch.client.sockets import bound_socket, choose_local, die_with_the_path
from punch.endpoint import EdgeUrl, Endpoint
from punch.errors import EdgeUnreachableError, FrameError, InputError, PunchFailedError
from punch.frames import Peer, Register, Welcome, parse_peer, parse_welcome, printable, register_frame
from punch.websocket import open_websocket, resolve

CONNECT_TIMEOUT_S = 5.0
WELCOME_TIMEOUT_S = 10.0


class Rendezvous:
    """A connection to an edge, from `local`. Made by `connect`; always `close` it."""

    def __init__(self, connection: ClientConnection, local: Endpoint) -> None:
        self.local = local
        self._connection = connection
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, url: EdgeUrl, bind: Endpoint | None) -> Rendezvous:
        """Raises `InputError` if `bind` cannot be used, `EdgeUnreachableError` if no edge answers."""
        sock: socket.socket | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                edge = await resolve(url)
                local = choose_local(bind, edge)
                sock = bound_socket(local)
                die_with_the_path(sock)
                await asyncio.get_running_loop().sock_connect(sock, edge)
                return cls(await open_websocket(sock, url, "/"), local)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL and bind is not None:
                expected = "a port that has had no connection to this edge in the last minute"
                raise InputError("bind", str(bind), expected) from None
            if isinstance(error, TimeoutError):
                raise EdgeUnreachableError(str(url), f"no answer within {CONNECT_TIMEOUT_S:g} s") from None
            if isinstance(error, OSError):
                raise EdgeUnreachableError(str(url), _told(error)) from None
            if isinstance(error, WebSocketException | EOFError):
                cause = f"it does not answer as an edge ({printable(str(error))})"
                raise EdgeUnreachableError(str(url), cause) from None
            raise

    async def register(self, register: Register) -> Welcome:
        """Take a role in a session. Raises `PunchFailedError`."""
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                await self._connection.send(register_frame(register))
                return parse_welcome(await self._connection.recv())
        except (ConnectionClosed, FrameError, TimeoutError) as error:
            raise PunchFailedError("no_rendezvous", _why(error, "no welcome in time")) from None

    async def peer(self, wait_s: float) -> Peer:
        """Wait for the peer. Raises `PunchFailedError`."""
        try:
            async with asyncio.timeout(wait_s):
                return parse_peer(await self._connection.recv())
        except (ConnectionClosed, FrameError, TimeoutError) as error:
            raise PunchFailedError("no_rendezvous", _why(error, f"no peer within {wait_s:g} s")) from None

    async def leave(self) -> None:
        """Send the WebSocket close frame and the FIN now; the edge's answer is not waited for.

        The socket stays open until the edge has closed its side: closed at once, it would answer that with a RST.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._connection.close(1000, "punching"))
            await asyncio.sleep(0)  # let it write the frame
            with contextlib.suppress(OSError):  # the edge may have gone first
                self._connection.transport.write_eof()

    async def close(self) -> None:
        """Leave, and see the connection closed (within a second or so)."""
        await self.leave()
        if self._closing is not None:
            await self._closing


def _told(error: OSError) -> str:
    """What the kernel says; asyncio puts words of its own into `strerror`. (Errors of name resolution are negative.)"""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


def _why(error: Exception, late: str) -> str:
    if isinstance(error, ConnectionClosed):
        reason = printable(error.rcvd.reason) if error.rcvd is not None else ""
        return f"the edge ended the session: {reason}" if reason else "the connection to the edge was lost"
    return f"the edge sent a bad frame: {error}" if isinstance(error, FrameError) else late


class Strategy(Protocol):
    """When to leave the rendezvous, given that its connection has the local address to punch from."""

    async def before_punch(self, rendezvous: Rendezvous) -> bool:
        """Called once the peer is known; whether the rendezvous has been left."""


class Reuse:
    """Leave first: the FIN is out before the first SYN, and the local address is the punch's alone."""

    async def before_punch(self, rendezvous: Rendezvous) -> bool:
        """See `Strategy`."""
        await rendezvous.leave()
        return True


class Keep:
    """Stay until the tunnel is agreed: NATs that drop all of a port's mappings with one connection stay open."""

    async def before_punch(self, rendezvous: Rendezvous) -> bool:  # noqa: ARG002 (the interface's names)
        """See `Strategy`."""
        return False


STRATEGIES: dict[str, type[Reuse | Keep]] = {"reuse": Reuse, "keep": Keep}
