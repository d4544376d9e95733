"""Waiting for what may not come, in a process that may be late."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from punchlab.punch.errors import FrameError

EXPECTED = 3
"""How many times as long to wait for a server that has answered before: a packet that was lost is sent again."""

T = TypeVar("T")


async def answer_or_silence(seconds: float, what: Coroutine[Any, Any, T | None]) -> T | None:
    """As `within`, where a connection that is refused or lost, or what makes no sense, is silence: for as long.

    So nobody who sees when a client goes on learns from it whether a port is open at which it was sent to ask.
    """
    deadline = time.monotonic() + seconds
    answer = None
    with contextlib.suppress(OSError, EOFError, FrameError):
        answer = await within(seconds, what)
    if answer is None:
        await asyncio.sleep(deadline - time.monotonic())
    return answer


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
