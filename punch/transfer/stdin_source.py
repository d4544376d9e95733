"""Standard input on its way out: a stream whose length nobody knows, and that can be read once."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Self

from punchlab.punch.errors import ArgumentError
from punchlab.punch.secure.channel import MAX_PAYLOAD, Channel, Kind
from punchlab.punch.transfer.allowance import Allowance
from punchlab.punch.transfer.blocking import in_daemon_thread, read_some
from punchlab.punch.transfer.names import FileError, check_path
from punchlab.punch.transfer.offer import FileDone, StreamInfo
from punchlab.punch.transfer.outgoing import Skipped
from punchlab.punch.transfer.progress import Progress


class StdinSource:
    """What can be read from a descriptor, under a name; used like `punch.transfer.outgoing.Outgoing`."""

    total = None
    """How many bytes that will be: nobody knows."""

    def __init__(self, name: str, source: int) -> None:
        """Raises `ArgumentError` if no file can have that name."""
        try:
            check_path(name)
            if "/" in name:
                raise FileError("it has a slash in it")
        except FileError as error:
            raise ArgumentError("name", name, f"a name that can be sent ({error})") from None
        self.offered = [StreamInfo(name)]
        self.skipped: list[Skipped] = []
        self._source = source

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    async def send(self, channel: Channel, allowance: Allowance, bar: Progress) -> list[FileDone]:
        """All of it, up to its end, and its SHA-256. Raises `FileError` and `ChannelError`."""
        digest, size = hashlib.sha256(), 0
        while data := await self._read():
            digest.update(data)
            await allowance.take(len(data))
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
