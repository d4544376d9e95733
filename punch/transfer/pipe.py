"""`punch pipe`: connect standard input of each computer to standard output of the other, with separate ends."""

from __future__ import annotations

import asyncio
from functools import partial

from punchlab.punch.client.tunnel import TunnelOptions, open_tunnel
from punchlab.punch.errors import (
    ChannelError,
    ConnectionLostError,
    PunchFailedError,
    StreamResetError,
    TunnelBrokenError,
)
from punchlab.punch.frames import Role
from punchlab.punch.secure.channel import Channel
from punchlab.punch.secure.keys import KeyExchange
from punchlab.punch.transfer.standard_streams import in_daemon_thread, read_some, write_all
from punchlab.punch.transfer.streams import ByteStream, Streams

BLOCK = 65_000


async def pipe(options: TunnelOptions, exchange: KeyExchange, role: Role, source: int, sink: int) -> None:
    """Connect to the peer; copy `source` to it, and its data to `sink`, until both have ended.

    Raises `PunchFailedError`, and `BrokenPipeError` if the reader of `sink` has closed it.
    """
    async with open_tunnel(options, exchange, role) as channel:
        await pipe_over(channel, role, source, sink)


async def pipe_over(channel: Channel, role: Role, source: int, sink: int) -> None:
    """Copy over an existing channel. Returns when both ends know that the other has received everything."""
    streams = Streams(channel, opens=role == "sender")
    running = asyncio.create_task(streams.run())
    try:
        stream = await (streams.open() if role == "sender" else streams.accept())
        await _both_ways(stream, running, source, sink)
        # The other end sends FINAL when it has written everything. There is no timeout, because closing early would
        # lose data in transit on a slow path. A dead path ends the channel.
        await streams.finish()
        await running
    except StreamResetError:
        raise PunchFailedError("client_error", "the other side cannot receive any more data") from None
    except ConnectionLostError as error:
        raise TunnelBrokenError(str(error)) from None
    except ChannelError as error:
        raise PunchFailedError("client_error", str(error)) from None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _both_ways(stream: ByteStream, running: asyncio.Task[None], source: int, sink: int) -> None:
    """Copy until both directions have ended, or one has failed."""
    copying = {asyncio.create_task(_send_all(stream, source)), asyncio.create_task(_receive_all(stream, sink))}
    watching = asyncio.create_task(stream.wait_for_reset())  # detects a reset while no data arrive
    pending = set(copying)
    try:
        while pending:
            done, _ = await asyncio.wait({*pending, watching}, return_when=asyncio.FIRST_COMPLETED)
            for each in (*(done & copying), *(done - copying)):
                each.result()
            pending -= done
    except (BrokenPipeError, PunchFailedError):
        await stream.reset()
        raise
    except ConnectionLostError:
        if running.done() and not running.cancelled() and (error := running.exception()) is not None:
            raise error from None
        raise
    finally:
        for task in (*copying, watching):
            task.cancel()
        await asyncio.gather(*copying, watching, return_exceptions=True)


async def _send_all(stream: ByteStream, source: int) -> None:
    try:
        while data := await in_daemon_thread(partial(read_some, source, BLOCK)):
            await stream.send(data)
    except OSError as error:
        raise PunchFailedError("client_error", f"standard input cannot be read: {error.strerror}") from None
    await stream.end()


async def _receive_all(stream: ByteStream, sink: int) -> None:
    try:
        while data := await stream.receive():
            await in_daemon_thread(partial(write_all, sink, data))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise PunchFailedError("client_error", f"cannot write to standard output: {error.strerror}") from None
