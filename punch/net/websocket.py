"""WebSocket connections over sockets of our own making, so that their local addresses are ours to choose.

Whoever is at the other end is not trusted. What may come of a connection is the same for all callers, and is decided
here:

- Opening one fails by `NoConnectionError` alone, whatever the other end answers and whatever a library raises about it.
  Redirections are never followed: they would let a server choose whom its client connects to, and whether by TLS.
- Afterwards `ConnectionClosed` is all that receiving and sending raise; `protocol_violation` says what was wrong.
- `Contained` bounds what the other end can make this process hold, and keeps exceptions of the library from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Event, State

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import NoConnectionError, PunchError
from punchlab.punch.frames import MAX_FRAME
from punchlab.punch.net.closing import abort_transport, close_by_reset
from punchlab.punch.text import LONGEST_VALUE, printable

MAX_UNSENT = 65_536
"""Bytes that may wait until the other end reads them. Pongs are the only ones that nobody waits for."""

MAX_FRAGMENTS = 64
"""Frames of one message. Each takes many times its bytes, and may have none; our own messages are one frame."""

_FAREWELL_S = 1.0
_VIOLATIONS = (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG, CloseCode.POLICY_VIOLATION)
_REFUSALS = (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class Contained(Connection):
    """A connection by which the other end can do no more to this process than end the connection."""

    overrun: str | None = None
    """Why it was ended by us here, for the log."""
    most_unsent = MAX_UNSENT
    _fragments = 0

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        # A read may bring a hundred thousand frames; the first ones decide whether the others are looked at.
        for start in range(0, len(data), MAX_FRAME):
            if self.overrun is not None or self.transport.is_closing():
                return
            try:
                super().data_received(data[start : start + MAX_FRAME])
            except Exception:  # a fault of the library that these bytes have found
                abort_transport(self.transport)
            if self.transport.get_write_buffer_size() > self.most_unsent:
                self.cut("does not read what it is sent")

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio's own type, which websockets narrows
        """No more bytes will come."""
        try:
            super().eof_received()
        except Exception:
            abort_transport(self.transport)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """There is no connection any more."""
        try:
            super().connection_lost(exc)
        except Exception:  # those who wait for the end would wait for ever
            self.protocol.state = State.CLOSED
            super().connection_lost(exc)

    def process_event(self, event: Event) -> None:
        """A frame has come, or the request, or the response to it."""
        if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._fragments = 0 if event.fin else self._fragments + 1
            if self._fragments > MAX_FRAGMENTS:
                self.fail("sent too many fragments")
                return
        super().process_event(event)

    def fail(self, reason: str) -> None:
        """Say why, take no further frame, and end the connection soon."""
        if self.overrun is None:
            self.overrun = reason
            self.protocol.fail(CloseCode.POLICY_VIOLATION, reason)
            self.send_data()
            self.transport.pause_reading()
            self.loop.call_later(_FAREWELL_S, abort_transport, self.transport)

    def cut(self, reason: str) -> None:
        """End the connection at once, and drop what is not yet sent."""
        self.overrun = self.overrun or reason
        abort_transport(self.transport)


class _Outgoing(Contained, ClientConnection):
    """A connection that we opened."""

    async def handshake(self, *how: Any, **named: Any) -> None:
        """Send the request and judge the response. Raises `NoConnectionError`."""
        try:
            await super().handshake(*how, **named)
        except Exception as error:
            raise _unusable(error) from error


def plain_socket(toward: Endpoint) -> socket.socket:
    """A socket for a connection to `toward`, from wherever the kernel likes."""
    sock = socket.socket(toward.family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def open_websocket(
    url: EdgeUrl,
    path: str,
    *,
    timeout_s: float,
    families: tuple[socket.AddressFamily, ...] = (),
    at: Endpoint | None = None,
    make: Callable[[Endpoint], socket.socket] = plain_socket,
) -> ClientConnection:
    """A WebSocket at `path` of an edge, over the non-blocking socket that `make` makes for the address of the edge.

    That is `at`, or else what `resolve` finds. Raises `NoConnectionError`, after `timeout_s` seconds at most, and
    those of our own errors that `make` raises. No proxy of the environment is used.
    """
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(timeout_s):
            address = at or await resolve(url, *families)
            sock = make(address)
            await asyncio.get_running_loop().sock_connect(sock, address)
            return await connect(
                f"{url}{path}",
                sock=sock,
                max_size=MAX_FRAME,
                compression=None,
                open_timeout=None,
                ping_interval=None,
                close_timeout=1,
                user_agent_header=None,
                create_connection=_Outgoing,
                logger=_quiet(),
            )
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, PunchError) or not isinstance(error, Exception):
            raise
        if isinstance(error, TimeoutError) and error.errno is None:
            raise NoConnectionError(f"no answer within {timeout_s:g} s") from None
        if isinstance(error, OSError):
            raise NoConnectionError(why(error), number=error.errno) from None
        raise _unusable(error) from error


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
    except UnicodeError:  # no name of a host (RFC 1123)
        raise OSError(f"{url.host[:LONGEST_VALUE]} is not the name of a host") from None
    except OSError:
        if not others:
            raise
        return await resolve(url, *others)
    return Endpoint.of(found[0][4])


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


def protocol_violation(closed: ConnectionClosed) -> str | None:
    """What the other end did against RFC 6455, or against our limits, if that is why the connection was ended by us."""
    if closed.sent is None or closed.rcvd_then_sent or closed.sent.code not in _VIOLATIONS:
        return None
    return printable(closed.sent.reason, LONGEST_VALUE) or "a frame that cannot be read"


def abort(connection: Connection) -> None:
    """End a connection at once, by a RST: nothing of it stays that would keep its addresses from being used again."""
    sock = connection.transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError):  # it has ended already
            close_by_reset(sock, True)
    abort_transport(connection.transport)


def why(error: OSError) -> str:
    """Why there is no connection, as the kernel says it.

    asyncio puts words of its own into `strerror`; errors of name resolution are negative.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted ({printable(str(error.verify_message))})"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with it ({error.reason})"
    return (
        os.strerror(error.errno)
        if error.errno and error.errno > 0
        else error.strerror or str(error) or "closed by the other end"
    )


def _unusable(error: BaseException) -> NoConnectionError:
    """What is wrong with an answer to our request."""
    status = error.response.status_code if isinstance(error, InvalidStatus) else None
    if isinstance(error, InvalidStatus) and (told := _refusal(error)) is not None:
        return NoConnectionError(f"it refuses: {told}", status=status)
    if status is not None:
        cause = f"HTTP status {status}" + (", a redirection, which is not followed" if 300 <= status < 400 else "")
    else:
        error = error.__cause__ if isinstance(error, InvalidMessage) and error.__cause__ is not None else error
        cause = printable(str(error), LONGEST_VALUE) or type(error).__name__
    return NoConnectionError(f"it does not answer as an edge ({cause})", status=status)


def _refusal(error: InvalidStatus) -> str | None:
    """The one line in which an edge says why it takes no client, with the statuses that it uses for that."""
    if error.response.status_code not in _REFUSALS:
        return None
    text = bytes(error.response.body or b"").decode(errors="replace").strip()
    return printable(text) if text and len(text) <= LONGEST_VALUE and "\n" not in text else None


def _quiet() -> logging.Logger:
    """A log that nothing comes of: what the library says about a connection, it raises as well."""
    logger = logging.getLogger("punchlab.punch.net.websocket")
    logger.disabled = True
    return logger
