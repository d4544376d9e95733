"""The transfer of files over a channel.

    sender      OFFER per file (the last one is marked)       [RESUME] DATA… DIGEST per file              FINAL
    receiver                                     HELD… ACCEPT               [CREDIT…]           STORED    FINAL

The receiver checks the whole offer before any file data are sent, and may ask its user (`punch.transfer.consent`). It
sends STORED only when every file has its final name, so a sender that reports success has succeeded. A side that cannot
continue sends ABORT with the reason. However, why the receiver cannot store a file depends on its own files, so only
its user gets that reason.

HELD gives the size and SHA-256 of the part of a file that an earlier, broken tunnel has transferred. If the sender's
file begins with the same data, RESUME gives the offset at which it continues; otherwise it is sent from the start. A
tunnel that breaks raises `TunnelBrokenError`: the received data are kept, and both functions can be called with a new
tunnel.

An empty directory is an OFFER only. A stream (the sender's standard input) is a single OFFER without a size, whose DATA
end with DIGEST; it cannot be resumed.

All operations that may block on a file system run in threads, which a limited number of bytes may be ahead of the
tunnel or behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import NamedTuple

from punchlab.punch.errors import ChannelError, ConnectionLostError, PunchFailedError, TamperedError
from punchlab.punch.secure.channel import MAX_PAYLOAD, Channel, Kind
from punchlab.punch.transfer.consent import Consent, DeclinedError
from punchlab.punch.transfer.control_frames import (
    INTERRUPTED_S,
    AbortedError,
    abort,
    decline,
    exchange_final,
    failure,
    receive_frame,
    receive_kind,
)
from punchlab.punch.transfer.files.file_reader import Held, Piece, Resumed, read_contents, size_of
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.files.file_writer import FileWriter
from punchlab.punch.transfer.files.name_rules import FileError, OfferError, check_path
from punchlab.punch.transfer.flow_control import SendWindow, read_count, write_count
from punchlab.punch.transfer.offer import (
    MAX_ENTRIES,
    DirectoryInfo,
    Entries,
    FileDone,
    FileInfo,
    Offered,
    StreamInfo,
    read_offer,
    total_size,
    write_offer,
)
from punchlab.punch.transfer.progress import Progress
from punchlab.punch.transfer.read_ahead import ReadAhead
from punchlab.punch.transfer.stdin_source import StdinSource
from punchlab.punch.transfer.worker import Worker

DISCARD_S = 3.0
"""How long an interrupted receiver removes unfinished files, in seconds; the rest remains hidden."""

NOT_STORED = "the receiver cannot store the offered files"
"""The only reason that a sender gets, unless the cause is the offer or its contents."""

NOT_RESUMABLE = "data from standard input cannot be sent again"

NewProgress = Callable[[int | None], Progress]


class Received(NamedTuple):
    """The stored files; `confirmed`: the sender knows that they are stored, or does not wait for that any more."""

    files: list[FileDone]
    confirmed: bool


async def send_files(
    channel: Channel, source: FileSource | StdinSource, progress: NewProgress, asked: Callable[[], None] = lambda: None
) -> list[FileDone]:
    """Send `source`; return when the receiver has stored all of it. Raises `PunchFailedError`.

    `asked` is called once when the receiver's user is asked whether to accept.
    """
    try:
        await _offer(channel, source.offered)
        held, window = await _receive_held(channel, source.offered, asked)
        with progress(source.total) as bar:
            done = await _send_contents(channel, source, held, window, bar)
    except FileError as error:
        await abort(channel, str(error))
        raise PunchFailedError("client_error", str(error)) from None
    except AbortedError as error:
        raise PunchFailedError("client_error", f"the receiver aborted: {error}") from None
    except DeclinedError as error:
        raise PunchFailedError("declined", str(error)) from None
    except ChannelError as error:
        if isinstance(source, StdinSource):
            raise PunchFailedError("client_error", f"{error}; {NOT_RESUMABLE}") from None
        raise failure(error) from None
    except asyncio.CancelledError:
        await abort(channel, "interrupted", INTERRUPTED_S)  # otherwise the other end would wait for a new tunnel
        raise
    await exchange_final(channel)
    return done


async def receive_files(
    channel: Channel, sink: FileSink, progress: NewProgress, consent: Consent | None = None
) -> Received:
    """Receive the offer into `sink` with the user's consent. Raises `PunchFailedError`."""
    offered: list[Offered] = []
    with Worker() as worker:
        writer = FileWriter(worker, sink)
        try:
            files = await _receive(channel, sink, worker, writer, offered, progress, consent)
        except FileError as error:
            await writer.discard(offered)
            await abort(channel, str(error) if isinstance(error, OfferError) else NOT_STORED)
            raise PunchFailedError("client_error", str(error)) from None
        except AbortedError as error:
            await writer.discard(offered)
            raise PunchFailedError("client_error", f"the sender aborted: {error}") from None
        except DeclinedError as error:
            await decline(channel)
            raise PunchFailedError("declined", str(error)) from None
        except ChannelError as error:
            if any(isinstance(info, StreamInfo) for info in offered):
                await writer.discard(offered)
                raise PunchFailedError("client_error", f"{error}; {NOT_RESUMABLE}") from None
            # Complete files are kept for another attempt.
            await writer.leave(keep=isinstance(error, ConnectionLostError))
            raise failure(error) from None
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError):  # the file system may not respond
                async with asyncio.timeout(DISCARD_S):
                    # Without ABORT the other end would wait for a new tunnel.
                    await asyncio.gather(writer.discard(offered), abort(channel, "interrupted", INTERRUPTED_S))
            raise
    confirmed = await confirm_stored(channel) or any(isinstance(info, StreamInfo) for info in offered)
    return Received(files, confirmed)


