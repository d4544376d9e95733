"""One connection of an edge, with bounds on what it can make the edge hold for it.

The WebSocket layer answers pings by itself: a client that sends many and reads nothing would have the answers pile up.
And it counts no bytes: a frame may come as thousands of empty fragments. Both are seen here, below the frames.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode

from punch.frames import MAX_FRAME

MAX_UNSENT = 65_536  # bytes that wait for a client to read them; the kernel holds as much again
BYTE_RATE = 16_384.0  # bytes a second that a client may send, with ten seconds' worth at once
_BURST_S = 10.0
_FAREWELL_S = 1.0
MAX_OUTBOX = 64  # frames that wait to be sent to a client
WRITE_TIMEOUT_S = 20.0

PING_S = 20.0  # a client that answers no ping for as long again is gone
OPEN_TIMEOUT_S = 10.0  # for the request, and for TLS before it


class EdgeConnection(ServerConnection):
    """A WebSocket connection. `trusted` ones (to other endpoints) may send as much as they like."""

    trusted = False
    overrun: str | None = None
    """Why it was ended by us here, for the log."""
    _full_at = 0.0

    def data_received(self, data: bytes) -> None:
        """Bytes have come, of at most one read."""
        if not self.trusted and self.overrun is None:
            now = time.monotonic()
            self._full_at = max(self._full_at, now) + len(data) / BYTE_RATE
            if self._full_at - now > _BURST_S:
                self.overrun = "sent too much"
                self.protocol.fail(CloseCode.POLICY_VIOLATION, self.overrun)  # takes no further frame
                self.transport.pause_reading()
                self.loop.call_later(_FAREWELL_S, self.transport.abort)
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            self.cut("does not read what it is sent")

    def cut(self, reason: str) -> None:
        """End the connection at once, and drop what is not yet sent."""
        self.overrun = self.overrun or reason
        self.transport.abort()

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
    "compression": None,
    "open_timeout": OPEN_TIMEOUT_S,
    "close_timeout": 1,
    "ping_interval": PING_S,
    "ping_timeout": PING_S,
    "server_header": None,
}
"""How `websockets` serves such connections."""
