"""The relay of an edge, and a client's socket through it."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from punch.client.puncher import Connection
from punch.client.relayed import relayed
from punch.edge.relay import RelayOffer
from punch.edge.server import Settings
from punch.endpoint import EdgeUrl
from punch.errors import PunchFailedError
from punch.relay import joined_frame, relay_frame
from tests.punch.edges import closing_reason, run, running

TOKEN = "cd" * 32
RATE = 50e6


def relaying(rate: float) -> Settings:
    return Settings(relay=RelayOffer(EdgeUrl("127.0.0.1", 7000), rate))


async def read_exactly(connection: Connection, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = await asyncio.get_running_loop().sock_recv(connection.sock, count - len(found))
        assert piece, f"ended after {len(found)} of {count} bytes"
        found += piece
    return found


def test_bytes_pass_both_ways_and_an_end_comes_through() -> None:
    async def test() -> None:
        there, back = os.urandom(1_000_000), os.urandom(300_000)
        loop = asyncio.get_running_loop()
        async with running(settings=relaying(RATE)) as edge:

            async def one() -> None:
                async with relayed(edge.url, TOKEN) as connection:
                    sending = asyncio.create_task(loop.sock_sendall(connection.sock, there))
                    assert await read_exactly(connection, len(back)) == back
                    await sending

            async def other() -> None:
                async with relayed(edge.url, TOKEN) as connection:
                    sending = asyncio.create_task(loop.sock_sendall(connection.sock, back))
                    assert await read_exactly(connection, len(there)) == there
                    await sending
                    assert await loop.sock_recv(connection.sock, 1) == b""

            await asyncio.gather(one(), other())
            assert (await edge.log.wait_for("relayed"))["bytes"] == len(there) + len(back)

    run(test)


def test_different_tokens_are_not_joined() -> None:
    async def test() -> None:
        async with running(settings=relaying(RATE)) as edge:
            url = f"{edge.url}/relay"
            async with connect(url, proxy=None) as one, connect(url, proxy=None) as stranger:
                await one.send(relay_frame(TOKEN))
                await stranger.send(relay_frame("ab" * 32))
                async with connect(url, proxy=None) as peer:
                    await peer.send(relay_frame(TOKEN))
                    assert await peer.recv() == joined_frame()
                    await peer.send(b"for one alone")
                    assert await one.recv() == joined_frame()
                    assert await one.recv() == b"for one alone"
                # Whoever waits on is told nothing: the next thing that comes is the end.
                await edge.log.wait_for("relayed")
                edge.stop.set()
                code, _reason = await closing_reason(stranger)
                assert code == 1001

    run(test)


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ("{}", "unexpected type"),
        ('{"type":"relay","token":"short"}', "token: expected 64 hex digits"),
        (b"\x00", "expected a text frame"),
    ],
)
def test_a_bad_first_frame_is_refused_in_words(frame: str | bytes, told: str) -> None:
    async def test() -> None:
        async with running(settings=relaying(RATE)) as edge, connect(f"{edge.url}/relay", proxy=None) as client:
            await client.send(frame)
            code, reason = await closing_reason(client)
            assert code == 1008
            assert told in reason

    run(test)


def test_a_pair_gets_no_more_than_the_rate() -> None:
    async def test() -> None:
        data = os.urandom(400_000)
        async with running(settings=relaying(400_000)) as edge:

            async def send() -> None:
                async with relayed(edge.url, TOKEN) as connection:
                    await asyncio.get_running_loop().sock_sendall(connection.sock, data)

            async def receive() -> None:
                async with relayed(edge.url, TOKEN) as connection:
                    begun = time.monotonic()
                    assert await read_exactly(connection, len(data)) == data
                    assert time.monotonic() - begun > 0.8  # a second, less what may pass at once

            await asyncio.gather(send(), receive())

    run(test)


def test_an_edge_does_not_relay_unless_its_operator_wants_it() -> None:
    async def test() -> None:
        async with running() as edge:
            with pytest.raises(InvalidStatus, match="404"):
                await connect(f"{edge.url}/relay", proxy=None)
            with pytest.raises(PunchFailedError, match=r"relay ws://.*404"):
                async with relayed(edge.url, TOKEN):
                    pass

    run(test)
