"""Standard input as a file to send: a stream of unknown length that can be read once."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Self

from punchlab.punch.errors import ArgumentError
from punchlab.punch.secure.channel import MAX_PAYLOAD, Channel, Kind
from punchlab.punch.transfer.files.file_source import Skipped
from punchlab.punch.transfer.files.name_rules import FileError, check_path
from punchlab.punch.transfer.flow_control import SendWindow
from punchlab.punch.transfer.offer import FileDone, StreamInfo
from punchlab.punch.transfer.progress import Progress
from punchlab.punch.transfer.standard_streams import in_daemon_thread, read_some


class StdinSource:
    """The data from a descriptor, sent with a name; same interface as `punch.transfer.files.file_source.FileSource`."""

    total = None
    """The number of bytes, which is unknown."""

    def __init__(self, name: str, source: int) -> None:
        """Raises `ArgumentError` if the name is not valid for a file."""
        try:
            check_path(name)
            if "/" in name:
                raise FileError("it contains a slash")
        except FileError as error:
            raise ArgumentError("name", name, f"a valid name ({error})") from None
        self.offered = [StreamInfo(name)]
        self.skipped: list[Skipped] = []
        self._source = source

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    async def send(self, channel: Channel, window: SendWindow, bar: Progress) -> list[FileDone]:
        """Send all data and their SHA-256. Raises `FileError` and `ChannelError`."""
        digest, size = hashlib.sha256(), 0
        while data := await self._read():
            digest.update(data)
            await window.take(len(data))
            await channel.send(Kind.DATA, data)
            size += len(data)
            bar.advance(len(data))
        await channel.send(Kind.DIGEST, digest.digest())
        return [FileDone(self.offered[0].name, size, digest.hexdigest())]

    async def _read(self) -> bytes:
        try:
            return await in_daemon_thread(partial(read_some, self._source, MAX_PAYLOAD))
        except OSError as error:
            raise FileError(f"standard input cannot be read: {error.strerror}") from None
