"""Files over a channel.

    sender      OFFER per file (the last one says so)         [RESUME] DATA… DIGEST per file              FINAL
    receiver                                     HELD… ACCEPT               [CREDIT…]           STORED    FINAL

The receiver looks at the whole offer before a byte of a file moves, and says STORED only when every file has its name;
so when the sender says done, it is done. Whoever cannot go on says ABORT and why.

HELD names a file of which an earlier tunnel, that broke, has brought the beginning: how many bytes, and their SHA-256.
If the sender's file begins so, RESUME says that it goes on from there; if not, it comes again from the start. A tunnel
that breaks raises `TunnelBrokenError`: what has arrived is kept, and both ends can be called again on a new tunnel.

An empty directory is an OFFER and nothing more. A stream (the sender's standard input) is an OFFER without a size,
alone, whose DATA end with DIGEST; no tunnel but the one that it began in can bring it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple

from punch.client.allowance import Allowance, read_count, write_count
from punch.client.channel import MAX_PAYLOAD, Channel, Kind
from punch.client.conversation import INTERRUPTED_S, AbortedError, abort, failure, farewell, hear, hear_only
from punch.client.inbox import Inbox, Incoming
from punch.client.names import FileError, check_path
from punch.client.offer import (
    MAX_FILES,
    DirectoryInfo,
    FileDone,
    FileInfo,
    Offered,
    StreamInfo,
    read_offer,
    total_size,
    write_offer,
)
from punch.client.outgoing import Outgoing, changed
from punch.client.partial import hash_prefix
from punch.client.piped import Piped
from punch.client.progress import Progress
from punch.errors import ChannelError, ConnectionLostError, PunchFailedError, TamperedError

ONCE = "what comes from standard input cannot be sent again"

NewProgress = Callable[[int | None], Progress]


class Received(NamedTuple):
    """What has been stored; `told`: no sender waits any more to hear that."""

    files: list[FileDone]
    told: bool


async def send_files(channel: Channel, outgoing: Outgoing | Piped, progress: NewProgress) -> list[FileDone]:
    """Send `outgoing`; returns when the receiver has stored all of it. Raises `PunchFailedError`."""
    try:
        await _offer(channel, outgoing.offered)
        held, allowance = await _receive_held(channel, outgoing.offered)
        with progress(outgoing.total) as bar:
            done = await _send_watching(channel, outgoing, held, allowance, bar)
    except FileError as error:
        await abort(channel, str(error))
        raise PunchFailedError("client_error", str(error)) from None
    except AbortedError as error:
        raise PunchFailedError("client_error", f"the receiver stopped: {error}") from None
    except ChannelError as error:
        if isinstance(outgoing, Piped):
            raise PunchFailedError("client_error", f"{error}; {ONCE}") from None
        raise failure(error) from None
    except asyncio.CancelledError:
        await abort(channel, "interrupted", INTERRUPTED_S)  # or the other end would wait for a new tunnel
        raise
    await farewell(channel)
    return done


async def receive_files(channel: Channel, inbox: Inbox, progress: NewProgress) -> Received:
    """Receive what is offered into `inbox`. Raises `PunchFailedError`."""
    offered: list[Offered] = []
    try:
        offered = await receive_offer(channel)
        try:
            inbox.check(offered)
        except FileError:
            offered = []  # another transfer may have left what is unfinished
            raise
        await _send_held(channel, inbox, offered)
        await channel.send(Kind.ACCEPT)
        with progress(total_size(offered)) as bar:
            arrived = [
                await _receive_file(channel, inbox, info, bar)
                for info in offered
                if not isinstance(info, DirectoryInfo)
            ]
        inbox.store(offered, [each for each in arrived if isinstance(each, Incoming)])
    except FileError as error:
        inbox.discard(offered)
        await abort(channel, str(error))
        raise PunchFailedError("client_error", str(error)) from None
    except AbortedError as error:
        inbox.discard(offered)
        raise PunchFailedError("client_error", f"the sender stopped: {error}") from None
    except ChannelError as error:  # what was complete before stays, for another attempt
        if any(isinstance(info, StreamInfo) for info in offered):
            inbox.discard(offered)
            raise PunchFailedError("client_error", f"{error}; {ONCE}") from None
        raise failure(error) from None
    except asyncio.CancelledError:
        inbox.discard(offered)
        await abort(channel, "interrupted", INTERRUPTED_S)  # or the other end would wait for a new tunnel
        raise
    told = await tell_stored(channel) or any(isinstance(info, StreamInfo) for info in offered)
    return Received([each if isinstance(each, FileDone) else each.done for each in arrived], told)


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
    last = False
    while not last:
        if len(offered) == MAX_FILES:
            raise FileError(f"more than {MAX_FILES} files are offered")
        info, last = read_offer(await hear_only(channel, Kind.OFFER))
        check_path(info.name)  # now, not at the end: names of any length would add up
        offered.append(info)
    if len(offered) > 1 and any(isinstance(info, StreamInfo) for info in offered):
        raise TamperedError("a stream is offered, and not alone")
    return offered


async def _send_held(channel: Channel, inbox: Inbox, offered: Sequence[Offered]) -> None:
    for index in await asyncio.to_thread(inbox.begun, offered):
        info = offered[index]
        held = await asyncio.to_thread(inbox.held, info) if isinstance(info, FileInfo) else None
        if held is not None:
            await send_held(channel, index, *held)


async def send_held(channel: Channel, index: int, size: int, sha256: bytes) -> None:
    """Say that of the file of that number so many bytes are here."""
    await channel.send(Kind.HELD, index.to_bytes(4, "big") + size.to_bytes(8, "big") + sha256)


async def _receive_held(channel: Channel, offered: Sequence[Offered]) -> tuple[dict[int, tuple[int, bytes]], Allowance]:
    """Of each file, by its number, the bytes that the receiver has and their SHA-256; and how much it takes."""
    held: dict[int, tuple[int, bytes]] = {}
    while True:
        kind, payload = await hear(channel)
        if kind is Kind.ACCEPT:
            return held, Allowance(payload)
        if kind is not Kind.HELD or len(payload) != 4 + 8 + 32:
            raise TamperedError(f"expected HELD or ACCEPT, got {kind.name}")
        index, size = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:12], "big")
        info = offered[index] if index < len(offered) and index not in held else None
        if not isinstance(info, FileInfo) or size > info.size:
            raise TamperedError("the receiver holds what was not offered")
        held[index] = size, payload[12:]


async def _send_watching(
    channel: Channel,
    outgoing: Outgoing | Piped,
    held: dict[int, tuple[int, bytes]],
    allowance: Allowance,
    bar: Progress,
) -> list[FileDone]:
    """Send all contents, but stop as soon as the receiver says that it cannot go on."""
    sending = asyncio.create_task(
        _send_contents(channel, outgoing, held, allowance, bar)
        if isinstance(outgoing, Outgoing)
        else outgoing.send(channel, allowance, bar)
    )
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


async def _send_contents(
    channel: Channel, outgoing: Outgoing, held: dict[int, tuple[int, bytes]], allowance: Allowance, bar: Progress
) -> list[FileDone]:
    done = []
    for index, info, file in outgoing.contents():
        start, digest = await _common_start(info, file, held.get(index))
        if start:
            await channel.send(Kind.RESUME, write_count(start))
            bar.resume(info.name, start, info.size)
        left = info.size - start
        while left:
            try:
                data = file.read(min(left, MAX_PAYLOAD))
            except OSError as error:
                raise FileError(f"{info.name!r} cannot be read: {error.strerror}") from None
            if not data:
                raise changed(info)
            outgoing.check(info, file)  # now, rather than after the rest of a long file
            digest.update(data)
            await allowance.take(len(data))
            await channel.send(Kind.DATA, data)
            left -= len(data)
            bar.advance(len(data))
        await _check_unchanged(outgoing, info, file, digest.digest())
        await channel.send(Kind.DIGEST, digest.digest())
        done.append(FileDone(info.name, info.size, digest.hexdigest()))
    return done


async def _check_unchanged(outgoing: Outgoing, info: FileInfo, file: BinaryIO, sha256: bytes) -> None:
    """Raise `FileError` unless what was sent, of that SHA-256, is the file as it was offered."""
    if outgoing.check(info, file):
        try:
            again = await asyncio.to_thread(hash_prefix, file.fileno(), info.size)
        except OSError as error:
            raise FileError(f"{info.name!r} cannot be read: {error.strerror}") from None
        if again is None or again.digest() != sha256:
            raise changed(info)


async def _common_start(info: FileInfo, file: BinaryIO, held: tuple[int, bytes] | None) -> tuple[int, hashlib._Hash]:
    """How many bytes the receiver need not get again, and their running SHA-256; the file stands there."""
    try:
        if held is not None:
            size, sha256 = held
            digest = await asyncio.to_thread(hash_prefix, file.fileno(), size)
            if digest is not None and digest.digest() == sha256:
                return file.seek(size), digest
        return file.seek(0), hashlib.sha256()
    except OSError as error:
        raise FileError(f"{info.name!r} cannot be read: {error.strerror}") from None


async def _receive_file(
    channel: Channel, inbox: Inbox, info: FileInfo | StreamInfo, bar: Progress
) -> Incoming | FileDone:
    kind, payload = await hear(channel)
    start = 0
    if kind is Kind.RESUME and isinstance(info, FileInfo):
        start = read_count(payload)
        bar.resume(info.name, start, info.size)
        kind, payload = await hear(channel)
    if kind is Kind.DIGEST and (done := inbox.already_stored(info, payload)) is not None:
        return done
    with inbox.create(info, start) as incoming:
        while True:
            if kind is Kind.DATA:
                incoming.write(payload)
                bar.advance(len(payload))
            elif kind is Kind.DIGEST:
                incoming.verify(payload)
                return incoming
            else:
                raise TamperedError(f"expected DATA or DIGEST, got {kind.name}")
            kind, payload = await hear(channel)
