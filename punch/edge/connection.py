"""One connection of an edge, with bounds on what it can make the edge hold for it.

The WebSocket layer answers pings by itself: a client that sends many and reads nothing would have the answers pile up.
And it counts no bytes: a frame may come as thousands of empty fragments. Both are seen here, below the frames. A read
may bring tens of thousands of frames, which would hold everybody else up, and each of which takes many times its bytes:
so it is taken in slices, as long as somebody reads them.
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
BYTE_RATE = 16_384.0  # bytes a second that a client may send, with ten seconds' worth at once
ODD_FRAME_RATE = 5.0
"""Frames a second, of a throttled connection, that are no whole message: pings, pongs and fragments. Our clients hardly
send any, and no reader sees to the rate of these."""

_MESSAGES = (Opcode.TEXT, Opcode.BINARY)
_SLICE = MAX_FRAME
_END_OF_REQUEST = b"\r\n\r\n"
_BURST_S = 10.0
MAX_OUTBOX = 64  # frames that wait to be sent to a client
WRITE_TIMEOUT_S = 20.0
WRITE_LIMIT = 8_192  # bytes that wait for a client before the next frame has to wait as well

PING_S = 20.0  # a client that answers no ping for as long again is gone
OPEN_TIMEOUT_S = 10.0  # for the request


class EdgeConnection(Contained, ServerConnection):
    """A WebSocket connection. `trusted` ones (to other endpoints) may send as much as they like.

    Those that are `throttled` may send as many bytes as are read; whoever reads them sees to the rate.
    """

    trusted = False
    throttled = False
    most_unsent = 16_384
    _ended = False
    _untaken = b""
    _requested = 0
    _last = _early = b""
    _full_at = 0.0
    _odd_full_at = 0.0
    _admission: Admission | None = None

    def __init__(self, protocol: ServerProtocol, server: Server, *, gate: RateLimiter, **options: Any) -> None:
        super().__init__(protocol, server, **options)
        self._gate = gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection, with TLS if that is served."""
        super().connection_made(transport)
        self.recv_messages.resume = self._go_on
        self._admission = self._gate.admissions.get(transport.get_extra_info("socket").fileno())
        if self._admission is not None:
            self._admission.end = self.transport.abort

    def settle(self) -> None:
        """The client is accepted for what it has come for: the connection is no longer among those that are pending."""
        if self._admission is not None:
            self._admission.settle()

    def data_received(self, data: bytes) -> None:
        """Bytes have come, of at most one read."""
        if self.response is None:
            data = self._until_answered(data)
        if self.trusted:
            super().data_received(data)
        elif data:
            self._take_slices(data)

    def _until_answered(self, data: bytes) -> bytes:
        """`data` up to the end of the request. What comes after that waits for the answer, which is at once.

        The library would take a second request for a frame, and fail to answer the first.
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
                self._untaken = data[start:]
                return
            self._take(data[start : start + _SLICE])

    def _go_on(self) -> None:
        """There is room for messages again: first for those that have come already."""
        untaken, self._untaken = self._untaken, b""
        self._take_slices(untaken)
        if not self.recv_messages.paused:
            self.transport.resume_reading()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio's own type, which websockets narrows
        """The client has nothing more to say: not yet a reason to say nothing to it, if that was a request."""
        over_tls = self.transport.get_extra_info("ssl_object") is not None  # which has no half-close
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
        if early and self.state is State.OPEN:  # after any other answer than 101 nothing more is read
            self.loop.call_soon(self._take_slices, early)  # when there is somebody who reads them
        if self._ended:
            super().eof_received()
            self.transport.close()

    def _take(self, data: bytes) -> None:
        if not self.throttled:
            now = time.monotonic()
            self._full_at = max(self._full_at, now) + len(data) / BYTE_RATE
            if self._full_at - now > _BURST_S:
                self.fail("sent too much")
        if self.request is None:
            self._requested += len(data)
            if self._requested > MAX_REQUEST:
                self.cut("sent too long a request")
                return
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        """A frame has come, or the request."""
        if self.throttled and isinstance(event, Frame) and (event.opcode not in _MESSAGES or not event.fin):
            now = time.monotonic()
            self._odd_full_at = max(self._odd_full_at, now) + 1 / ODD_FRAME_RATE
            if self._odd_full_at - now > _BURST_S:
                self.fail("sent too many pings or fragments")
        super().process_event(event)

    async def send_or_cut(self, frame: str) -> None:
        """Send a frame; cut the connection if its other end does not read for `WRITE_TIMEOUT_S`."""
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self.send(frame)
        except TimeoutError:
            self.cut("does not read what it is sent")


class Outbox(asyncio.Queue[Any]):
    """What waits to be sent to a client. One that lets too much wait is cut off; `put_nowait` never raises."""

    def __init__(self, connection: EdgeConnection) -> None:
        super().__init__(MAX_OUTBOX)
        self._connection = connection

    def put_nowait(self, item: Any) -> None:
        """Append `item`."""
        if self.full():
            self._connection.cut("does not read what it is sent")
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
"""How `websockets` serves such connections."""
