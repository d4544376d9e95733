"""Proof that an observation was not held up: datagrams that go through the NAT and back all the time meanwhile.

Each is sent at a known time. When it is back, everything that was sent before it has come through, and the event loop
that makes the observations has had its turn.
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
    """Datagrams between an inside socket and that of a server. Use it as a context manager."""

    def __init__(self, inside: socket.socket, server: socket.socket) -> None:
        self._inside, self._server = inside, server
        self._due = 0.0
        self._late: list[tuple[float, float]] = []  # when one was back, and how long after it was due to leave
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
        """How many seconds a datagram took at worst from when it was due to leave, of those that were back since."""
        now = time.monotonic()
        return max(late for back, late in [*self._late, (now, now - self._due)] if back >= moment)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(NotBegunError):  # that took long, too
                external = await datagram(self._inside, self._server, self._server.getsockname())
                if external is not None:
                    await datagram(self._server, self._inside, external)
            now = time.monotonic()
            self._late.append((now, now - self._due))
            self._due = now + _PAUSE_S
            await asyncio.sleep(_PAUSE_S)