async def _receive(
    channel: Channel,
    sink: FileSink,
    worker: Worker,
    writer: FileWriter,
    offered: list[Offered],
    progress: NewProgress,
    consent: Consent | None,
) -> list[FileDone]:
    """Receive and store everything. A valid offer is added to `offered`.

    Raises `FileError`, `ChannelError`, `AbortedError` and `DeclinedError`.
    """
    wanted = await receive_offer(channel)
    await worker.run(partial(sink.check, wanted))
    offered += wanted  # only now: unfinished files of another transfer must not be discarded
    if consent is not None:
        await consent.obtain(channel, offered)
    await _send_held(channel, sink, worker, offered)
    await channel.send(Kind.ACCEPT)
    with progress(total_size(offered)) as bar:
        await _receive_contents(channel, sink, worker, writer, offered, bar)
        return await writer.store(offered)


async def confirm_stored(channel: Channel) -> bool:
    """Send STORED; return whether the sender has received it."""
    try:
        await channel.send(Kind.STORED)
    except ConnectionLostError:
        return False
    return await exchange_final(channel)


async def _offer(channel: Channel, offered: Sequence[Offered]) -> None:
    for index, info in enumerate(offered):
        await channel.send(Kind.OFFER, write_offer(info, last=index == len(offered) - 1))


async def receive_offer(channel: Channel) -> list[Offered]:
    """Receive the whole offer and check its names. Raises `FileError`, `ChannelError` and `AbortedError`."""
    offered: list[Offered] = []
    entries = Entries()
    last = False
    while not last:
        info, last = read_offer(await receive_kind(channel, Kind.OFFER))
        check_path(info.name)  # at once, because the total length of unchecked names is not limited
        try:
            entries.add(info.name)
        except FileError:
            raise OfferError(f"the offer has more than {MAX_ENTRIES} files and directories") from None
        offered.append(info)
    if len(offered) > 1 and any(isinstance(info, StreamInfo) for info in offered):
        raise TamperedError("a stream is not the only offer")
    return offered


async def _send_held(channel: Channel, sink: FileSink, worker: Worker, offered: Sequence[Offered]) -> None:
    for index in await worker.run(partial(sink.resumable, offered)):
        info = offered[index]
        held = await worker.run(partial(sink.held, info)) if isinstance(info, FileInfo) else None
        if held is not None:
            await send_held(channel, index, *held)


async def send_held(channel: Channel, index: int, size: int, sha256: bytes) -> None:
    """Send HELD: the size and SHA-256 of the received part of the file with that number."""
    await channel.send(Kind.HELD, index.to_bytes(4, "big") + size.to_bytes(8, "big") + sha256)


async def _receive_held(
    channel: Channel, offered: Sequence[Offered], asked: Callable[[], None]
) -> tuple[Held, SendWindow]:
    """Return the receiver's part of each file, and its window. Raises `DeclinedError`."""
    held: dict[int, tuple[int, bytes]] = {}
    asking = False
    while True:
        kind, payload = await receive_frame(channel)
        if kind is Kind.ACCEPT:
            return held, SendWindow(payload)
        if kind is Kind.DECLINED:
            raise DeclinedError("the receiver declined the offer, and has stored nothing")
        if kind is Kind.ASKING:
            if not asking:
                asked()
            asking = True
            continue
        if kind is not Kind.HELD or len(payload) != 4 + 8 + 32:
            raise TamperedError(f"expected HELD or ACCEPT, got {kind.name}")
        index, size = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:12], "big")
        info = offered[index] if index < len(offered) and index not in held else None
        if not isinstance(info, FileInfo) or size > info.size:
            raise TamperedError("HELD for a file that was not offered")
        held[index] = size, payload[12:]


