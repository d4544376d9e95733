"""Files over a channel.

    sender      OFFER per file (the last one says so)         [RESUME] DATA… DIGEST per file              FINAL
    receiver                                     HELD… ACCEPT               [CREDIT…]           STORED    FINAL

The receiver looks at the whole offer before a byte of a file moves, and its user may be asked
(`punch.transfer.consent`). It says STORED only when every file has its name; so when the sender says done, it is done.
A side that cannot go on says ABORT and why; but why files cannot be stored, which depends on what the receiver has,
only the receiver's user sees.

HELD names a file of which an earlier tunnel, that broke, has brought the beginning: how many bytes, and their SHA-256.
If the sender's file begins so, RESUME says that it goes on from there; if not, it comes again from the start. A tunnel
that breaks raises `TunnelBrokenError`: what has arrived is kept, and both ends can be called again on a new tunnel.

An empty directory is an OFFER and nothing more. A stream (the sender's standard input) is an OFFER without a size,
alone, whose DATA end with DIGEST; no tunnel but the one that it began in can bring it.

All that may block on a file system is done by threads, a bounded number of bytes ahead of the tunnel or behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import NamedTuple

from punchlab.punch.errors import ChannelError, ConnectionLostError, PunchFailedError, TamperedError
from punchlab.punch.secure.channel import MAX_PAYLOAD, Channel, Kind
from punchlab.punch.transfer.ahead import Ahead
from punchlab.punch.transfer.allowance import Allowance, read_count, write_count
from punchlab.punch.transfer.arriving import Arriving
from punchlab.punch.transfer.consent import Consent, DeclinedError
from punchlab.punch.transfer.conversation import (
    INTERRUPTED_S,
    AbortedError,
    abort,
    decline,
    failure,
    farewell,
    hear,
    hear_only,
)
from punchlab.punch.transfer.file_sink import FileSink
from punchlab.punch.transfer.names import FileError, OfferError, check_path
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
from punchlab.punch.transfer.outgoing import Outgoing
from punchlab.punch.transfer.progress import Progress
from punchlab.punch.transfer.reading import Held, Piece, Resumed, read_contents, size_of
from punchlab.punch.transfer.stdin_source import StdinSource
from punchlab.punch.transfer.worker import Worker

DISCARD_S = 3.0
"""How long an interrupted receiver removes what is unfinished; the rest stays hidden."""

NOT_STORED = "what was offered cannot be stored there"
"""All that a sender learns of it, but for what is wrong with the offer or the contents themselves."""

ONCE = "what comes from standard input cannot be sent again"

NewProgress = Callable[[int | None], Progress]


class Received(NamedTuple):
    """What has been stored; `told`: no sender waits any more to hear that."""

    files: list[FileDone]
    told: bool


async def send_files(
    channel: Channel, outgoing: Outgoing | StdinSource, progress: NewProgress, asked: Callable[[], None] = lambda: None
) -> list[FileDone]:
    """Send `outgoing`; returns when the receiver has stored all of it. Raises `PunchFailedError`.

    `asked` is called once if the receiver's user is asked whether to accept.
    """
    try:
        await _offer(channel, outgoing.offered)
        held, allowance = await _receive_held(channel, outgoing.offered, asked)
        with progress(outgoing.total) as bar:
            done = await _send_contents(channel, outgoing, held, allowance, bar)
    except FileError as error:
        await abort(channel, str(error))
        raise PunchFailedError("client_error", str(error)) from None
    except AbortedError as error:
        raise PunchFailedError("client_error", f"the receiver stopped: {error}") from None
    except DeclinedError as error:
        raise PunchFailedError("declined", str(error)) from None
    except ChannelError as error:
        if isinstance(outgoing, StdinSource):
            raise PunchFailedError("client_error", f"{error}; {ONCE}") from None
        raise failure(error) from None
    except asyncio.CancelledError:
        await abort(channel, "interrupted", INTERRUPTED_S)  # or the other end would wait for a new tunnel
        raise
    await farewell(channel)
    return done


async def receive_files(
    channel: Channel, inbox: FileSink, progress: NewProgress, consent: Consent | None = None
) -> Received:
    """Receive what is offered into `inbox`, if the user consents. Raises `PunchFailedError`."""
    offered: list[Offered] = []
    with Worker() as worker:
        arriving = Arriving(worker, inbox)
        try:
            files = await _receive(channel, inbox, worker, arriving, offered, progress, consent)
        except FileError as error:
            await arriving.discard(offered)
            await abort(channel, str(error) if isinstance(error, OfferError) else NOT_STORED)
            raise PunchFailedError("client_error", str(error)) from None
        except AbortedError as error:
            await arriving.discard(offered)
            raise PunchFailedError("client_error", f"the sender stopped: {error}") from None
        except DeclinedError as error:
            await decline(channel)
            raise PunchFailedError("declined", str(error)) from None
        except ChannelError as error:
            if any(isinstance(info, StreamInfo) for info in offered):
                await arriving.discard(offered)
                raise PunchFailedError("client_error", f"{error}; {ONCE}") from None
            # What was complete before stays, for another attempt.
            await arriving.leave(keep=isinstance(error, ConnectionLostError))
            raise failure(error) from None
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError):  # of a file system that does not answer
                async with asyncio.timeout(DISCARD_S):
                    # Or the other end would wait for a new tunnel.
                    await asyncio.gather(arriving.discard(offered), abort(channel, "interrupted", INTERRUPTED_S))
            raise
    told = await tell_stored(channel) or any(isinstance(info, StreamInfo) for info in offered)
    return Received(files, told)


async def _receive(
    channel: Channel,
    inbox: FileSink,
    worker: Worker,
    arriving: Arriving,
    offered: list[Offered],
    progress: NewProgress,
    consent: Consent | None,
) -> list[FileDone]:
    """Receive and store everything. Once the offer is found to be good, it is put into `offered`.

    Raises `FileError`, `ChannelError`, `AbortedError` and `DeclinedError`.
    """
    wanted = await receive_offer(channel)
    await worker.run(partial(inbox.check, wanted))
    offered += wanted  # not before: what another transfer has left unfinished is not ours to discard
    if consent is not None:
        await consent.obtain(channel, offered)
    await _send_held(channel, inbox, worker, offered)
    await channel.send(Kind.ACCEPT)
    with progress(total_size(offered)) as bar:
        await _receive_contents(channel, inbox, worker, arriving, offered, bar)
        return await arriving.store(offered)


async def tell_stored(channel: Channel) -> bool:
    """Say STORED; whether the sender has heard it."""
    try:
        await channel.send(Kind.STORED)
    except ConnectionLostError:
        return False
    return await farewell(channel)


async def _offer(channel: Channel, offered: Sequence[Offered]) -> None:
    for index, info in enumerate(offered):
        await channel.send(Kind.OFFER, write_offer(info, last=index == len(offered) - 1))


async def receive_offer(channel: Channel) -> list[Offered]:
    """All that is offered, each by a name that can be. Raises `FileError`, `ChannelError` and `AbortedError`."""
    offered: list[Offered] = []
    entries = Entries()
    last = False
    while not last:
        info, last = read_offer(await hear_only(channel, Kind.OFFER))
        check_path(info.name)  # now, not at the end: names of any length would add up
        try:
            entries.add(info.name)
        except FileError:
            raise OfferError(f"more than {MAX_ENTRIES} files and directories are offered") from None
        offered.append(info)
    if len(offered) > 1 and any(isinstance(info, StreamInfo) for info in offered):
        raise TamperedError("a stream is offered, and not alone")
    return offered


async def _send_held(channel: Channel, inbox: FileSink, worker: Worker, offered: Sequence[Offered]) -> None:
    for index in await worker.run(partial(inbox.begun, offered)):
        info = offered[index]
        held = await worker.run(partial(inbox.held, info)) if isinstance(info, FileInfo) else None
        if held is not None:
            await send_held(channel, index, *held)


async def send_held(channel: Channel, index: int, size: int, sha256: bytes) -> None:
    """Say that of the file of that number so many bytes are here."""
    await channel.send(Kind.HELD, index.to_bytes(4, "big") + size.to_bytes(8, "big") + sha256)


async def _receive_held(
    channel: Channel, offered: Sequence[Offered], asked: Callable[[], None]
) -> tuple[Held, Allowance]:
    """What the receiver has of each file, and how much it takes. Raises `DeclinedError`."""
    held: dict[int, tuple[int, bytes]] = {}
    asking = False
    while True:
        kind, payload = await hear(channel)
        if kind is Kind.ACCEPT:
            return held, Allowance(payload)
        if kind is Kind.DECLINED:
            raise DeclinedError("the receiver did not accept what was offered, and has stored nothing")
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
            raise TamperedError("the receiver holds what was not offered")
        held[index] = size, payload[12:]


async def _send_contents(
    channel: Channel, outgoing: Outgoing | StdinSource, held: Held, allowance: Allowance, bar: Progress
) -> list[FileDone]:
    if isinstance(outgoing, StdinSource):
        return await _send_watching(channel, outgoing.send(channel, allowance, bar), allowance)
    count = sum(isinstance(info, FileInfo) for info in outgoing.offered)
    async with Ahead(partial(read_contents, outgoing, held), size_of) as pieces:
        return await _send_watching(channel, _send_pieces(channel, pieces, count, allowance, bar), allowance)


async def _send_watching(
    channel: Channel, contents: Coroutine[None, None, list[FileDone]], allowance: Allowance
) -> list[FileDone]:
    """Send all contents, but stop as soon as the receiver says that it cannot go on."""
    sending = asyncio.create_task(contents)
    answer = asyncio.create_task(_hear_stored(channel, allowance))
    try:
        await asyncio.wait([sending, answer], return_when=asyncio.FIRST_COMPLETED)
        if answer.done() and not sending.done():
            await answer
            raise TamperedError("the receiver says that it has stored what was not sent")
        try:
            done = await sending
        except ChannelError:
            await answer  # the connection broke; the receiver may have said why
            raise
        try:
            await answer
        except ConnectionLostError as error:
            raise ConnectionLostError(f"the receiver never said that it has stored everything: {error}") from None
        return done
    finally:
        for task in (sending, answer):
            task.cancel()
        await asyncio.gather(sending, answer, return_exceptions=True)


async def _hear_stored(channel: Channel, allowance: Allowance) -> None:
    while True:
        kind, payload = await hear(channel)
        if kind is Kind.STORED:
            return
        if kind is not Kind.CREDIT:
            raise TamperedError(f"expected STORED, got {kind.name}")
        allowance.grant(payload)


async def _send_pieces(
    channel: Channel, pieces: Ahead[Piece], count: int, allowance: Allowance, bar: Progress
) -> list[FileDone]:
    """The contents of so many files."""
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
                await allowance.take(len(data))
                await channel.send(Kind.DATA, data)
                bar.advance(len(data))
    return done


async def _receive_contents(
    channel: Channel, inbox: FileSink, worker: Worker, arriving: Arriving, offered: Sequence[Offered], bar: Progress
) -> None:
    """Receive all files, but stop as soon as one cannot be written."""
    receiving = asyncio.create_task(_receive_all(channel, inbox, arriving, offered, bar))
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
    channel: Channel, inbox: FileSink, arriving: Arriving, offered: Sequence[Offered], bar: Progress
) -> None:
    for info in offered:
        if not isinstance(info, DirectoryInfo):
            await _receive_file(channel, inbox, arriving, info, bar)


async def _receive_file(
    channel: Channel, inbox: FileSink, arriving: Arriving, info: FileInfo | StreamInfo, bar: Progress
) -> None:
    kind, payload = await hear(channel)
    start = 0
    if kind is Kind.RESUME and isinstance(info, FileInfo):
        start = read_count(payload)
        bar.resume(info.name, start, info.size)
        kind, payload = await hear(channel)
    if kind is Kind.DIGEST and (done := inbox.already_stored(info, payload)) is not None:
        await arriving.add(done)
        return
    await arriving.begin(info, start)
    while kind is Kind.DATA:
        await arriving.write(payload)
        bar.advance(len(payload))
        kind, payload = await hear(channel)
    if kind is not Kind.DIGEST:
        raise TamperedError(f"expected DATA or DIGEST, got {kind.name}")
    await arriving.end(payload)
