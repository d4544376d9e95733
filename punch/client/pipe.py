"""`punch pipe`: standard input and output of two computers, joined crosswise, each direction ending by itself."""

from __future__ import annotations

import asyncio
from functools import partial

from punch.client.blocking import in_daemon_thread, read_some, write_all
from punch.client.keys import KeyExchange
from punch.client.streams import ByteStream, Streams
from punch.client.tunnel import Options, open_tunnel
from punch.errors import ChannelError, ConnectionLostError, PunchFailedError, StreamResetError, TunnelBrokenError
from punch.frames import Role

BLOCK = 65_000
FAREWELL_S = 5.0


async def pipe(options: Options, exchange: KeyExchange, role: Role, source: int, sink: int) -> None:
    """Meet the peer; copy what can be read from `source` to it, and what it sends to `sink`, until both have ended.

    Raises `PunchFailedError`, and `BrokenPipeError` if whoever reads `sink` has gone.
    """
    async with open_tunnel(options, exchange, role) as channel:
        streams = Streams(channel, opens=role == "sender")
        running = asyncio.create_task(streams.run())
        try:
            stream = await (streams.open() if role == "sender" else streams.accept())
            await _both_ways(stream, running, source, sink)
            async with asyncio.timeout(FAREWELL_S):
                await streams.finish()
                await running
        except TimeoutError:
            pass  # everything has been said, and heard
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
    try:
        for each in asyncio.as_completed(copying):
            await each
    except BrokenPipeError:
        await stream.reset()
        raise
    except ConnectionLostError:
        if running.done() and not running.cancelled() and (error := running.exception()) is not None:
            raise error from None
        raise
    finally:
        for task in copying:
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)


async def _send_all(stream: ByteStream, source: int) -> None:
    while data := await in_daemon_thread(partial(read_some, source, BLOCK)):
        await stream.send(data)
    await stream.end()


async def _receive_all(stream: ByteStream, sink: int) -> None:
    while data := await stream.receive():
        await in_daemon_thread(partial(write_all, sink, data))