async def _send_contents(
    channel: Channel, source: FileSource | StdinSource, held: Held, window: SendWindow, bar: Progress
) -> list[FileDone]:
    if isinstance(source, StdinSource):
        return await _send_watching(channel, source.send(channel, window, bar), window)
    count = sum(isinstance(info, FileInfo) for info in source.offered)
    async with ReadAhead(partial(read_contents, source, held), size_of) as pieces:
        return await _send_watching(channel, _send_pieces(channel, pieces, count, window, bar), window)


async def _send_watching(
    channel: Channel, contents: Coroutine[None, None, list[FileDone]], window: SendWindow
) -> list[FileDone]:
    """Send all contents, but stop as soon as the receiver aborts."""
    sending = asyncio.create_task(contents)
    answer = asyncio.create_task(_receive_stored(channel, window))
    try:
        await asyncio.wait([sending, answer], return_when=asyncio.FIRST_COMPLETED)
        if answer.done() and not sending.done():
            await answer
            raise TamperedError("the receiver sent STORED before the end of the contents")
        try:
            done = await sending
        except ChannelError:
            await answer  # the connection broke; the receiver may have sent ABORT before
            raise
        try:
            await answer
        except ConnectionLostError as error:
            raise ConnectionLostError(f"the receiver did not confirm that it stored everything: {error}") from None
        return done
    finally:
        for task in (sending, answer):
            task.cancel()
        await asyncio.gather(sending, answer, return_exceptions=True)


async def _receive_stored(channel: Channel, window: SendWindow) -> None:
    while True:
        kind, payload = await receive_frame(channel)
        if kind is Kind.STORED:
            return
        if kind is not Kind.CREDIT:
            raise TamperedError(f"expected STORED, got {kind.name}")
        window.grant(payload)


async def _send_pieces(
    channel: Channel, pieces: ReadAhead[Piece], count: int, window: SendWindow, bar: Progress
) -> list[FileDone]:
    """Send the contents of `count` files."""
    done: list[FileDone] = []
    while len(done) < count:
        piece = await anext(pieces)
        if isinstance(piece, Resumed):
            await channel.send(Kind.RESUME, write_count(piece.start))
            bar.resume(piece.info.name, piece.start, piece.info.size)
        elif isinstance(piece, FileDone):
            await channel.send(Kind.DIGEST, bytes.fromhex(piece.sha256))
            done.append(piece)
        else:
            block = memoryview(piece)
            for at in range(0, len(block), MAX_PAYLOAD):
                data = block[at : at + MAX_PAYLOAD]
                await window.take(len(data))
                await channel.send(Kind.DATA, data)
                bar.advance(len(data))
    return done


async def _receive_contents(
    channel: Channel, sink: FileSink, worker: Worker, writer: FileWriter, offered: Sequence[Offered], bar: Progress
) -> None:
    """Receive all files, but stop as soon as one cannot be written."""
    receiving = asyncio.create_task(_receive_all(channel, sink, writer, offered, bar))
    failing = asyncio.create_task(worker.failure())
    try:
        await asyncio.wait([receiving, failing], return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            await failing
        await receiving
    finally:
        for task in (receiving, failing):
            task.cancel()
        await asyncio.gather(receiving, failing, return_exceptions=True)


async def _receive_all(
    channel: Channel, sink: FileSink, writer: FileWriter, offered: Sequence[Offered], bar: Progress
) -> None:
    for info in offered:
        if not isinstance(info, DirectoryInfo):
            await _receive_file(channel, sink, writer, info, bar)


async def _receive_file(
    channel: Channel, sink: FileSink, writer: FileWriter, info: FileInfo | StreamInfo, bar: Progress
) -> None:
    kind, payload = await receive_frame(channel)
    start = 0
    if kind is Kind.RESUME and isinstance(info, FileInfo):
        start = read_count(payload)
        bar.resume(info.name, start, info.size)
        kind, payload = await receive_frame(channel)
    if kind is Kind.DIGEST and (done := sink.already_stored(info, payload)) is not None:
        await writer.add(done)
        return
    await writer.begin(info, start)
    while kind is Kind.DATA:
        await writer.write(payload)
        bar.advance(len(payload))
        kind, payload = await receive_frame(channel)
    if kind is not Kind.DIGEST:
        raise TamperedError(f"expected DATA or DIGEST, got {kind.name}")
    await writer.end(payload)
