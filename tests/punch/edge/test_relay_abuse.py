"""Clients that abuse a relay, and their effect on the edge and on other clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from punchlab.punch.client.relayed import LAST_S, relayed
from punchlab.punch.codec import encode
from punchlab.punch.edge import relay
from punchlab.punch.edge.limits import Limits
from punchlab.punch.edge.relay import RelayOffer, RelayTerms
from punchlab.punch.edge.server import Settings
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.relay import Join, Joined
from scenarios.hostile.clients import Attackers, memory_kib
from tests.punch.edges import Running, closing_reason, run, running, ticket
from tests.punch.processes import running_edge
from tests.punch.recorder import Command

TOKEN = "ab" * 32
RATE = 1e6
CLIENTS = 20


@contextlib.asynccontextmanager
async def joined() -> AsyncIterator[tuple[Running, ClientConnection, ClientConnection]]:
    """An edge and two clients that it relays."""
    settings = Settings(relay=RelayOffer(EdgeUrl("127.0.0.1", 7000), RelayTerms(rate=RATE)))
    async with running(settings=settings) as edge, ticket(edge.url) as shown:
        url = f"{edge.url}/relay"
        async with connect(url, proxy=None) as one, connect(url, proxy=None) as other:
            for client in (one, other):
                await client.send(encode(Join(TOKEN, shown)))
            for client in (one, other):
                assert await client.recv() == encode(Joined())
            yield edge, one, other


@pytest.mark.parametrize("offender", [0, 1])
def test_a_text_message_on_a_relay_closes_both_connections(offender: int, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with joined() as (edge, *clients):
            await clients[offender].send("text")
            assert await closing_reason(clients[offender]) == (1008, "expected a binary message")
            assert await closing_reason(clients[1 - offender]) == (1000, "")
            await edge.log.wait_for("relayed")
            (event,) = edge.log.all("rejected", kind="frame")
            address, port = clients[offender].local_address
            assert event["public"] == f"{address}:{port}"

    with caplog.at_level(logging.ERROR):
        run(test)
    assert not caplog.records


@pytest.mark.parametrize(
    ("opcode", "final"),
    [(Opcode.PING, True), (Opcode.PONG, True), (Opcode.BINARY, False)],
    ids=["ping", "pong", "part"],
)
def test_a_flood_of_pings_or_fragments_on_a_relay_is_stopped(opcode: Opcode, final: bool) -> None:
    first = Frame(opcode, b"", fin=final).serialize(mask=True)
    more = first if final else Frame(Opcode.CONT, b"", fin=False).serialize(mask=True)

    async def test() -> None:
        async with joined() as (edge, one, other):
            one.transport.write(first + more * 1000)
            code, reason = await closing_reason(one)
            assert (code, reason) == (1008, "sent too many pings or fragments")
            await closing_reason(other)
            await edge.log.wait_for("rejected", kind="overrun")

    run(test)


def test_empty_messages_count_on_a_relay() -> None:
    async def test() -> None:
        async with joined() as (_edge, one, other):
            begun = time.monotonic()
            for _number in range(2000):
                await one.send(b"")
            for _number in range(2000):
                assert await other.recv() == b""
            assert time.monotonic() - begun > 1.5  # two seconds, less the burst

    run(test)


def test_a_client_whose_peer_reads_nothing_can_be_interrupted() -> None:
    async def test() -> None:
        settings = Settings(relay=RelayOffer(EdgeUrl("127.0.0.1", 7000), RelayTerms(rate=1e9)))
        async with (
            running(settings=settings) as edge,
            ticket(edge.url) as shown,
            connect(f"{edge.url}/relay", proxy=None, max_queue=1) as peer,
        ):

            async def send() -> None:
                async with relayed(edge.url, TOKEN, shown) as connection:
                    await asyncio.get_running_loop().sock_sendall(connection.sock, bytes(50_000_000))

            sending = asyncio.create_task(send())
            await peer.send(encode(Join(TOKEN, shown)))
            assert await peer.recv() == encode(Joined())
            assert not (await asyncio.wait([sending], timeout=1.0))[0]
            begun = time.monotonic()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert time.monotonic() - begun < 2 * LAST_S
            peer.transport.abort()

    run(test)


def test_unread_messages_need_little_more_memory_than_their_bytes() -> None:
    async def test(edge: Command, url: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(f"{url}/relay", proxy=None)) for _ in range(CLIENTS)]
            before = memory_kib(edge.process.pid)
            for number, client in enumerate(clients):
                stack.callback(client.transport.abort)
                shown = await stack.enter_async_context(ticket(EdgeUrl.parse(url), f"relay{number}"))
                await client.send(encode(Join(f"{number:064x}", shown)))
                client.transport.write(Frame(Opcode.BINARY, b"").serialize(mask=True) * 10_000)
            # The edge has read everything that was sent before this request.
            asking = Attackers(Endpoint.parse(url.removeprefix("ws://")), itertools.repeat("127.0.0.1"))
            assert b"200 OK" in await asyncio.to_thread(asking.ask, b"GET /healthz HTTP/1.1\r\n\r\n")
            assert memory_kib(edge.process.pid) - before < CLIENTS * 500

    with running_edge("e1", "--relay", "ws://127.0.0.1:7000") as (edge, url):
        run(lambda: test(edge, url))


@contextlib.asynccontextmanager
async def waiting(edge: Running, count: int, ip: str = "127.0.0.1") -> AsyncIterator[list[ClientConnection]]:
    """Clients from one address that wait at the relay, each with its own ticket."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for number in range(count):
            shown = await stack.enter_async_context(ticket(edge.url, f"wait{ip.rpartition('.')[2]}x{number}"))
            client = await stack.enter_async_context(connect(f"{edge.url}/relay", proxy=None, local_addr=(ip, 0)))
            await client.send(encode(Join(TOKEN, shown)))
            with contextlib.suppress(ConnectionClosed):
                await (await client.ping())  # the edge has read the frame
            made.append(client)
        yield made


