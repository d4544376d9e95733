"""Transfers of files over channels, complete or with a test in the place of one end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from punchlab.punch.secure.channel import Channel, Kind
from punchlab.punch.secure.code import Code
from punchlab.punch.transfer.consent import Consent
from punchlab.punch.transfer.file_transfer import Received, receive_files, send_files
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.files.partial_names import PartialNames
from punchlab.punch.transfer.offer import FileDone
from punchlab.punch.transfer.progress import Progress
from tests.punch.recorder import Recorder
from tests.punch.wires import channels

PARTIAL_NAMES = PartialNames.of_code(Code.parse("k7x2mq-amber-falcon-tulip"))


def bar(total: int | None) -> Progress:
    return Progress(total, Recorder(), bar=False)


async def both(
    sender: Channel, source: FileSource, receiver: Channel, inbox: FileSink, consent: Consent | None = None
) -> tuple[list[FileDone] | BaseException, list[FileDone] | BaseException]:
    sent, received = await asyncio.gather(
        send_files(sender, source, bar), receive_files(receiver, inbox, bar, consent), return_exceptions=True
    )
    if isinstance(received, Received):
        assert received.confirmed
        return sent, received.files
    return sent, received


def offer(name: object, size: object, last: object = True) -> bytes:
    return json.dumps({"name": name, "size": size, "last": last}).encode()


@contextlib.asynccontextmanager
async def receiving(inbox: FileSink, *offers: bytes) -> AsyncIterator[tuple[Channel, asyncio.Task[Received]]]:
    """Yield a receiver to which the test sends these offers first, and the test's channel."""
    async with channels() as (sender, receiver):
        received = asyncio.create_task(receive_files(receiver, inbox, bar))
        for each in offers:
            await sender.send(Kind.OFFER, each)
        yield sender, received


@contextlib.asynccontextmanager
async def accepted(
    directory: Path, size: int = 8, *, force: bool = False
) -> AsyncIterator[tuple[Channel, asyncio.Task[Received]]]:
    """Yield a receiver that has accepted the file `a` of so many bytes."""
    with FileSink(directory, force=force) as inbox:
        async with receiving(inbox, offer("a", size)) as (sender, received):
            await sender.expect(Kind.ACCEPT)
            yield sender, received


@contextlib.asynccontextmanager
async def sending(file: Path) -> AsyncIterator[tuple[Channel, asyncio.Task[list[FileDone]]]]:
    """Yield a sender that has offered the file to the test, and the test's channel."""
    with FileSource([file]) as source:
        async with channels() as (sender, receiver):
            sent = asyncio.create_task(send_files(sender, source, bar))
            await receiver.expect(Kind.OFFER)
            yield receiver, sent


@contextlib.asynccontextmanager
async def under_way(file: Path) -> AsyncIterator[tuple[Channel, asyncio.Task[list[FileDone]]]]:
    """Yield a sender whose offer the test has accepted, after the first bytes of its file."""
    async with sending(file) as (receiver, sent):
        await receiver.send(Kind.ACCEPT)
        await receiver.expect(Kind.DATA)
        yield receiver, sent
