"""Flow control of file contents, for a receiver that writes to standard output.

Files are written to disk as fast as TCP delivers them. The reader of standard output, however, may pause for any time,
and a closed TCP window looks like a dead path (`punch.client.liveness`). Such a receiver therefore sends with ACCEPT
how many bytes it can take, and with CREDIT how many more. The sender waits for CREDIT, while the connection stays open
and idle.
"""

from __future__ import annotations

import asyncio

from punchlab.punch.errors import TamperedError

_BYTES = 8


class SendWindow:
    """The number of content bytes that may still be sent; unlimited without a window."""

    def __init__(self, window: bytes) -> None:
        """Make it from the payload of ACCEPT. Raises `TamperedError`."""
        self._left = None if window == b"" else read_count(window)
        self._granted = asyncio.Event()

    def grant(self, payload: bytes) -> None:
        """Add the payload of a CREDIT. Raises `TamperedError`."""
        if self._left is None:
            raise TamperedError("CREDIT for a transfer without a window")
        self._left += read_count(payload)
        self._granted.set()

    async def take(self, count: int) -> None:
        """Wait until `count` bytes, at most one frame, may be sent."""
        if self._left is None:
            return
        while self._left < count:
            self._granted.clear()
            await self._granted.wait()
        self._left -= count


def write_count(count: int) -> bytes:
    """Return the payload for a number of bytes."""
    return count.to_bytes(_BYTES, "big")


def read_count(payload: bytes) -> int:
    """Return the number of bytes in a payload. Raises `TamperedError`."""
    if len(payload) != _BYTES:
        raise TamperedError("invalid number of bytes")
    return int.from_bytes(payload, "big")
