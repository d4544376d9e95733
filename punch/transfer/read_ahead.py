"""Read ahead from a blocking iterator, for instance over a slow file system, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

from punchlab.punch.transfer.worker import StoppedError, checkpoint, stoppable

T = TypeVar("T")

WINDOW = 1 << 20
"""Maximum bytes that are read ahead, in addition to one item."""

_LEAST = 1024  # minimum size that counts for an item, which limits the number of items
_PATIENCE_S = 1.0


class ReadAhead(Generic[T]):
    """Yields the items of an iterator and raises its exceptions. An asynchronous context manager and iterator.

    The iterator is made and used in a daemon thread. At the end of the block it is stopped at its next checkpoint; the
    block waits at most one second for that.
    """

    def __init__(self, make: Callable[[], Iterator[T]], size_of: Callable[[T], int]) -> None:
        self._make = make
        self._size_of = size_of
        self._items: deque[tuple[T, int]] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._over = False
        self._wanted = False
        self._available = asyncio.Event()
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        with self._changed:
            self._stop.set()
            self._changed.notify()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await self._ended.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            with self._changed:
                if self._items:
                    item, size = self._items.popleft()
                    self._size -= size
                    self._changed.notify()
                    return item
                if self._over:
                    break
                self._wanted = True
                self._available.clear()
            await self._available.wait()
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def _read(self) -> None:
        stoppable(self._stop)
        try:
            for item in self._make():
                self._put(item)
        except StoppedError:
            pass
        except BaseException as error:
            self._error = error
        with self._changed:
            self._over = True
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._ended.set)
            self._loop.call_soon_threadsafe(self._available.set)

    def _put(self, item: T) -> None:
        size = max(self._size_of(item), _LEAST)
        with self._changed:
            while self._size > WINDOW and not self._stop.is_set():
                self._changed.wait()
            checkpoint()
            self._items.append((item, size))
            self._size += size
            wanted, self._wanted = self._wanted, False
        if wanted:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._available.set)
