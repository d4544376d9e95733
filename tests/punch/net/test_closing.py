"""`punch.net.closing`: connections end at once in any state."""

from __future__ import annotations

import asyncio
import socket

from punchlab.punch.net.closing import abort_transport


def test_a_transport_that_has_sent_everything_since_it_was_closed_can_be_aborted() -> None:
    async def test() -> None:
        ours, others = socket.socketpair()
        with others:
            others.setblocking(False)
            _reader, writer = await asyncio.open_connection(sock=ours)
            sent = b"x" * (4 << 20)  # more than the socket buffers hold
            writer.write(sent)
            writer.close()
            received = 0
            while data := await asyncio.get_running_loop().sock_recv(others, 1 << 20):
                received += len(data)
            await writer.wait_closed()
            abort_transport(writer.transport)
            assert received == len(sent)

    asyncio.run(test())


def test_what_was_not_sent_is_dropped() -> None:
    async def test() -> None:
        ours, others = socket.socketpair()
        with others:
            _reader, writer = await asyncio.open_connection(sock=ours)
            writer.write(b"x" * (4 << 20))
            writer.close()
            abort_transport(writer.transport)
            async with asyncio.timeout(5):
                await writer.wait_closed()
            received = 0
            while data := others.recv(1 << 20):
                received += len(data)
            assert 0 < received < 4 << 20

    asyncio.run(test())
