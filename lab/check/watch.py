"""Detect delays during observations: datagrams continuously pass the NAT in both directions.

Each is sent at a known time. When it returns, all packets sent before it have arrived, and the event loop that makes
the observations has run.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from types import TracebackType
from typing import Self

from punchlab.lab.check.states import NotBegunError, datagram

_PAUSE_S = 0.1


class Watch:
    """Exchanges datagrams between an inside socket and a server socket. Use it as a context manager."""

    def __init__(self, inside: socket.socket, server: socket.socket) -> None:
        self._inside, self._server = inside, server
        self._due = 0.0
        self._late: list[tuple[float, float]] = []  # (return time, seconds since it was due to leave)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._due = time.monotonic()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def worst_since(self, moment: float) -> float:
        """Return the longest time in seconds between due time and return of the datagrams that returned after
        `moment`.
        """
        now = time.monotonic()
        return max(late for back, late in [*self._late, (now, now - self._due)] if back >= moment)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(NotBegunError):  # this took long, too
                external = await datagram(self._inside, self._server, self._server.getsockname())
                if external is not None:
                    await datagram(self._server, self._inside, external)
            now = time.monotonic()
            self._late.append((now, now - self._due))
            self._due = now + _PAUSE_S
            await asyncio.sleep(_PAUSE_S)
