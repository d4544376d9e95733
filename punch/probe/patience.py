"""Timeouts for answers that may not arrive, in a process that may be scheduled late."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from punchlab.punch.errors import FrameError

EXPECTED = 3
"""Factor of the timeout for a server that has answered before, so that a lost packet can be retransmitted."""

T = TypeVar("T")


async def answer_or_silence(seconds: float, what: Coroutine[Any, Any, T | None]) -> T | None:
    """Like `within`, but a refused or lost connection, or an invalid answer, also returns None after exactly `seconds`.

    So an observer of the client's timing cannot learn whether a port is open to which it made the client connect.
    """
    deadline = time.monotonic() + seconds
    answer = None
    with contextlib.suppress(OSError, EOFError, FrameError):
        answer = await within(seconds, what)
    if answer is None:
        await asyncio.sleep(deadline - time.monotonic())
    return answer


async def within(seconds: float, what: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `what` if it is available after `seconds`; otherwise cancel it and return None.

    Unlike `asyncio.timeout`, this accepts a packet that the kernel received in time even if the process is scheduled
    later: the socket is read before the deadline is evaluated.
    """
    task = asyncio.create_task(what)
    try:
        await asyncio.wait([task], timeout=seconds)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
