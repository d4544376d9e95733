"""`punch forward`: forward TCP connections through a tunnel to a destination of the other computer.

Each connection is a stream (`punch.transfer.streams`), which forwards a half-close and a reset as such.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from punchlab.punch.client.tunnel import TunnelOptions, open_tunnel
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError, ChannelError, ConnectionLostError, PunchFailedError, TunnelBrokenError
from punchlab.punch.frames import Role
from punchlab.punch.net.closing import abort_transport, close_by_reset
from punchlab.punch.secure.keys import KeyExchange
from punchlab.punch.transfer.streams import ByteStream, Streams

BLOCK = 65_000
CONNECT_TIMEOUT_S = 10.0

Target = tuple[str, int]
_T = TypeVar("_T")


def parse_target(text: str, *, field: str = "to") -> Target:
    """Parse `HOST:PORT`, where the host is a name or an address. Raises `ArgumentError`."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not _may_be_host(host) or not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ArgumentError(field, text, "HOST:PORT, such as 127.0.0.1:22")
    return host, int(port)


def _may_be_host(text: str) -> bool:
    """Return whether a resolver accepts the text."""
    try:
        return bool(text.encode("idna")) and text.isprintable()
    except UnicodeError:  # an empty label, one that is too long, or bytes that are not text
        return False


async def expose(options: TunnelOptions, exchange: KeyExchange, target: Target) -> None:
    """Forward the peer's streams to `target` until the peer ends. Raises `PunchFailedError` and `ArgumentError`."""
    async with _streams(options, exchange, "sender") as streams:
        await connect_streams(streams, target)


async def connect_streams(streams: Streams, target: Target) -> None:
    """Connect each stream that the peer opens to `target`, until the channel ends with an exception."""
    async with asyncio.TaskGroup() as carrying:
        while True:
            carrying.create_task(_connect(await streams.accept(), target))


async def listen(options: TunnelOptions, exchange: KeyExchange, at: Endpoint) -> None:
    """Forward connections at `at` to the peer until it ends. Raises `PunchFailedError` and `ArgumentError`."""
    try:
        listener = socket.create_server(at)
    except OSError as error:
        raise ArgumentError("listen", str(at), f"an address to listen at ({error.strerror})") from None
    with listener:
        async with _streams(options, exchange, "receiver") as streams, asyncio.TaskGroup() as carrying:

            async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                try:
                    stream = await streams.open()
                except ChannelError:
                    _reset(writer)
                    return
                await _carry(stream, reader, writer)

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                carrying.create_task(carry(reader, writer))

            server = await asyncio.start_server(accept, sock=listener)
            try:
                options.report("forwarding", listen=str(Endpoint.of(listener.getsockname())))
                await streams.ended()
            finally:
                server.close()  # without `wait_closed`, which waits for all connections since Python 3.12


@contextlib.asynccontextmanager
async def _streams(options: TunnelOptions, exchange: KeyExchange, role: Role) -> AsyncIterator[Streams]:
    """Yield the streams of a new tunnel, which the receiver opens. Ends without an error when the peer ends."""
    async with open_tunnel(options, exchange, role) as channel:
        streams = Streams(channel, opens=role == "receiver")
        running = asyncio.create_task(streams.run())
        try:
            yield streams
        except BaseException as error:
            failure = running.exception() if running.done() and not running.cancelled() else None
            if running.done() and not running.cancelled() and failure is None:
                return  # the peer sent FINAL
            if isinstance(error, asyncio.CancelledError):
                with contextlib.suppress(ChannelError, TimeoutError):
                    async with asyncio.timeout(1.0):
                        await streams.finish()
                raise
            if isinstance(failure, ConnectionLostError):
                raise TunnelBrokenError(str(failure)) from None
            if isinstance(failure, ChannelError):
                raise PunchFailedError("client_error", str(failure)) from None
            raise
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _connect(stream: ByteStream, target: Target) -> None:
    connecting = asyncio.create_task(_dial(target))
    try:
        reader, writer = await _unless_reset(stream, connecting)
    except (OSError, TimeoutError, UnicodeError):  # UnicodeError: not a host name
        with contextlib.suppress(ChannelError):
            await stream.reset()
    except ChannelError:
        pass
    else:
        await _carry(stream, reader, writer)


async def _dial(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        return await asyncio.open_connection(*target)


async def _carry(stream: ByteStream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy in both directions until both have ended; forward a reset of either side to the other."""
    try:
        await _unless_reset(stream, asyncio.create_task(_copy(stream, reader, writer)))
    except OSError:
        with contextlib.suppress(ChannelError):
            await stream.reset()
        _reset(writer)
    except (ChannelError, asyncio.CancelledError) as error:  # a reset, because a FIN would look like a complete stream
        _reset(writer)
        if isinstance(error, asyncio.CancelledError):
            raise
    finally:
        writer.close()


async def _copy(stream: ByteStream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    copying = [asyncio.create_task(_outward(stream, reader)), asyncio.create_task(_inward(stream, writer))]
    try:
        await asyncio.gather(*copying)
    finally:
        for task in copying:
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)


async def _unless_reset(stream: ByteStream, work: asyncio.Task[_T]) -> _T:
    """Return the result of `work`, or cancel it when either end resets the stream.

    Otherwise a peer that opens and resets streams could have more connections here than the limit of streams.
    """
    watching = asyncio.create_task(stream.wait_for_reset())
    both: set[asyncio.Task[Any]] = {work, watching}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await watching
        return await work
    finally:
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def _outward(stream: ByteStream, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(BLOCK):
        await stream.send(data)
    await stream.end()


async def _inward(stream: ByteStream, writer: asyncio.StreamWriter) -> None:
    while data := await stream.receive():
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        close_by_reset(sock, True)
    abort_transport(writer.transport)
