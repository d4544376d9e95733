"""Endpoints that use a real NATS server on the loopback device."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import socket
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from punchlab.punch.edge.bus.address import parse_bus
from punchlab.punch.edge.server import Edge
from punchlab.punch.errors import ArgumentError
from tests.punch.edges import ANY_PORT, Running, received, registered, run
from tests.punch.recorder import Recorder

pytestmark = pytest.mark.skipif(shutil.which("nats-server") is None, reason="needs the package nats-server")


def free_port() -> int:
    """Return a port outside the ephemeral range."""
    while True:
        port = secrets.choice(range(20_000, 30_000))
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.asynccontextmanager
async def server(port: int) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        "nats-server", "-a", "127.0.0.1", "-p", str(port), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    while b"Server is ready" not in (line := await process.stderr.readline()):
        assert line, "nats-server has ended"
    drain = asyncio.create_task(process.stderr.read())
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()
        await drain


@contextlib.asynccontextmanager
async def edge(name: str, *servers: str, lifetime_s: float = 60) -> AsyncIterator[Running]:
    log, stop = Recorder(), asyncio.Event()
    made = Edge(ANY_PORT, log, name=name, lifetime_s=lifetime_s, nats=servers)
    task = asyncio.create_task(made.run([], stop))
    try:
        await log.wait_for("listening")
        yield Running(made, log, stop)
    finally:
        stop.set()
        await task


@contextlib.asynccontextmanager
async def outsider(url: str) -> AsyncIterator[Client]:
    client = Client()
    await client.connect(url)
    try:
        yield client
    finally:
        await client.close()


def test_clients_at_two_edges_are_paired() -> None:
    async def test() -> None:
        async with server(free_port()) as url, edge("e1", url) as near, edge("e2", url) as far:
            for each in (near, far):
                await each.log.wait_for("joined")
            async with registered(near, "sender") as sender, registered(far, "receiver") as receiver:
                assert (await received(sender))["via"] == (await received(receiver))["via"] == "bus"

    run(test)


def test_a_late_edge_gets_the_missed_messages() -> None:
    async def test() -> None:
        async with server(free_port()) as url, edge("e1", url) as near:
            await near.log.wait_for("joined")
            async with registered(near, "receiver") as receiver:
                await near.log.wait_for("bus_sent", type="waiting")
                async with edge("e2", url) as far, registered(far, "sender") as sender:
                    assert (await received(sender))["via"] == (await received(receiver))["via"] == "bus"

    run(test)


def test_clients_that_register_while_the_only_server_is_down_are_paired_later() -> None:
    async def test() -> None:
        port = free_port()
        async with contextlib.AsyncExitStack() as stack:
            async with server(port) as url:
                near, far = [await stack.enter_async_context(edge(name, url)) for name in ("e1", "e2")]
                for each in (near, far):
                    await each.log.wait_for("joined")
            for each in (near, far):
                await each.log.wait_for("left")
            sender = await stack.enter_async_context(registered(near, "sender"))
            receiver = await stack.enter_async_context(registered(far, "receiver"))
            await stack.enter_async_context(server(port))
            assert (await received(sender))["via"] == (await received(receiver))["via"] == "bus"
            await stack.aclose()

    run(test)


def test_an_edge_waits_for_a_server_that_starts_later() -> None:
    async def test() -> None:
        port = free_port()
        async with edge("e1", f"nats://127.0.0.1:{port}") as near:
            await near.log.wait_for("bus_error")
            async with server(port):
                await near.log.wait_for("joined")

    run(test)


@contextlib.asynccontextmanager
async def hesitating(url: str) -> AsyncIterator[str]:
    """Run a proxy of the server that delays each SUB; yield its URL."""
    host, port = url.removeprefix("nats://").split(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(host, port)
        answering = asyncio.create_task(copy(server_reader, writer))
        while line := await reader.readline():
            if line.startswith(b"SUB "):
                await asyncio.sleep(0.1)
            server_writer.write(line)
        server_writer.close()
        await answering

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        yield "nats://{}:{}".format(*proxy.sockets[0].getsockname())


def test_an_endpoint_that_has_joined_gets_every_later_message() -> None:
    async def test() -> None:
        async with (
            server(free_port()) as url,
            hesitating(url) as slowly,
            edge("e1", slowly) as near,
            outsider(url) as client,
        ):
            await near.log.wait_for("joined")
            await client.publish("punch.session.k7x2mq", b"not json")
            await near.log.wait_for("rejected")

    run(test)


@pytest.mark.parametrize(
    "payload",
    [
        b"not json",
        b"\xff\xfe",
        b"x" * 5000,
        json.dumps({"type": "hello", "name": "e", "instance": "ab" * 8}).encode(),
        json.dumps({"type": "message", "id": "01" * 8, "session": "k7x2mq", "age_s": -1, "body": {}}).encode(),
    ],
)
def test_an_invalid_message_is_refused_and_does_no_harm(payload: bytes) -> None:
    async def test() -> None:
        async with (
            server(free_port()) as url,
            edge("e1", url) as near,
            edge("e2", url) as far,
            outsider(url) as client,
        ):
            await near.log.wait_for("joined")
            await far.log.wait_for("joined")
            for subject in ("punch.session.k7x2mq", "punch.sync"):
                # The fourth, a hello, requests a synchronization.
                if subject == "punch.session.k7x2mq" or b"hello" not in payload:
                    await client.publish(subject, payload)
            await near.log.wait_for("rejected")
            async with registered(near, "sender") as sender, registered(far, "receiver"):
                assert (await received(sender))["via"] == "bus"

    run(test)


def test_the_age_of_a_message_does_not_depend_on_the_sender_s_clock() -> None:
    async def test() -> None:
        async with server(free_port()) as url, edge("e1", url, lifetime_s=60) as near, outsider(url) as client:
            await near.log.wait_for("joined")
            asked = await client.subscribe("punch.session.k7x2mq")
            await client.flush()
            for number, age_s in ((1, 61.0), (2, 59.0)):
                body = {"type": "waiting", "registration": f"{number:016x}", "client": "cc" * 8}
                frame = {"type": "message", "id": f"{number:016x}", "session": "k7x2mq", "age_s": age_s, "body": body}
                await client.publish("punch.session.k7x2mq", json.dumps(frame).encode())
            await near.log.wait_for("bus_received", count=2)
            async with registered(near, "sender"):
                while (message := json.loads((await asked.next_msg(timeout=5)).data))["body"]["type"] != "ask":
                    pass
            assert message["body"]["registration"] == f"{2:016x}"

    run(test)


def test_an_edge_can_stop_at_any_stage_of_connecting() -> None:
    async def test() -> None:
        async with server(free_port()) as url:
            for turns in range(0, 120, 2):
                async with edge("e1", url):
                    for _ in range(turns):  # iterations of the event loop
                        await asyncio.sleep(0)

    run(test)


def test_an_edge_with_nats_has_no_mesh_path() -> None:
    async def test() -> None:
        async with server(free_port()) as url, edge("e1", url) as near:
            reader, writer = await asyncio.open_connection(*near.address)
            writer.write(b"GET /mesh HTTP/1.1\r\nHost: e\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            writer.write(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
            assert b"404" in await reader.readline()
            writer.close()
            await writer.wait_closed()

    run(test)


@pytest.mark.parametrize("text", ["", "nats", "http://a:1", "nats://a", "nats://a:0", "nats://a:70000", "nats://a:1,"])
def test_an_invalid_bus_is_an_argument_error(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^bus: "):
        parse_bus(text)


def test_servers_are_read_in_order() -> None:
    assert parse_bus("mesh") == []
    assert parse_bus("nats://a:1,tls://user:secret@b.example:2") == ["nats://a:1", "tls://user:secret@b.example:2"]
