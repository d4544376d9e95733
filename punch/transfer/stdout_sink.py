"""Writes one received file to standard output.

Written data cannot be undone. So a new tunnel can only resume at the end of the written data, with a file that begins
with the same data. Damage is detected only at the end, after all data have been written.
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
from punchlab.punch.transfer.control_frames import INTERRUPTED_S, AbortedError, abort, failure, receive_frame
from punchlab.punch.transfer.file_transfer import (
    NOT_RESUMABLE,
    NewProgress,
    Received,
    confirm_stored,
    receive_offer,
    send_held,
)
from punchlab.punch.transfer.files.name_rules import FileError
from punchlab.punch.transfer.flow_control import read_count, write_count
from punchlab.punch.transfer.offer import FileDone, FileInfo, Offered, StreamInfo, total_size
from punchlab.punch.transfer.progress import Progress
from punchlab.punch.transfer.standard_streams import write_all

WINDOW = 4 << 20
"""Maximum bytes that wait in memory for the reader of standard output."""

_GRANT = WINDOW // 16  # minimum of a CREDIT


class StdoutSink:
    """A descriptor that a thread writes one file to, over as many tunnels as needed. A context manager."""

    def __init__(self, sink: int) -> None:
        self._sink = sink
        self.info: FileInfo | StreamInfo | None = None
        self._digest = hashlib.sha256()
        self.size = 0
        """Number of bytes received."""
        self.written = 0
        """Number of bytes written."""
        self._error: OSError | None = None
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._moved = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.put(None)

    def check(self, offered: Sequence[Offered]) -> FileInfo | StreamInfo:
        """Return the single offered file. Raises `FileError` if there are more, or if it is not the earlier one."""
        info = offered[0]
        if len(offered) > 1 or not isinstance(info, FileInfo | StreamInfo) or "/" in info.name:
            raise FileError("standard output can receive a single file only, and no directory")
        if self.info is not None and info != self.info:
            raise FileError(f"{info.name!r} is not the file whose beginning was written to standard output")
        if self.info is None:
            self.info = info
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._write, args=(loop,), daemon=True).start()  # it may block indefinitely
        return info

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the received data."""
        return self._digest.digest()

    def put(self, data: bytes) -> None:
        """Queue `data` for writing. Raises `FileError` and `TamperedError`."""
        self.size += len(data)
        if isinstance(self.info, FileInfo) and self.size > self.info.size:
            raise FileError(f"{self.info.name!r} is longer than the offered {self.info.size} bytes")
        if self.size - self.written > WINDOW:
            raise TamperedError("the sender exceeds the window")
        self._digest.update(data)
        self._queue.put(data)

    def verify(self, sha256: bytes) -> FileDone:
        """Return the received file if its size and SHA-256 are correct. Raises `FileError`."""
        info = self.info
        if info is None or self.digest != sha256 or (isinstance(info, FileInfo) and info.size != self.size):
            raise FileError("the data written to standard output are damaged: the size or SHA-256 differs")
        return FileDone(info.name, self.size, sha256.hex())

    async def wait_for(self, count: int) -> None:
        """Wait until `count` bytes have been written. Raises `FileError`."""
        while self.written < count:
            if self._error is not None and self._error.errno == errno.EPIPE:
                raise FileError("standard output was closed")
            if self._error is not None:
                raise FileError(f"cannot write to standard output: {self._error.strerror}")
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
            pass  # the event loop, and with it the transfer, has ended

    def _move(self, count: int, error: OSError | None) -> None:
        self.written += count
        self._error = error
        self._moved.set()


async def receive_to(channel: Channel, sink: StdoutSink, progress: NewProgress) -> Received:
    """Receive the single offered file into `sink`. Raises `PunchFailedError`."""
    info: FileInfo | StreamInfo | None = None
    try:
        info = sink.check(await receive_offer(channel))
        if sink.size:
            await send_held(channel, 0, sink.size, sink.digest)
        begin = sink.written
        await channel.send(Kind.ACCEPT, write_count(WINDOW - (sink.size - begin)))
        with progress(total_size([info])) as bar:
            done = await _receive_granting(channel, sink, info, begin, bar)
    except FileError as error:
        await abort(channel, str(error))
        raise PunchFailedError("client_error", str(error)) from None
    except AbortedError as error:
        raise PunchFailedError("client_error", f"the sender aborted: {error}") from None
    except ChannelError as error:
        if isinstance(info, StreamInfo):
            raise PunchFailedError("client_error", f"{error}; {NOT_RESUMABLE}") from None
        raise failure(error) from None
    except asyncio.CancelledError:
        await abort(channel, "interrupted", INTERRUPTED_S)  # otherwise the other end would wait for a new tunnel
        raise
    await confirm_stored(channel)
    return Received([done], confirmed=True)  # without a longer wait, which would delay EOF on standard output


async def _receive_granting(
    channel: Channel, sink: StdoutSink, info: FileInfo | StreamInfo, begin: int, bar: Progress
) -> FileDone:
    """Receive the contents until all are written, and send CREDIT as they are written."""
    granting = asyncio.create_task(_grant(channel, sink, begin))
    receiving = asyncio.create_task(_receive_contents(channel, sink, info, bar))
    try:
        await asyncio.wait([granting, receiving], return_when=asyncio.FIRST_COMPLETED)
        if granting.done() and not (receiving.done() and receiving.exception() is None):
            await granting
        return await receiving
    finally:
        for task in (granting, receiving):
            task.cancel()
        await asyncio.gather(granting, receiving, return_exceptions=True)


async def _grant(channel: Channel, sink: StdoutSink, granted: int) -> None:
    while True:
        await sink.wait_for(granted + _GRANT)
        count = sink.written - granted
        granted += count
        await channel.send(Kind.CREDIT, write_count(count))


async def _receive_contents(channel: Channel, sink: StdoutSink, info: FileInfo | StreamInfo, bar: Progress) -> FileDone:
    kind, payload = await receive_frame(channel)
    if sink.size and isinstance(info, FileInfo):
        if kind is not Kind.RESUME or read_count(payload) != sink.size:
            raise FileError(f"{info.name!r} has changed, and data already written to standard output cannot be undone")
        bar.resume(info.name, sink.size, info.size)
        kind, payload = await receive_frame(channel)
    while kind is Kind.DATA:
        sink.put(payload)
        bar.advance(len(payload))
        kind, payload = await receive_frame(channel)
    if kind is not Kind.DIGEST:
        raise TamperedError(f"expected DATA or DIGEST, got {kind.name}")
    done = sink.verify(payload)
    await sink.wait_for(sink.size)
    return done
