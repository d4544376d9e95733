"""What arrives for an inbox, written by a thread in the order in which it arrives."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from punchlab.punch.errors import ConnectionLostError
from punchlab.punch.transfer.file_sink import FileSink, Incoming
from punchlab.punch.transfer.names import FileError
from punchlab.punch.transfer.offer import FileDone, FileInfo, Offered, StreamInfo
from punchlab.punch.transfer.worker import Worker

_BATCH = 256 * 1024
"""Bytes that are passed on to the thread at once: fewer would cost more for that than for writing them."""


class Arriving:
    """The files of one offer. All that touches the inbox is done by `worker`.

    `begin`, `write` and `end` return before that is done. What fails then is raised by a later call, and by
    `Worker.failure`.
    """

    def __init__(self, worker: Worker, inbox: FileSink) -> None:
        self._worker = worker
        self._inbox = inbox
        self._incoming: Incoming | None = None
        self._arrived: list[Incoming | FileDone] = []
        self._batch: list[bytes] = []
        self._size = 0

    async def begin(self, info: FileInfo | StreamInfo, start: int) -> None:
        """A file, from that byte."""

        def call() -> None:
            self._incoming = self._inbox.create(info, start)

        await self._worker.put(call)

    async def write(self, data: bytes) -> None:
        """The next bytes of the file."""
        self._batch.append(data)
        self._size += len(data)
        if self._size >= _BATCH:
            await self._pass_on()

    async def _pass_on(self) -> None:
        batch, size = self._batch, self._size
        self._batch, self._size = [], 0

        def call() -> None:
            assert self._incoming is not None
            for data in batch:
                self._incoming.write(data)

        if batch:
            await self._worker.put(call, size)

    async def end(self, sha256: bytes) -> None:
        """The file is complete, and has that SHA-256."""
        await self._pass_on()

        def call() -> None:
            assert self._incoming is not None
            with self._incoming as incoming:
                self._incoming = None
                incoming.verify(sha256)
                self._arrived.append(incoming)

        await self._worker.put(call)

    async def add(self, done: FileDone) -> None:
        """A file that an earlier tunnel has brought."""
        await self._worker.put(partial(self._arrived.append, done))

    async def store(self, offered: Sequence[Offered]) -> list[FileDone]:
        """Give all of them their names, or none. Raises `FileError`.

        If this is cancelled too late to undo it, it is done and the cancellation has no effect.
        """

        def call() -> list[FileDone]:
            self._inbox.store(offered, [each for each in self._arrived if isinstance(each, Incoming)])
            return [each if isinstance(each, FileDone) else each.done for each in self._arrived]

        return await self._worker.run_whole(call)

    async def leave(self, *, keep: bool) -> None:
        """The connection is lost: what has arrived is written; of the file under way only if `keep`."""
        with contextlib.suppress(FileError):
            await self._pass_on()

        def call() -> None:
            if self._incoming is not None:
                kind = ConnectionLostError if keep else FileError
                self._incoming.__exit__(kind, None, None)

        await self._worker.run(call, always=True)

    async def discard(self, offered: Sequence[Offered]) -> None:
        """Nothing of this offer is wanted: drop what is not written yet, and remove what is."""

        def call() -> None:
            if self._incoming is not None:
                with contextlib.suppress(OSError):
                    self._incoming.__exit__(FileError, None, None)
            self._inbox.discard(offered)

        await self._worker.stop()
        await self._worker.run(call)
