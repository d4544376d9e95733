"""The client's side of the rendezvous: register at an edge and receive the peer's contact."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from typing import Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from punchlab.punch.codec import decode, encode
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
from punchlab.punch.frames import Peer, PeerSignal, Register, Welcome
from punchlab.punch.net.closing import close_by_reset
from punchlab.punch.net.sockets import bound_socket, choose_local, detect_dead_path
from punchlab.punch.net.websocket import abort, open_websocket, protocol_violation
from punchlab.punch.reflexive import HEADER
from punchlab.punch.text import printable

CONNECT_TIMEOUT_S = 5.0
WELCOME_TIMEOUT_S = 10.0
_REFUSED = (1000, 1002, 1003, 1007, 1008, 1009)  # RFC 6455 section 7.4.1: codes that reject this client


class Rendezvous:
    """A connection to an edge, from `local`. Made by `connect`; always `close` it."""

    url: EdgeUrl
    took_s: float
    """Duration of connecting, in seconds."""

    def __init__(self, connection: ClientConnection, local: Endpoint) -> None:
        self.local = local
        self._connection = connection
        self.edge_ip = Endpoint.of(connection.remote_address).ip
        """The address of the edge at the other end of the connection."""
        self._closing: asyncio.Task[None] | None = None
        self.trouble = ""
        """Why the peer's contact may be delayed; appended to an error."""
        self.hint = ""
        """What the user could check if no peer appears; appended to an error."""

    @classmethod
    async def connect(cls, url: EdgeUrl, bind: Endpoint | None) -> Self:
        """Connect. Raises `ArgumentError` if `bind` is not usable, `EdgeUnreachableError` if no edge answers."""
        started = time.monotonic()
        made = cls(*await dial(url, bind))
        made.url, made.took_s = url, time.monotonic() - started
        return made

    @property
    def ipv6(self) -> Endpoint | None:
        """The IPv6 endpoint that the edge announces; see `punch.reflexive`."""
        response = self._connection.response
        value = None if response is None else response.headers.get(HEADER)
        try:
            return None if value is None else Endpoint.parse(value)
        except ArgumentError:
            return None

    async def register(self, register: Register) -> Welcome:
        """Register in a session. Raises `PunchFailedError`; as `EdgeLostError` if another edge may succeed."""
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                await self._connection.send(encode(register))
                return decode(await self._connection.recv(), Welcome)
        except (ConnectionClosed, FrameError, TimeoutError) as error:
            raise _failure(error, "the edge did not answer the registration in time") from None

    async def peer(self, wait_s: float) -> Peer:
        """Wait for the peer's contact. Raises as `register` does."""
        try:
            async with asyncio.timeout(wait_s):
                return await self.listen()
        except TimeoutError:
            raise PunchFailedError("no_rendezvous", f"no peer within {wait_s:g} s{self.trouble}{self.hint}") from None

    async def listen(self) -> Peer:
        """Wait for the peer's contact without a timeout. Raises as `register` does."""
        try:
            return decode(await self._connection.recv(), Peer)
        except (ConnectionClosed, FrameError) as error:
            raise _failure(error, "") from None

    async def send_signal(self, data: str) -> None:
        """Send a signal to the peer, after receiving its contact. Raises `SignalError`."""
        try:
            await self._connection.send(encode(PeerSignal(data)))
        except ConnectionClosed as error:
            raise SignalError(_failure(error, "").reason) from None

    async def next_signal(self) -> str:
        """Wait for a signal of the peer, after receiving its contact. Raises `SignalError`."""
        try:
            return decode(await self._connection.recv(), PeerSignal).data
        except (ConnectionClosed, FrameError) as error:
            raise SignalError(_failure(error, "").reason) from None

    async def leave(self) -> None:
        """Send the WebSocket close frame and the FIN now, without waiting for the edge's answer.

        The socket stays open until the edge has closed its side, because a closed socket would answer that with a RST.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._connection.close(1000, "punching"))
            await asyncio.sleep(0)  # let the task write the frame
            with contextlib.suppress(OSError):  # the edge may have closed the connection first
                transport = self._connection.transport
                if transport.can_write_eof():
                    transport.write_eof()
                else:  # TLS has no half-close, but the TCP connection has
                    transport.get_extra_info("socket").shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """Leave, and wait until the connection is closed (about a second at most)."""
        await self.leave()
        if self._closing is not None:
            await self._closing


async def dial(
    url: EdgeUrl, bind: Endpoint | None, *, own: bool = False, timeout_s: float = CONNECT_TIMEOUT_S
) -> tuple[ClientConnection, Endpoint]:
    """Connect to an edge; return the connection and its local address.

    With `own`, `bind` is an address that this client already uses. Raises as `Rendezvous.connect` does.
    """

    def make(edge: Endpoint) -> socket.socket:
        sock = bound_socket(bind if own and bind is not None else choose_local(bind, edge))
        detect_dead_path(sock)
        # A RST at the end of a failed attempt leaves no state that would block the same addresses.
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
    except OSError:  # the connection has already ended
        abort(connection)
        raise EdgeUnreachableError(str(url), "it closed the connection immediately") from None
    return connection, local


def _failure(error: Exception, late: str) -> PunchFailedError:
    if not isinstance(error, ConnectionClosed):
        text = f"the edge sent an invalid frame: {error}" if isinstance(error, FrameError) else late
        return PunchFailedError("no_rendezvous", text)
    reason = printable(error.rcvd.reason) if error.rcvd is not None else ""
    text = f"the edge ended the session: {reason}" if reason else "the connection to the edge was lost"
    if error.rcvd is not None and error.rcvd.code in _REFUSED:
        return PunchFailedError("no_rendezvous", text)
    if (violation := protocol_violation(error)) is not None:
        return PunchFailedError("no_rendezvous", f"the edge sent an invalid frame: {violation}")
    return EdgeLostError("no_rendezvous", text)