def waiting_settings(**limits: int) -> Settings:
    roomy = Limits(connections=500, pending=500, registrations=500, connection_rate=1e6, **limits)
    return Settings(limits=roomy, relay=RelayOffer(EdgeUrl("127.0.0.1", 7000)))


def test_the_clients_of_one_address_that_wait_at_a_relay_are_limited() -> None:
    async def test() -> None:
        most = Limits().waiting
        async with running(settings=waiting_settings()) as edge, waiting(edge, most + 1) as clients:
            reason = f"too many clients at 127.0.0.1 are waiting at the relay (at most {most})"
            assert await closing_reason(clients[-1]) == (1008, reason)
            async with waiting(edge, 1, "127.0.0.5") as others:
                assert others[0].close_code is clients[0].close_code is None

    run(test)


def test_a_relayed_pair_does_not_count_as_waiting() -> None:
    async def test() -> None:
        async with running(settings=waiting_settings(waiting=1)) as edge, ticket(edge.url) as shown:
            url = f"{edge.url}/relay"
            async with connect(url, proxy=None) as one, connect(url, proxy=None) as other:
                for client in (one, other):
                    await client.send(encode(Join(TOKEN, shown)))
                for client in (one, other):
                    assert await client.recv() == encode(Joined())
                async with waiting(edge, 1) as clients:
                    assert clients[0].close_code is None

    run(test)


def test_a_full_relay_closes_the_connection_that_has_waited_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_WAITING", 2)

    async def test() -> None:
        async with running(settings=waiting_settings()) as edge, waiting(edge, 3) as clients:
            assert await closing_reason(clients[0]) == (1008, "this relay has too many clients")
            assert clients[1].close_code is clients[2].close_code is None

    run(test)
