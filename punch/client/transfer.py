"""Files over a channel.

    sender      OFFER per file (the last one says so)    DATA… DIGEST per file              FINAL
    receiver                                     ACCEPT                        STORED             FINAL

The receiver looks at the whole offer before a byte of a file moves, and says STORED only when every file has its name;
so when the sender says done, it is done. Whoever cannot go on says ABORT and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable

from punch.client.channel import MAX_PAYLOAD, Channel, Kind
from punch.client.files import MAX_FILES, FileDone, FileError, FileInfo, Inbox, Outgoing, check_name
from punch.client.progress import Progress
from punch.errors import ChannelError, PunchFailedError, TamperedError
from punch.frames import printable

FAREWELL_S = 5.0  # how long to wait for the other end's FINAL once all is said
MAX_SIZE = 1 << 63

NewProgress = Callable[[int], Progress]


class _AbortedError(Exception):
    """The other end said ABORT."""


async def send_files(channel: Channel, outgoing: Outgoing, progress: NewProgress) -> list[FileDone]:
    """Send `outgoing`; returns when the receiver has stored all of it. Raises `PunchFailedError`."""
    try:
        await _offer(channel, outgoing)
        await _expect(channel, Kind.ACCEPT)
        with progress(outgoing.total) as bar:
            done = await _send_watching(channel, outgoing, bar)
    except FileError as error:
        await _abort(channel, str(error))
        raise PunchFailedError("client_error", str(error)) from None
    except _AbortedError as error:
        raise PunchFailedError("client_error", f"the receiver stopped: {error}") from None
    except ChannelError as error:
        raise PunchFailedError("client_error", str(error)) from None
    await _farewell(channel)
    return done


async def receive_files(channel: Channel, inbox: Inbox, progress: NewProgress) -> list[FileDone]:
    """Receive what is offered into `inbox`. Raises `PunchFailedError`."""
    try:
        offered = await _receive_offer(channel)
        inbox.check(offered)
        await channel.send(Kind.ACCEPT)
        with progress(sum(info.size for info in offered)) as bar:
            done = [await _receive_file(channel, inbox, info, bar) for info in offered]
        await channel.send(Kind.STORED)
    except FileError as error:
        await _abort(channel, str(error))
        raise PunchFailedError("client_error", str(error)) from None
    except _AbortedError as error:
        raise PunchFailedError("client_error", f"the sender stopped: {error}") from None
    except ChannelError as error:
        raise PunchFailedError("client_error", str(error)) from None
    await _farewell(channel)
    return done


async def _offer(channel: Channel, outgoing: Outgoing) -> None:
    last = len(outgoing.files) - 1
    for index, (info, _) in enumerate(outgoing.files):
        offer = {"name": info.name, "size": info.size, "last": index == last}
        await channel.send(Kind.OFFER, json.dumps(offer).encode())


async def _receive_offer(channel: Channel) -> list[FileInfo]:
    offered: list[FileInfo] = []
    last = False
    while not last:
        if len(offered) == MAX_FILES:
            raise FileError(f"more than {MAX_FILES} files are offered")
        info, last = _parse_offer(await _expect(channel, Kind.OFFER))
        check_name(info.name)  # now, not at the end: names of any length would add up
        offered.append(info)
    return offered


def _parse_offer(payload: bytes) -> tuple[FileInfo, bool]:
    try:
        fields = json.loads(payload)
        name, size, last = fields["name"], fields["size"], fields["last"]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise TamperedError("an offer cannot be read") from None
    if not (isinstance(name, str) and type(size) is int and 0 <= size < MAX_SIZE and isinstance(last, bool)):
        raise TamperedError("an offer cannot be read")
    return FileInfo(name, size), last


async def _send_watching(channel: Channel, outgoing: Outgoing, bar: Progress) -> list[FileDone]:
    """Send all contents, but stop as soon as the receiver says that it cannot go on."""
    sending = asyncio.create_task(_send_contents(channel, outgoing, bar))
    answer = asyncio.create_task(_expect(channel, Kind.STORED))
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
        await answer
        return done
    finally:
        for task in (sending, answer):
            task.cancel()
        await asyncio.gather(sending, answer, return_exceptions=True)


async def _send_contents(channel: Channel, outgoing: Outgoing, bar: Progress) -> list[FileDone]:
    done = []
    for info, file in outgoing.files:
        digest = hashlib.sha256()
        left = info.size
        while left:
            try:
                data = file.read(min(left, MAX_PAYLOAD))
            except OSError as error:
                raise FileError(f"{info.name!r} cannot be read: {error.strerror}") from None
            if not data:
                raise FileError(f"{info.name!r} became shorter while it was sent")
            digest.update(data)
            await channel.send(Kind.DATA, data)
            left -= len(data)
            bar.advance(len(data))
        await channel.send(Kind.DIGEST, digest.digest())
        done.append(FileDone(info.name, info.size, digest.hexdigest()))
    return done


async def _receive_file(channel: Channel, inbox: Inbox, info: FileInfo, bar: Progress) -> FileDone:
    with inbox.create(info) as incoming:
        while True:
            kind, payload = await _receive(channel)
            if kind is Kind.DATA:
                incoming.write(payload)
                bar.advance(len(payload))
            elif kind is Kind.DIGEST:
                return incoming.commit(payload)
            else:
                raise TamperedError(f"expected DATA or DIGEST, got {kind.name}")


async def _receive(channel: Channel) -> tuple[Kind, bytes]:
    kind, payload = await channel.receive()
    if kind is Kind.ABORT:
        text = payload.decode(errors="replace")[:300]
        raise _AbortedError(printable(text))
    return kind, payload


async def _expect(channel: Channel, kind: Kind) -> bytes:
    found, payload = await _receive(channel)
    if found is not kind:
        raise TamperedError(f"expected {kind.name}, got {found.name}")
    return payload


async def _abort(channel: Channel, reason: str) -> None:
    """Say why, then listen until the other end has heard it: closing with bytes unread would reset the connection."""
    with contextlib.suppress(ChannelError, TimeoutError):
        async with asyncio.timeout(FAREWELL_S):
            await channel.send(Kind.ABORT, reason.encode())
            while True:
                await channel.receive()


async def _farewell(channel: Channel) -> None:
    """Everything is done; an end that goes without its FINAL changes nothing any more."""
    with contextlib.suppress(ChannelError, TimeoutError):
        async with asyncio.timeout(FAREWELL_S):
            await channel.send(Kind.FINAL)
            while (await channel.receive())[0] is not Kind.FINAL:
                pass
