"""The relay of an edge, and a client's connection through it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import replace

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from punchlab.punch.client.relayed import relayed
from punchlab.punch.codec import encode
from punchlab.punch.edge import tickets
from punchlab.punch.edge.limits import Limits
from punchlab.punch.edge.relay import RelayOffer, RelayTerms
from punchlab.punch.edge.server import Settings
from punchlab.punch.endpoint import EdgeUrl
from punchlab.punch.errors import PunchFailedError
from punchlab.punch.punching.puncher import Connection
from punchlab.punch.relay import Join, Joined
from tests.punch.edges import closing_reason, received, registration, run, running, ticket

TOKEN = "cd" * 32
RATE = 50e6


def relaying(rate: float = RATE, **terms: float) -> Settings:
    return Settings(relay=RelayOffer(EdgeUrl("127.0.0.1", 7000), RelayTerms(rate=rate, **terms)))


async def read_exactly(connection: Connection, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = await asyncio.get_running_loop().sock_recv(connection.sock, count - len(found))
        assert piece, f"ended after {len(found)} of {count} bytes"
        found += piece
    return found


def test_a_relay_forwards_bytes_both_ways_and_the_end() -> None:
    async def test() -> None:
        there, back = os.urandom(1_000_000), os.urandom(300_000)
        loop = asyncio.get_running_loop()
        async with running(settings=relaying()) as edge, ticket(edge.url) as shown:

            async def one() -> None:
                async with relayed(edge.url, TOKEN, shown) as connection:
                    sending = asyncio.create_task(loop.sock_sendall(connection.sock, there))
                    assert await read_exactly(connection, len(back)) == back
                    await sending

            async def other() -> None:
                async with relayed(edge.url, TOKEN, shown) as connection:
                    sending = asyncio.create_task(loop.sock_sendall(connection.sock, back))
                    assert await read_exactly(connection, len(there)) == there
                    await sending
                    assert await loop.sock_recv(connection.sock, 1) == b""

            await asyncio.gather(one(), other())
            assert (await edge.log.wait_for("relayed"))["bytes"] == len(there) + len(back)

    run(test)


def test_different_tokens_are_not_joined() -> None:
    async def test() -> None:
        async with running(settings=relaying()) as edge, ticket(edge.url) as shown:
            url = f"{edge.url}/relay"
            async with connect(url, proxy=None) as one, connect(url, proxy=None) as stranger:
                await one.send(encode(Join(TOKEN, shown)))
                await stranger.send(encode(Join("ab" * 32, shown)))
                async with connect(url, proxy=None) as peer:
                    await peer.send(encode(Join(TOKEN, shown)))
                    assert await peer.recv() == encode(Joined())
                    await peer.send(b"for one alone")
                    assert await one.recv() == encode(Joined())
                    assert await one.recv() == b"for one alone"
                # A client that is still waiting gets nothing until the edge closes its connection.
                await edge.log.wait_for("relayed")
                edge.stop.set()
                code, _reason = await closing_reason(stranger)
                assert code == 1001

    run(test)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("{}", "unexpected type"),
        ('{"type":"relay","token":"short"}', "token: 'short' cannot be used; expected 64 hex digits"),
        (f'{{"type":"relay","token":"{TOKEN}"}}', "ticket: "),
        (encode(Join(TOKEN, "ab" * 16)), "the ticket does not belong to two paired clients"),
        (b"\x00", "expected a text frame"),
    ],
)
def test_a_bad_first_frame_is_refused_with_a_reason(frame: str | bytes, expected: str) -> None:
    async def test() -> None:
        async with running(settings=relaying()) as edge, connect(f"{edge.url}/relay", proxy=None) as client:
            await client.send(frame)
            code, reason = await closing_reason(client)
            assert code == 1008
            assert expected in reason

    run(test)


def test_a_pair_is_limited_to_the_rate() -> None:
    async def test() -> None:
        data = os.urandom(400_000)
        async with running(settings=relaying(400_000)) as edge, ticket(edge.url) as shown:

            async def send() -> None:
                async with relayed(edge.url, TOKEN, shown) as connection:
                    await asyncio.get_running_loop().sock_sendall(connection.sock, data)

            async def receive() -> None:
                async with relayed(edge.url, TOKEN, shown) as connection:
                    begun = time.monotonic()
                    assert await read_exactly(connection, len(data)) == data
                    assert time.monotonic() - begun > 0.8  # a second, less the burst

            await asyncio.gather(send(), receive())

    run(test)


async def joined(shown: str, *clients: ClientConnection) -> None:
    for client in clients:
        await client.send(encode(Join(TOKEN, shown)))
    for client in clients:
        assert await client.recv() == encode(Joined())


def test_a_ticket_joins_only_one_pair() -> None:
    async def test() -> None:
        async with running(settings=relaying()) as edge, ticket(edge.url) as shown:
            url = f"{edge.url}/relay"
            async with connect(url, proxy=None) as one, connect(url, proxy=None) as other:
                await joined(shown, one, other)
            async with connect(url, proxy=None) as again:
                await again.send(encode(Join(TOKEN, shown)))
                code, reason = await closing_reason(again)
                assert (code, "used before" in reason) == (1008, True)

    run(test)


def test_a_client_without_a_peer_is_not_relayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "EARLY_S", 0.2)

    async def test() -> None:
        async with running(settings=relaying()) as edge, connect(str(edge.url), proxy=None) as client:
            await client.send(registration("sender"))
            shown = (await received(client))["ticket"]
            async with connect(f"{edge.url}/relay", proxy=None) as stranger:
                await stranger.send(encode(Join(TOKEN, shown)))
                code, reason = await closing_reason(stranger)
                assert (code, "two paired clients" in reason) == (1008, True)

    run(test)


def test_clients_at_two_edges_use_the_relay_of_one() -> None:
    """Also if the client at the other edge connects to the relay before the relay's edge has received that the two are
    paired."""

    async def test() -> None:
        async with (
            running("e1") as near,
            running("e2", join=[near.url], settings=relaying()) as far,
            connect(str(near.url), proxy=None) as sender,
            connect(str(far.url), proxy=None) as receiver,
        ):
            await far.log.wait_for("joined")
            await receiver.send(registration("receiver"))
            own = (await received(receiver))["ticket"]
            async with (
                connect(f"{far.url}/relay", proxy=None) as early,
                connect(f"{far.url}/relay", proxy=None) as late,
            ):
                await early.send(encode(Join(TOKEN, own)))
                await sender.send(registration("sender"))
                assert "ticket" not in await received(sender)
                assert (await received(sender))["ticket"] == own
                await late.send(encode(Join(TOKEN, own)))
                assert await late.recv() == await early.recv() == encode(Joined())

    run(test)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"idle_s": 0.3}, "nothing to relay for 0.3 s"),
        ({"lifetime_s": 0.3}, "relayed for 0.3 s, which is the limit"),
        ({"most_bytes": 1e4}, "relayed 0.01 MB, which is the limit"),
    ],
)
def test_a_pair_is_closed_at_its_limits(terms: dict[str, float], expected: str) -> None:
    async def test() -> None:
        async with running(settings=relaying(**terms)) as edge, ticket(edge.url) as shown:
            url = f"{edge.url}/relay"
            async with connect(url, proxy=None) as one, connect(url, proxy=None) as other:
                await joined(shown, one, other)
                if "most_bytes" in terms:
                    for _ in range(3):
                        await one.send(bytes(4000))
                assert await closing_reason(one) == await closing_reason(other) == (1008, expected)
            assert (await edge.log.wait_for("relayed"))["ended"] == expected

    run(test)


def test_the_pairs_of_one_address_are_limited() -> None:
    async def test() -> None:
        settings = replace(relaying(), limits=Limits(pairs=2))
        async with running(settings=settings) as edge, contextlib.AsyncExitStack() as stack:
            url = f"{edge.url}/relay"
            for number in range(2):
                shown = await stack.enter_async_context(ticket(edge.url, f"relay{number}"))
                one, other = [await stack.enter_async_context(connect(url, proxy=None)) for _ in range(2)]
                if number == 0:
                    await joined(shown, one, other)
                else:
                    for client in (one, other):
                        await client.send(encode(Join(TOKEN, shown)))
                    assert "too many relayed pairs of 127.0.0.1" in (await closing_reason(other))[1]
                    assert (await closing_reason(one))[0] == 1013

    run(test)


def test_an_edge_relays_only_if_its_operator_enables_it() -> None:
    async def test() -> None:
        async with running() as edge:
            with pytest.raises(InvalidStatus, match="404"):
                await connect(f"{edge.url}/relay", proxy=None)
            with pytest.raises(PunchFailedError, match=r"relay ws://.*404"):
                async with relayed(edge.url, TOKEN, "ab" * 16):
                    pass

    run(test)
