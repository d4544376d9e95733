"""Writes received files to a `FileSink` in a thread, in the order in which their data arrive."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from punchlab.punch.errors import ConnectionLostError
from punchlab.punch.transfer.files.file_sink import FileSink, Incoming
from punchlab.punch.transfer.files.name_rules import FileError
from punchlab.punch.transfer.offer import FileDone, FileInfo, Offered, StreamInfo
from punchlab.punch.transfer.worker import Worker

_BATCH = 256 * 1024
"""Bytes that are passed to the thread at once; with fewer, passing them would cost more than writing them."""


class FileWriter:
    """The files of one offer. All calls of the sink run in `worker`.

    `begin`, `write` and `end` return before the work is done. A later call, and `Worker.failure`, raise its errors.
    """

    def __init__(self, worker: Worker, sink: FileSink) -> None:
        self._worker = worker
        self._sink = sink
        self._incoming: Incoming | None = None
        self._complete: list[Incoming | FileDone] = []
        self._batch: list[bytes] = []
        self._size = 0

    async def begin(self, info: FileInfo | StreamInfo, start: int) -> None:
        """Begin a file at offset `start`."""

        def call() -> None:
            self._incoming = self._sink.create(info, start)

        await self._worker.put(call)

    async def write(self, data: bytes) -> None:
        """Append data to the file."""
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
        """Complete the file, which must have this SHA-256."""
        await self._pass_on()

        def call() -> None:
            assert self._incoming is not None
            with self._incoming as incoming:
                self._incoming = None
                incoming.verify(sha256)
                self._complete.append(incoming)

        await self._worker.put(call)

    async def add(self, done: FileDone) -> None:
        """Add a file that an earlier tunnel has transferred."""
        await self._worker.put(partial(self._complete.append, done))

    async def store(self, offered: Sequence[Offered]) -> list[FileDone]:
        """Give all files their final names, or none. Raises `FileError`.

        If this is cancelled too late to undo it, the files are stored and the cancellation has no effect.
        """

        def call() -> list[FileDone]:
            self._sink.store(offered, [each for each in self._complete if isinstance(each, Incoming)])
            return [each if isinstance(each, FileDone) else each.done for each in self._complete]

        return await self._worker.run_whole(call)

    async def leave(self, *, keep: bool) -> None:
        """Write the data received before the connection was lost; keep the unfinished file only if `keep`."""
        with contextlib.suppress(FileError):
            await self._pass_on()

        def call() -> None:
            if self._incoming is not None:
                kind = ConnectionLostError if keep else FileError
                self._incoming.__exit__(kind, None, None)

        await self._worker.run(call, always=True)

    async def discard(self, offered: Sequence[Offered]) -> None:
        """Discard the data that are not written yet, and remove the unfinished files of the offer."""

        def call() -> None:
            if self._incoming is not None:
                with contextlib.suppress(OSError):
                    self._incoming.__exit__(FileError, None, None)
            self._sink.discard(offered)

        await self._worker.stop()
        await self._worker.run(call)
