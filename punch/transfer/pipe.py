"""`punch pipe`: standard input and output of two computers, joined crosswise, each direction ending by itself."""

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
from punchlab.punch.transfer.blocking import in_daemon_thread, read_some, write_all
from punchlab.punch.transfer.streams import ByteStream, Streams

BLOCK = 65_000


async def pipe(options: TunnelOptions, exchange: KeyExchange, role: Role, source: int, sink: int) -> None:
    """Meet the peer; copy what can be read from `source` to it, and what it sends to `sink`, until both have ended.

    Raises `PunchFailedError`, and `BrokenPipeError` if whoever reads `sink` has gone.
    """
    async with open_tunnel(options, exchange, role) as channel:
        await pipe_over(channel, role, source, sink)


async def pipe_over(channel: Channel, role: Role, source: int, sink: int) -> None:
    """The same over a channel that is there. Returns when each end knows that the other has all."""
    streams = Streams(channel, opens=role == "sender")
    running = asyncio.create_task(streams.run())
    try:
        stream = await (streams.open() if role == "sender" else streams.accept())
        await _both_ways(stream, running, source, sink)
        # The other end says so as well when it has passed on everything. Without a time limit: what is under way on a
        # slow path would be lost if this end closed first. A path that is dead ends the channel.
        await streams.finish()
        await running
    except StreamResetError:
        raise PunchFailedError("client_error", "the other side cannot take any more") from None
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
    watching = asyncio.create_task(stream.given_up())  # also while nothing comes, neither from `source` nor the peer
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
        raise PunchFailedError("client_error", f"standard output cannot be written to: {error.strerror}") from None
