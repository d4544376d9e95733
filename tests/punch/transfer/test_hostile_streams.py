"""Streams whose other end knows the secret and violates the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from punchlab.punch.secure.channel import Kind
from punchlab.punch.transfer.forward import CONNECT_TIMEOUT_S, Target, connect_streams
from punchlab.punch.transfer.streams import MAX_STREAMS, Streams
from tests.punch.wires import channels, run


def test_a_push_of_no_bytes_does_not_end_a_stream() -> None:
    async def test() -> None:
        async with channels() as (hostile, channel):
            streams = Streams(channel, opens=False)
            running = asyncio.create_task(streams.run())
            await hostile.send(Kind.OPEN, bytes(4))
            await hostile.send(Kind.PUSH, bytes(4))
            await hostile.send(Kind.PUSH, bytes(4) + b"more")
            stream = await streams.accept()
            assert await stream.receive() == b"more"
            running.cancel()

    run(test)


def test_bytes_that_come_one_by_one_take_no_more_memory_than_others() -> None:
    async def test() -> None:
        async with channels() as (hostile, channel):
            streams = Streams(channel, opens=False)
            running = asyncio.create_task(streams.run())
            await hostile.send(Kind.OPEN, bytes(4))
            stream = await streams.accept()
            before = sys.getallocatedblocks()
            for _ in range(20_000):
                await hostile.send(Kind.PUSH, bytes(4) + b"xy")
            await hostile.send(Kind.OPEN, (1).to_bytes(4, "big"))
            await streams.accept()  # now all earlier frames have been handled
            assert sys.getallocatedblocks() - before < 5000
            assert await stream.receive() == b"xy" * 20_000
            running.cancel()

    run(test)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def silent_target() -> Iterator[Target]:
    """A port with a full queue, which drops SYNs, so that connecting to it blocks."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


def test_a_stream_that_is_reset_leaves_no_connection_under_way_to_the_target() -> None:
    """Otherwise a peer that opens and resets streams would have more connections than the limit of streams."""

    async def test() -> None:
        with silent_target() as target:
            async with channels() as (hostile, channel):
                streams = Streams(channel, opens=False)
                running = asyncio.create_task(streams.run())
                carrying = asyncio.create_task(connect_streams(streams, target))
                before = descriptors()
                await hostile.send(Kind.OPEN, bytes(4))
                while descriptors() == before:
                    await asyncio.sleep(0.01)
                await hostile.send(Kind.RESET, bytes(4))
                async with asyncio.timeout(CONNECT_TIMEOUT_S / 2):
                    while descriptors() > before:
                        await asyncio.sleep(0.01)
                for task in (running, carrying):
                    task.cancel()
                await asyncio.gather(running, carrying, return_exceptions=True)

    run(test)


def test_streams_that_are_reset_before_anybody_accepts_them_do_not_pile_up() -> None:
    async def test() -> None:
        async with channels() as (hostile, channel):
            streams = Streams(channel, opens=False)
            running = asyncio.create_task(streams.run())
            for number in range(3 * MAX_STREAMS):
                await hostile.send(Kind.OPEN, number.to_bytes(4, "big"))
                await hostile.send(Kind.RESET, number.to_bytes(4, "big"))
            await hostile.send(Kind.OPEN, (3 * MAX_STREAMS).to_bytes(4, "big"))
            await hostile.send(Kind.PUSH, (3 * MAX_STREAMS).to_bytes(4, "big") + b"the last")
            for _ in range(6 * MAX_STREAMS):  # everything has arrived; now all of it is read
                await asyncio.sleep(0)
            assert (await streams.accept()).number == 3 * MAX_STREAMS
            running.cancel()

    run(test)
