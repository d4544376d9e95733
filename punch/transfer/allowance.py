"""How much a receiver takes for now.

A file goes to the receiver's disk as fast as TCP brings it. But whoever reads the receiver's standard output may pause
for as long as he likes, and a TCP window that stays shut looks like a path that has died (`punch.client.liveness`). So
that receiver says with ACCEPT how many bytes it has room for, and with CREDIT that there is room for more again; the
sender waits for that, and the connection stays open and idle meanwhile.
"""

from __future__ import annotations

import asyncio

from punchlab.punch.errors import TamperedError

_BYTES = 8


class Allowance:
    """How many bytes of content may still be sent. Without a window: any."""

    def __init__(self, window: bytes) -> None:
        """From the payload of ACCEPT. Raises `TamperedError`."""
        self._left = None if window == b"" else read_count(window)
        self._granted = asyncio.Event()

    def grant(self, payload: bytes) -> None:
        """Take what a CREDIT says. Raises `TamperedError`."""
        if self._left is None:
            raise TamperedError("credit for what has no window")
        self._left += read_count(payload)
        self._granted.set()

    async def take(self, count: int) -> None:
        """Wait until `count` bytes, of one frame at most, may be sent."""
        if self._left is None:
            return
        while self._left < count:
            self._granted.clear()
            await self._granted.wait()
        self._left -= count


def write_count(count: int) -> bytes:
    """A number of bytes on the wire."""
    return count.to_bytes(_BYTES, "big")


def read_count(payload: bytes) -> int:
    """What `write_count` wrote. Raises `TamperedError`."""
    if len(payload) != _BYTES:
        raise TamperedError("a number of bytes cannot be read")
    return int.from_bytes(payload, "big")
