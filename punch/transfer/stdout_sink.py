"""One file on its way to standard output.

What has been written cannot be taken back. So another tunnel can only go on exactly after it, with a file whose
beginning is the same; and what arrived damaged is seen only at its end, when all of it has been passed on.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import queue
import threading
from collections.abc import Sequence
from typing import Self

from punchlab.punch.errors import ChannelError, PunchFailedError, TamperedError
from punchlab.punch.secure.channel import Channel, Kind
from punchlab.punch.transfer.allowance import read_count, write_count
from punchlab.punch.transfer.blocking import write_all
from punchlab.punch.transfer.conversation import INTERRUPTED_S, AbortedError, abort, failure, hear
from punchlab.punch.transfer.names import FileError
from punchlab.punch.transfer.offer import FileDone, FileInfo, Offered, StreamInfo, total_size
from punchlab.punch.transfer.progress import Progress
from punchlab.punch.transfer.transfer import ONCE, NewProgress, Received, receive_offer, send_held, tell_stored

WINDOW = 4 << 20
"""Bytes that wait in memory at most, for whoever reads standard output."""

_GRANT = WINDOW // 16  # no CREDIT for less


class StdoutSink:
    """A descriptor that one file is written to, by a thread, over as many tunnels as that takes. A context manager."""

    def __init__(self, sink: int) -> None:
        self._sink = sink
        self.info: FileInfo | StreamInfo | None = None
        self._digest = hashlib.sha256()
        self.size = 0
        """Bytes that have arrived."""
        self.written = 0
        """Bytes that have been written."""
        self._error: OSError | None = None
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._moved = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.put(None)

    def check(self, offered: Sequence[Offered]) -> FileInfo | StreamInfo:
        """The one file that is offered. Raises `FileError` if it is not one, or another than before."""
        info = offered[0]
        if len(offered) > 1 or not isinstance(info, FileInfo | StreamInfo) or "/" in info.name:
            raise FileError("several files, or a directory, cannot be received to standard output")
        if self.info is not None and info != self.info:
            raise FileError(f"{info.name!r} is not what has been written to standard output so far")
        if self.info is None:
            self.info = info
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._write, args=(loop,), daemon=True).start()  # it may block for ever
        return info

    @property
    def digest(self) -> bytes:
        """SHA-256 of what has arrived."""
        return self._digest.digest()

    def put(self, data: bytes) -> None:
        """Have `data` written in its turn. Raises `FileError` and `TamperedError`."""
        self.size += len(data)
        if isinstance(self.info, FileInfo) and self.size > self.info.size:
            raise FileError(f"{self.info.name!r} is longer than the {self.info.size} bytes that were offered")
        if self.size - self.written > WINDOW:
            raise TamperedError("the sender sends more than there is room for")
        self._digest.update(data)
        self._queue.put(data)

    def verify(self, sha256: bytes) -> FileDone:
        """What arrived, if it is all of it and as it was sent. Raises `FileError`."""
        info = self.info
        if info is None or self.digest != sha256 or (isinstance(info, FileInfo) and info.size != self.size):
            raise FileError("what was written to standard output arrived damaged")
        return FileDone(info.name, self.size, sha256.hex())

    async def wait_for(self, count: int) -> None:
        """Wait until so many bytes have been written. Raises `FileError`."""
        while self.written < count:
            if self._error is not None and self._error.errno == errno.EPIPE:
                raise FileError("standard output was closed")
            if self._error is not None:
                raise FileError(f"standard output cannot be written to: {self._error.strerror}")
            self._moved.clear()
            await self._moved.wait()

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while (data := self._queue.get()) is not None:
                try:
                    write_all(self._sink, data)
                except OSError as error:
                    loop.call_soon_threadsafe(self._move, 0, error)
                    return
                loop.call_soon_threadsafe(self._move, len(data), None)
        except RuntimeError:
            pass  # the loop has ended, and with it the transfer

    def _move(self, count: int, error: OSError | None) -> None:
        self.written += count
        self._error = error
        self._moved.set()


async def receive_to(channel: Channel, outlet: StdoutSink, progress: NewProgress) -> Received:
    """Receive the one file that is offered into `outlet`. Raises `PunchFailedError`."""
    info: FileInfo | StreamInfo | None = None
    try:
        info = outlet.check(await receive_offer(channel))
        if outlet.size:
            await send_held(channel, 0, outlet.size, outlet.digest)
        begin = outlet.written
        await channel.send(Kind.ACCEPT, write_count(WINDOW - (outlet.size - begin)))
        with progress(total_size([info])) as bar:
            done = await _receive_granting(channel, outlet, info, begin, bar)
    except FileError as error:
        await abort(channel, str(error))
        raise PunchFailedError("client_error", str(error)) from None
    except AbortedError as error:
        raise PunchFailedError("client_error", f"the sender stopped: {error}") from None
    except ChannelError as error:
        if isinstance(info, StreamInfo):
            raise PunchFailedError("client_error", f"{error}; {ONCE}") from None
        raise failure(error) from None
    except asyncio.CancelledError:
        await abort(channel, "interrupted", INTERRUPTED_S)  # or the other end would wait for a new tunnel
        raise
    await tell_stored(channel)
    return Received([done], told=True)  # whoever reads standard output waits for its end


async def _receive_granting(
    channel: Channel, outlet: StdoutSink, info: FileInfo | StreamInfo, begin: int, bar: Progress
) -> FileDone:
    """Receive the contents until all is written, and let the sender send more as they are written."""
    granting = asyncio.create_task(_grant(channel, outlet, begin))
    receiving = asyncio.create_task(_receive_contents(channel, outlet, info, bar))
    try:
        await asyncio.wait([granting, receiving], return_when=asyncio.FIRST_COMPLETED)
        if granting.done() and not (receiving.done() and receiving.exception() is None):
            await granting
        return await receiving
    finally:
        for task in (granting, receiving):
            task.cancel()
        await asyncio.gather(granting, receiving, return_exceptions=True)


async def _grant(channel: Channel, outlet: StdoutSink, granted: int) -> None:
    while True:
        await outlet.wait_for(granted + _GRANT)
        count = outlet.written - granted
        granted += count
        await channel.send(Kind.CREDIT, write_count(count))


async def _receive_contents(
    channel: Channel, outlet: StdoutSink, info: FileInfo | StreamInfo, bar: Progress
) -> FileDone:
    kind, payload = await hear(channel)
    if outlet.size and isinstance(info, FileInfo):
        if kind is not Kind.RESUME or read_count(payload) != outlet.size:
            raise FileError(f"{info.name!r} has changed, and what was written to standard output cannot be taken back")
        bar.resume(info.name, outlet.size, info.size)
        kind, payload = await hear(channel)
    while kind is Kind.DATA:
        outlet.put(payload)
        bar.advance(len(payload))
        kind, payload = await hear(channel)
    if kind is not Kind.DIGEST:
        raise TamperedError(f"expected DATA or DIGEST, got {kind.name}")
    done = outlet.verify(payload)
    await outlet.wait_for(outlet.size)
    return done
