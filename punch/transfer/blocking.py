"""Calls on standard streams that may block for ever, on a terminal for instance."""

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
    """What can be read now, or next, up to `count` bytes; nothing at the end. Raises `OSError`."""
    while True:
        try:
            return os.read(descriptor, count)
        except BlockingIOError:  # whoever opened it, or shares it, does not want to block
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
    """The result of a call that may block for ever, on a terminal for instance; the process can end nevertheless."""
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
