"""WebSocket connections over sockets that this project creates, so that it chooses their local addresses.

The other end is not trusted. This module limits for all callers what it can do:

- Opening a connection raises only `NoConnectionError`, also for errors of the library.
  Redirections are never followed, because they would let a server choose the address and the use of TLS.
- After that, receiving and sending raise only `ConnectionClosed`; `protocol_violation` returns the violation.
- `Contained` limits the memory that the other end can use, and keeps exceptions of the library out of the log.
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
"""Maximum bytes waiting to be sent. Only pongs are sent without waiting for the other end to read."""

MAX_FRAGMENTS = 64
"""Maximum frames of one message. Each uses many times its size, and may be empty; our own messages have one frame."""

_FAREWELL_S = 1.0
_VIOLATIONS = (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG, CloseCode.POLICY_VIOLATION)
_REFUSALS = (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class Contained(Connection):
    """A connection on which the other end can do no more harm to this process than to end the connection."""

    overrun: str | None = None
    """Why this process ended the connection, for the log."""
    most_unsent = MAX_UNSENT
    _fragments = 0

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        # A read may contain a hundred thousand frames, so process it in parts and stop after a violation.
        for start in range(0, len(data), MAX_FRAME):
            if self.overrun is not None or self.transport.is_closing():
                return
            try:
                super().data_received(data[start : start + MAX_FRAME])
            except Exception:  # a bug of the library that these bytes trigger
                abort_transport(self.transport)
            if self.transport.get_write_buffer_size() > self.most_unsent:
                self.cut("does not read the data sent to it")

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio's own type, which websockets narrows
        """Handle the end of the received data."""
        try:
            super().eof_received()
        except Exception:
            abort_transport(self.transport)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection."""
        try:
            super().connection_lost(exc)
        except Exception:  # otherwise tasks that wait for the end would wait forever
            self.protocol.state = State.CLOSED
            super().connection_lost(exc)

    def process_event(self, event: Event) -> None:
        """Handle a frame, a request, or the response to it."""
        if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._fragments = 0 if event.fin else self._fragments + 1
            if self._fragments > MAX_FRAGMENTS:
                self.fail("sent too many fragments")
                return
        super().process_event(event)

    def fail(self, reason: str) -> None:
        """Send the reason, ignore further frames, and end the connection soon."""
        if self.overrun is None:
            self.overrun = reason
            self.protocol.fail(CloseCode.POLICY_VIOLATION, reason)
            self.send_data()
            self.transport.pause_reading()
            self.loop.call_later(_FAREWELL_S, abort_transport, self.transport)

    def cut(self, reason: str) -> None:
        """End the connection at once and discard unsent data."""
        self.overrun = self.overrun or reason
        abort_transport(self.transport)


class _Outgoing(Contained, ClientConnection):
    """A connection that this process opened."""

    async def handshake(self, *how: Any, **named: Any) -> None:
        """Send the request and check the response. Raises `NoConnectionError`."""
        try:
            await super().handshake(*how, **named)
        except Exception as error:
            raise _unusable(error) from error


def plain_socket(toward: Endpoint) -> socket.socket:
    """Return a socket for a connection to `toward`, from any local address."""
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
    """Open a WebSocket at `path` of an edge, over the non-blocking socket that `make` returns for the edge's address.

    The address is `at`, or the result of `resolve`. Raises `NoConnectionError` after at most `timeout_s` seconds, and
    this project's errors that `make` raises. Proxies of the environment are ignored.
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
    """Return the address of an edge: IPv4, or IPv6 if the name has no IPv4 address.

    `families` restricts the result. Raises `OSError` if there is no address.
    """
    loop = asyncio.get_running_loop()
    first, *others = families or (socket.AF_INET, socket.AF_INET6)
    if ":" in url.host and socket.AF_INET6 in others:
        first, others = socket.AF_INET6, []
    try:
        found = await loop.getaddrinfo(url.host, url.port, family=first, type=socket.SOCK_STREAM)
    except UnicodeError:  # not a host name (RFC 1123)
        raise OSError(f"{url.host[:LONGEST_VALUE]} is not a host name") from None
    except OSError:
        if not others:
            raise
        return await resolve(url, *others)
    return Endpoint.of(found[0][4])


async def until_unresponsive(connection: Connection, interval_s: float, timeout_s: float) -> None:
    """Ping every `interval_s`; return when a ping is not answered within `timeout_s`, or the connection has ended.

    The kernel acknowledges data for a process that hangs; only the process itself answers a ping.
    """
    try:
        while True:
            await asyncio.sleep(interval_s)
            async with asyncio.timeout(timeout_s):
                await (await connection.ping())
    except (ConnectionClosed, TimeoutError):
        return


def protocol_violation(closed: ConnectionClosed) -> str | None:
    """Return how the other end violated RFC 6455 or our limits, if that is why this process ended the connection."""
    if closed.sent is None or closed.rcvd_then_sent or closed.sent.code not in _VIOLATIONS:
        return None
    return printable(closed.sent.reason, LONGEST_VALUE) or "an invalid frame"


def abort(connection: Connection) -> None:
    """End a connection at once with a RST, so that its addresses can be used again."""
    sock = connection.transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError):  # it has already ended
            close_by_reset(sock, True)
    abort_transport(connection.transport)


def why(error: OSError) -> str:
    """Return why there is no connection, in the kernel's words.

    asyncio replaces `strerror` by its own text; errors of name resolution have negative numbers.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({printable(str(error.verify_message))})"
    if isinstance(error, ssl.SSLError):
        return f"TLS with it failed ({error.reason})"
    return (
        os.strerror(error.errno)
        if error.errno and error.errno > 0
        else error.strerror or str(error) or "closed by the other end"
    )


def _unusable(error: BaseException) -> NoConnectionError:
    """Return the error for an invalid response to our request."""
    status = error.response.status_code if isinstance(error, InvalidStatus) else None
    if isinstance(error, InvalidStatus) and (text := _refusal(error)) is not None:
        return NoConnectionError(f"it refuses: {text}", status=status)
    if status is not None:
        cause = f"HTTP status {status}" + (", a redirection, which is not followed" if 300 <= status < 400 else "")
    else:
        error = error.__cause__ if isinstance(error, InvalidMessage) and error.__cause__ is not None else error
        cause = printable(str(error), LONGEST_VALUE) or type(error).__name__
    return NoConnectionError(f"it does not answer as an edge ({cause})", status=status)


def _refusal(error: InvalidStatus) -> str | None:
    """Return the reason in the response of an edge that rejects a client, if the status indicates a rejection."""
    if error.response.status_code not in _REFUSALS:
        return None
    text = bytes(error.response.body or b"").decode(errors="replace").strip()
    return printable(text) if text and len(text) <= LONGEST_VALUE and "\n" not in text else None


def _quiet() -> logging.Logger:
    """Return a disabled logger: the library also raises the errors that it logs."""
    logger = logging.getLogger("punchlab.punch.net.websocket")
    logger.disabled = True
    return logger
