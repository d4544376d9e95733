"""Many streams over one channel."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import pytest

from punchlab.punch.errors import ChannelError, ConnectionLostError, StreamResetError, TamperedError
from punchlab.punch.secure.channel import Channel, Kind
from punchlab.punch.transfer.streams import MAX_STREAMS, WINDOW, ByteStream, Streams
from tests.punch.wires import channels, run


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Streams, Streams]]:
    """Yield both ends of a channel with streams: the one that opens them, and the one that accepts."""
    async with channels() as (one, other):
        ends = Streams(one, opens=True), Streams(other, opens=False)
        running = [asyncio.create_task(end.run()) for end in ends]
        try:
            yield ends
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def opened(ends: tuple[Streams, Streams]) -> tuple[ByteStream, ByteStream]:
    return await ends[0].open(), await ends[1].accept()


async def read_all(stream: ByteStream) -> bytes:
    pieces = []
    while data := await stream.receive():
        pieces.append(data)
    return b"".join(pieces)


@pytest.mark.parametrize("size", [0, 1, 65_516, 65_517, WINDOW, 3 * WINDOW + 7])
def test_bytes_cross_both_ways_and_each_way_ends_by_itself(size: int) -> None:
    content = os.urandom(size)

    async def test() -> None:
        async with pair() as ends:
            near, far = await opened(ends)

            async def ask() -> bytes:
                await near.send(content)
                await near.end()
                return await read_all(near)

            asking = asyncio.create_task(ask())
            assert await read_all(far) == content
            await far.send(content[::-1])
            await far.end()
            assert await asking == content[::-1]
            assert near.over
            assert far.over

    run(test)


def test_a_stream_that_nobody_reads_holds_up_no_other() -> None:
    async def test() -> None:
        async with pair() as ends:
            near, _ = await opened(ends)
            stalled = asyncio.create_task(near.send(bytes(3 * WINDOW)))
            quick, far = await opened(ends)
            content = os.urandom(3 * WINDOW)
            sending = asyncio.create_task(quick.send(content))
            received = b""
            while len(received) < len(content):
                received += await far.receive()
            await sending
            assert received == content
            assert not stalled.done()
            stalled.cancel()

    run(test)


def test_a_reset_reaches_the_other_end_in_the_middle_of_everything() -> None:
    async def test() -> None:
        async with pair() as ends:
            near, far = await opened(ends)
            sending = asyncio.create_task(near.send(bytes(2 * WINDOW)))
            await far.receive()
            await far.reset()
            with pytest.raises(StreamResetError, match="by the other end"):
                await sending
            with pytest.raises(StreamResetError, match="by this end"):
                await far.receive()
            again, other = await opened(ends)
            await again.send(b"still there")
            assert await other.receive() == b"still there"

    run(test)


def test_streams_that_are_over_make_room() -> None:
    async def test() -> None:
        async with pair() as ends:
            for _ in range(2 * MAX_STREAMS):
                near, far = await opened(ends)
                await near.end()
                assert await far.receive() == b""
                await far.end()
                assert await near.receive() == b""
            for _ in range(MAX_STREAMS):
                await opened(ends)
            with pytest.raises(StreamResetError, match="more than"):
                await ends[0].open()

    run(test)


def test_a_stream_too_many_is_reset_and_the_others_live() -> None:
    async def test() -> None:
        async with channels() as (hostile, channel):
            running = asyncio.create_task(Streams(channel, opens=False).run())
            for number in range(MAX_STREAMS + 1):
                await hostile.send(Kind.OPEN, number.to_bytes(4, "big"))
            assert await hostile.expect(Kind.RESET) == MAX_STREAMS.to_bytes(4, "big")
            await hostile.send(Kind.FINAL)
            await running

    run(test)


@pytest.mark.parametrize(
    "frames",
    [
        [(Kind.PUSH, bytes(4))],
        [(Kind.OPEN, b"")],
        [(Kind.OPEN, (1).to_bytes(4, "big"))],
        [(Kind.OPEN, bytes(4)), (Kind.OPEN, bytes(4))],
        [(Kind.OPEN, bytes(4)), *[(Kind.PUSH, bytes(60_000))] * (WINDOW // 59_996 + 1)],
        [(Kind.OPEN, bytes(4)), (Kind.CREDIT, bytes(4) + b"\x00\x00\x00\x01")],
        [(Kind.OPEN, bytes(4)), (Kind.CREDIT, bytes(5))],
        [(Kind.OPEN, bytes(4)), (Kind.END, bytes(4)), (Kind.PUSH, bytes(5))],
        [(Kind.DATA, bytes(4))],
    ],
)
def test_what_breaks_the_protocol_ends_everything(frames: list[tuple[Kind, bytes]]) -> None:
    async def test() -> None:
        async with channels() as (hostile, channel):
            streams = Streams(channel, opens=False)
            running = asyncio.create_task(streams.run())
            for kind, payload in frames:
                await hostile.send(kind, payload)
            with pytest.raises(TamperedError):
                await running
            with pytest.raises(TamperedError):
                await streams.ended()

    run(test)


@pytest.mark.parametrize("final", [True, False])
def test_the_end_of_the_channel_ends_every_stream(final: bool) -> None:
    async def leave(channel: Channel) -> None:
        if final:
            await channel.send(Kind.FINAL)
        else:
            channel.close()

    async def test() -> None:
        async with channels() as (other, channel):
            streams = Streams(channel, opens=True)
            running = asyncio.create_task(streams.run())
            stream = await streams.open()
            reading = asyncio.create_task(stream.receive())
            await leave(other)
            with pytest.raises(ConnectionLostError):
                await reading
            with pytest.raises(ChannelError):
                await streams.open()
            with pytest.raises(ChannelError):
                await streams.accept()
            await asyncio.gather(running, return_exceptions=True)

    run(test)
