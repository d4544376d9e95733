"""WebSocket connections of an edge, with bounds on the memory and the work that a client can cause.

The WebSocket library answers pings by itself, so a client that sends many pings and reads nothing would make the
answers pile up. The library also counts no bytes: one frame may arrive as thousands of empty fragments. Both are
checked here, below the frames. One read may return tens of thousands of frames. Each frame needs many times its size in
memory, and processing all of them at once would delay the other clients. A read is therefore processed in slices, and
only while a reader consumes the messages.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from websockets.asyncio.server import Server, ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State
from websockets.server import ServerProtocol

from punchlab.punch.edge.limits import Admission, RateLimiter
from punchlab.punch.frames import MAX_FRAME
from punchlab.punch.net.websocket import Contained

POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1
MAX_REQUEST = 8_192  # bytes of the request and its header fields; browsers would send a tenth of that
BYTE_RATE = 16_384.0  # bytes per second that a client may send, in bursts of up to ten seconds' worth
ODD_FRAME_RATE = 5.0
"""Frames per second, on a throttled connection, that are no complete message: pings, pongs and fragments. A `punch`
client sends hardly any, and no other rate limit covers them."""

_MESSAGES = (Opcode.TEXT, Opcode.BINARY)
_SLICE = MAX_FRAME
_END_OF_REQUEST = b"\r\n\r\n"
_BURST_S = 10.0
MAX_OUTBOX = 64  # frames queued for a client
WRITE_TIMEOUT_S = 20.0
WRITE_LIMIT = 8_192  # bytes buffered for a client before the next send blocks

PING_S = 20.0  # a client that does not answer a ping within the same time is disconnected
OPEN_TIMEOUT_S = 10.0  # limit for the HTTP request


class EdgeConnection(Contained, ServerConnection):
    """A WebSocket connection of an edge.

    A `trusted` connection (a link to another edge) has no rate limit. A `throttled` connection has no byte rate here,
    because its reader limits the rate.
    """

    trusted = False
    throttled = False
    most_unsent = 16_384
    _ended = False
    _unprocessed = b""
    _requested = 0
    _last = _early = b""
    _full_at = 0.0
    _odd_full_at = 0.0
    _admission: Admission | None = None

    def __init__(self, protocol: ServerProtocol, server: Server, *, limiter: RateLimiter, **options: Any) -> None:
        super().__init__(protocol, server, **options)
        self._limiter = limiter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set up a new connection, after the TLS handshake if TLS is served."""
        super().connection_made(transport)
        self.recv_messages.resume = self._resume_reading
        self._admission = self._limiter.admissions.get(transport.get_extra_info("socket").fileno())
        if self._admission is not None:
            self._admission.end = self.transport.abort

    def settle(self) -> None:
        """Mark the client as accepted, so that the connection is no longer pending."""
        if self._admission is not None:
            self._admission.settle()

    def data_received(self, data: bytes) -> None:
        """Process the bytes of one read."""
        if self.response is None:
            data = self._until_answered(data)
        if self.trusted:
            super().data_received(data)
        elif data:
            self._take_slices(data)

    def _until_answered(self, data: bytes) -> bytes:
        """Return `data` up to the end of the request, and keep the rest until the request is answered.

        The library would parse a second request as a frame and fail to answer the first one.
        """
        if self.request is not None:
            self._early += data
            return b""
        seen = self._last + data
        end = seen.find(_END_OF_REQUEST)
        if end < 0:
            self._last = seen[1 - len(_END_OF_REQUEST) :]
            return data
        size = end + len(_END_OF_REQUEST) - len(self._last)
        self._early = data[size:]
        return data[:size]

    def _take_slices(self, data: bytes) -> None:
        for start in range(0, len(data), _SLICE):
            if self.transport.is_closing():
                return
            if self.recv_messages.paused:
                self._unprocessed = data[start:]
                return
            self._take(data[start : start + _SLICE])

    def _resume_reading(self) -> None:
        """Process the bytes that have already been read, then read on if there is still room for messages."""
        data, self._unprocessed = self._unprocessed, b""
        self._take_slices(data)
        if not self.recv_messages.paused:
            self.transport.resume_reading()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio's own type, which websockets narrows
        """Keep the connection open for the answer if the client closes its sending side after the request."""
        over_tls = self.transport.get_extra_info("ssl_object") is not None  # TLS has no half-close
        if self.request is None or self.response is not None or over_tls:
            super().eof_received()
            return None
        self._ended = True
        return True

    async def handshake(self, *how: Any, **named: Any) -> None:
        """Answer the request."""
        try:
            await super().handshake(*how, **named)
        finally:
            early, self._early = self._early, b""
        if early and self.state is State.OPEN:  # after any answer except 101 nothing more is read
            self.loop.call_soon(self._take_slices, early)  # once a reader consumes the messages
        if self._ended:
            super().eof_received()
            self.transport.close()

    def _take(self, data: bytes) -> None:
        if not self.throttled:
            now = time.monotonic()
            self._full_at = max(self._full_at, now) + len(data) / BYTE_RATE
            if self._full_at - now > _BURST_S:
                self.fail("sent too many bytes")
        if self.request is None:
            self._requested += len(data)
            if self._requested > MAX_REQUEST:
                self.cut("sent a request that is too long")
                return
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Process a frame or the request."""
        if self.throttled and isinstance(event, Frame) and (event.opcode not in _MESSAGES or not event.fin):
            now = time.monotonic()
            self._odd_full_at = max(self._odd_full_at, now) + 1 / ODD_FRAME_RATE
            if self._odd_full_at - now > _BURST_S:
                self.fail("sent too many pings or fragments")
        super().process_event(event)

    async def send_or_cut(self, frame: str) -> None:
        """Send a frame, and close the connection if the other end does not read it within `WRITE_TIMEOUT_S`."""
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self.send(frame)
        except TimeoutError:
            self.cut("does not read the data sent to it")


class Outbox(asyncio.Queue[Any]):
    """The queue of frames for one client. A client whose queue is full is disconnected; `put_nowait` never raises."""

    def __init__(self, connection: EdgeConnection) -> None:
        super().__init__(MAX_OUTBOX)
        self._connection = connection

    def put_nowait(self, item: Any) -> None:
        """Append `item`, or disconnect the client if the queue is full."""
        if self.full():
            self._connection.cut("does not read the data sent to it")
        else:
            super().put_nowait(item)


SETTINGS: dict[str, Any] = {
    "max_size": MAX_FRAME,
    "max_queue": 4,
    "write_limit": WRITE_LIMIT,
    "compression": None,
    "open_timeout": OPEN_TIMEOUT_S,
    "close_timeout": 1,
    "ping_interval": PING_S,
    "ping_timeout": PING_S,
    "server_header": None,
}
"""Arguments of `websockets.serve` for these connections."""
