"""Calls on standard streams that may block indefinitely, for instance on a terminal."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def read_some(descriptor: int, count: int) -> bytes:
    """Return the available or the next data, up to `count` bytes; empty at the end. Raises `OSError`."""
    while True:
        try:
            return os.read(descriptor, count)
        except BlockingIOError:  # another process has made the shared descriptor non-blocking
            select.select([descriptor], [], [])


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`. Raises `OSError`."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


async def in_daemon_thread(function: Callable[[], T]) -> T:
    """Return the result of a call in a daemon thread, which does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[], None]) -> None:
        if not future.done():
            set_outcome()

    def call() -> None:
        try:
            result = function()
        except BaseException as error:
            outcome: Callable[[], None] = partial(future.set_exception, error)
        else:
            outcome = partial(future.set_result, result)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=call, daemon=True).start()
    return await future
