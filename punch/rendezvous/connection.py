"""The client's side of the rendezvous: from a chosen local address, register at an edge and hear of the peer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from typing import Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import (
    ArgumentError,
    EdgeLostError,
    EdgeUnreachableError,
    FrameError,
    NoConnectionError,
    PunchFailedError,
    SignalError,
)
from punchlab.punch.frames import (
    Peer,
    Register,
    Welcome,
    parse_peer,
    parse_signal,
    parse_welcome,
    register_frame,
    signal_frame,
)
from punchlab.punch.net.closing import close_by_reset
from punchlab.punch.net.sockets import bound_socket, choose_local, die_with_the_path
from punchlab.punch.net.websocket import abort, open_websocket, protocol_violation
from punchlab.punch.reflexive import HEADER
from punchlab.punch.text import printable

CONNECT_TIMEOUT_S = 5.0
WELCOME_TIMEOUT_S = 10.0
_REFUSED = (1000, 1002, 1003, 1007, 1008, 1009)  # RFC 6455 section 7.4.1: what the edge has against us, and not itself


class Rendezvous:
    """A connection to an edge, from `local`. Made by `connect`; always `close` it."""

    url: EdgeUrl
    took_s: float
    """How long it took to be connected, in seconds."""

    def __init__(self, connection: ClientConnection, local: Endpoint) -> None:
        self.local = local
        self._connection = connection
        self.edge_ip = Endpoint.of(connection.remote_address).ip
        """The address of the edge that the connection leads to."""
        self._closing: asyncio.Task[None] | None = None
        self.trouble = ""
        """What keeps the peer from being heard of, if anything does, to be added to a sentence."""
        self.hint = ""
        """What may be wrong where no peer comes, to be added to a sentence."""

    @classmethod
    async def connect(cls, url: EdgeUrl, bind: Endpoint | None) -> Self:
        """Raises `ArgumentError` if `bind` cannot be used, `EdgeUnreachableError` if no edge answers."""
        begun = time.monotonic()
        made = cls(*await dial(url, bind))
        made.url, made.took_s = url, time.monotonic() - begun
        return made

    @property
    def ipv6(self) -> Endpoint | None:
        """Where the edge says that it listens on IPv6; see `punch.reflexive`."""
        response = self._connection.response
        told = None if response is None else response.headers.get(HEADER)
        try:
            return None if told is None else Endpoint.parse(told)
        except ArgumentError:
            return None

    async def register(self, register: Register) -> Welcome:
        """Take a role in a session. Raises `PunchFailedError`, an `EdgeLostError` if another edge may do better."""
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                await self._connection.send(register_frame(register))
                return parse_welcome(await self._connection.recv())
        except (ConnectionClosed, FrameError, TimeoutError) as error:
            raise _failure(error, "no welcome in time") from None

    async def peer(self, wait_s: float) -> Peer:
        """Wait for the peer. Raises as `register` does."""
        try:
            async with asyncio.timeout(wait_s):
                return await self.listen()
        except TimeoutError:
            raise PunchFailedError("no_rendezvous", f"no peer within {wait_s:g} s{self.trouble}{self.hint}") from None

    async def listen(self) -> Peer:
        """As `peer`, but wait as long as it takes."""
        try:
            return parse_peer(await self._connection.recv())
        except (ConnectionClosed, FrameError) as error:
            raise _failure(error, "") from None

    async def send_signal(self, data: str) -> None:
        """Say something to the peer, once it is known. Raises `SignalError`."""
        try:
            await self._connection.send(signal_frame(data))
        except ConnectionClosed as error:
            raise SignalError(_failure(error, "").reason) from None

    async def next_signal(self) -> str:
        """Wait for what the peer says, once it is known. Raises `SignalError`."""
        try:
            return parse_signal(await self._connection.recv())
        except (ConnectionClosed, FrameError) as error:
            raise SignalError(_failure(error, "").reason) from None

    async def leave(self) -> None:
        """Send the WebSocket close frame and the FIN now; the edge's answer is not waited for.

        The socket stays open until the edge has closed its side: closed at once, it would answer that with a RST.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._connection.close(1000, "punching"))
            await asyncio.sleep(0)  # let it write the frame
            with contextlib.suppress(OSError):  # the edge may have gone first
                transport = self._connection.transport
                if transport.can_write_eof():
                    transport.write_eof()
                else:  # TLS has no half-close, but TCP below it has
                    transport.get_extra_info("socket").shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """Leave, and see the connection closed (within a second or so)."""
        await self.leave()
        if self._closing is not None:
            await self._closing


async def dial(
    url: EdgeUrl, bind: Endpoint | None, *, own: bool = False, timeout_s: float = CONNECT_TIMEOUT_S
) -> tuple[ClientConnection, Endpoint]:
    """A connection to an edge, and the local address that it is from.

    With `own`, `bind` is an address that is ours already. Raises as `Rendezvous.connect` does.
    """

    def make(edge: Endpoint) -> socket.socket:
        sock = bound_socket(bind if own and bind is not None else choose_local(bind, edge))
        die_with_the_path(sock)
        # What fails must leave nothing that would keep the same addresses from being tried again.
        close_by_reset(sock, True)
        return sock

    try:
        connection = await open_websocket(url, "/", timeout_s=timeout_s, make=make)
    except NoConnectionError as error:
        if error.number == errno.EADDRNOTAVAIL and bind is not None and not own:
            expected = "a port that has had no connection to this edge in the last minute"
            raise ArgumentError("bind", str(bind), expected) from None
        raise EdgeUnreachableError(str(url), str(error)) from None
    try:
        sock = connection.transport.get_extra_info("socket")
        local = Endpoint.of(sock.getsockname())
        close_by_reset(sock, False)
    except OSError:  # it has ended already
        abort(connection)
        raise EdgeUnreachableError(str(url), "it ended the connection at once") from None
    return connection, local


def _failure(error: Exception, late: str) -> PunchFailedError:
    if not isinstance(error, ConnectionClosed):
        told = f"the edge sent a bad frame: {error}" if isinstance(error, FrameError) else late
        return PunchFailedError("no_rendezvous", told)
    reason = printable(error.rcvd.reason) if error.rcvd is not None else ""
    told = f"the edge ended the session: {reason}" if reason else "the connection to the edge was lost"
    if error.rcvd is not None and error.rcvd.code in _REFUSED:
        return PunchFailedError("no_rendezvous", told)
    if (violation := protocol_violation(error)) is not None:
        return PunchFailedError("no_rendezvous", f"the edge sent a bad frame: {violation}")
    return EdgeLostError("no_rendezvous", told)
