"""Runs blocking calls one after another in a thread, while the event loop continues.

The threads of `asyncio.to_thread` are joined when the process ends, however long their calls take, and a call there
cannot be stopped. Here the thread is a daemon, and long calls have checkpoints at which they can be stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

T = TypeVar("T")

WINDOW = 4 << 20
"""Maximum bytes that wait in memory for the thread."""

_LEAST = 1024  # minimum size that counts for a call, which limits the number of calls

_PATIENCE_S = 0.5  # how long the end of the block waits for a running call
_thread = threading.local()


class StoppedError(Exception):
    """Raised by `checkpoint` in a call that must stop."""


def checkpoint() -> None:
    """Raise `StoppedError` if the running call must stop; does nothing outside such a call."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    if stop is not None and stop.is_set():
        _thread.stopped()
        raise StoppedError


def stoppable(stop: threading.Event, stopped: Callable[[], object] = lambda: None) -> None:
    """Make `checkpoint` in this thread call `stopped` and raise as soon as `stop` is set."""
    _thread.stop, _thread.stopped = stop, stopped


class _Job(NamedTuple):
    """A call, its size in bytes, the future of its result, and whether it runs even after a failed call."""

    call: Callable[[], Any]
    size: int
    future: asyncio.Future[Any] | None
    always: bool = False


class Worker:
    """Runs calls in the given order. A context manager, for one event loop.

    After a failed call of `put` no further call runs until `stop`, except those of `run(…, always=True)`.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._jobs: deque[_Job | None] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._wants_room = False
        self._room = asyncio.Event()
        self._failed = asyncio.Event()
        self._stopped = asyncio.Event()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._stop.set()
            self._jobs.append(None)
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_PATIENCE_S)  # it is idle unless a file system does not respond

    async def put(self, call: Callable[[], object], size: int = 0) -> None:
        """Queue `call`; wait if the window is full. Raises the exception of an earlier call."""
        size = max(size, _LEAST)
        while self._error is None:
            with self._changed:
                if not self._jobs or self._size + size <= self._window:
                    self._append(_Job(call, size, None))
                    return
                self._wants_room = True
                self._room.clear()
            await self._room.wait()
        raise self._error

    async def run(self, call: Callable[[], T], *, always: bool = False) -> T:
        """Return the result of `call`, after the earlier calls. Raises its exception, or that of an earlier call.

        If this is cancelled, the call runs until its next checkpoint; `stop` waits for that.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        with self._changed:
            self._append(_Job(call, 0, future, always))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._stop.set()
            raise

    async def run_whole(self, call: Callable[[], T]) -> T:
        """Like `run`, but return the result of a call that ran to its end, even if this was cancelled meanwhile.

        If the call was stopped before its end, it has undone its work, and the cancellation continues.
        """
        ended = asyncio.Event()
        result: list[T] = []

        def whole() -> None:
            try:
                result.append(call())
            finally:
                self._call_soon(ended.set)

        self._stopped.clear()
        try:
            await self.run(whole)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            either = [asyncio.create_task(event.wait()) for event in (ended, self._stopped, self._failed)]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for waiting in either:
                waiting.cancel()
            if not result or task is None:
                raise
            self._stop.clear()
            task.uncancel()
        return result[0]

    async def failure(self) -> None:
        """Wait until a call of `put` fails, and raise its exception."""
        await self._failed.wait()
        assert self._error is not None
        raise self._error

    async def stop(self) -> None:
        """Drop the queued calls, wait until the running one ends or is stopped, and then accept calls again."""
        future: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            for job in self._jobs:
                if job is not None and job.future is not None:
                    job.future.cancel()
            self._jobs.clear()
            self._size = 0
            self._stop.set()
            self._append(_Job(self._go_on, 0, future, always=True))
        await asyncio.shield(future)
        self._failed.clear()

    def _go_on(self) -> None:
        self._stop.clear()
        self._error = None

    def _append(self, job: _Job) -> None:
        self._jobs.append(job)
        self._size += job.size
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._changed.notify()

    def _work(self) -> None:
        stoppable(self._stop, partial(self._call_soon, self._stopped.set))
        while True:
            with self._changed:
                while not self._jobs:
                    self._changed.wait()
                job = self._jobs[0]  # it counts as queued until it has ended
            if job is None:
                return
            outcome = self._outcome(job)
            with self._changed:
                # `stop` may have emptied the queue meanwhile.
                if self._jobs and self._jobs[0] is job:
                    self._jobs.popleft()
                    self._size -= job.size
                room = self._wants_room and self._size <= self._window // 2
                self._wants_room = self._wants_room and not room
            if outcome is not None:
                self._call_soon(outcome)
            if room:
                self._call_soon(self._room.set)

    def _outcome(self, job: _Job) -> Callable[[], None] | None:
        """Run the call; return what the event loop has to do."""
        if self._error is not None and not job.always:
            return None if job.future is None else partial(_settle, job.future, None, self._error)
        try:
            result = job.call()
        except BaseException as error:
            if job.future is not None:
                return partial(_settle, job.future, None, error)
            self._error = error
            return self._fail
        return None if job.future is None else partial(_settle, job.future, result, None)

    def _call_soon(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call)

    def _fail(self) -> None:
        self._failed.set()
        self._room.set()


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
        with contextlib.suppress(asyncio.CancelledError):
            future.exception()  # marks it as retrieved, because the waiting task may have been cancelled
