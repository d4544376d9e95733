"""Wait with a timeout in a process that may be scheduled late. The client has the same, but labs do not import it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, what: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `what` if it is available within `seconds`; otherwise cancel it and return None.

    Unlike with `asyncio.timeout`, a packet that the kernel received in time counts even if this process was scheduled
    later: its socket is read before the deadline is checked.
    """
    task = asyncio.create_task(what)
    try:
        await asyncio.wait([task], timeout=seconds)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
