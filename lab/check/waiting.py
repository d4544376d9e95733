"""Waiting for what may not come, in a process that may be late: as in the client, which labs do not import."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, what: Coroutine[Any, Any, T]) -> T | None:
    """The result of `what` if it is there when `seconds` are over; None, and `what` is cancelled, if not.

    Unlike with `asyncio.timeout`, a packet that the kernel received in time counts even where this process was not
    scheduled until later: its socket is read before the deadline is judged.
    """
    task = asyncio.create_task(what)
    try:
        await asyncio.wait([task], timeout=seconds)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
