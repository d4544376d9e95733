"""Proof that this process was late: a task that wakes up at known times, in the event loop that makes observations."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Self

_TICK_S = 0.05


class Watch:
    """Use it as a context manager in the event loop that is watched."""

    def __init__(self) -> None:
        self._due = 0.0
        self._late: list[tuple[float, float]] = []  # when a tick came and how late it was
        self._ticking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._due = time.monotonic() + _TICK_S
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking

    def worst_since(self, moment: float) -> float:
        """By how many seconds this loop was late at worst since that moment of `time.monotonic()`."""
        now = time.monotonic()
        return max((late for tick, late in [*self._late, (now, now - self._due)] if tick >= moment), default=0.0)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._due - time.monotonic())
            now = time.monotonic()
            if now - self._due > _TICK_S:
                self._late.append((now, now - self._due))
            self._due = now + _TICK_S
