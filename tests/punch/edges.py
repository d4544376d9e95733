"""Edges in the event loop of the test, and plain clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from punchlab.punch.edge.http import THIS_MACHINE, Access
from punchlab.punch.edge.probing.responder import StunAddresses
from punchlab.punch.edge.server import Edge, Settings
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.secure.keys import PresharedKey
from scenarios.hostile.clients import registration as registration
from tests.punch.recorder import PATIENCE_S, Recorder

ANY_PORT = Endpoint("127.0.0.1", 0)
JOINED = Access(mesh=THIS_MACHINE)
"""Settings that accept other edges of this computer."""


def preshared(key: bytes) -> PresharedKey:
    """Return the exchange of a key file at a fixed time, so that its session keeps its name."""
    return PresharedKey(key, lambda: 0.0)


class Running:
    """An edge that is running."""

    def __init__(self, edge: Edge, log: Recorder, stop: asyncio.Event) -> None:
        self.log, self.stop = log, stop
        self.address, self.address6 = edge.address, edge.addresses[-1]
        self.url = EdgeUrl(edge.address.ip, edge.address.port)
        self.metrics = edge.metrics


@contextlib.asynccontextmanager
async def running(
    name: str = "e1",
    *,
    join: list[EdgeUrl] | None = None,
    lifetime_s: float = 60,
    listen: Endpoint = ANY_PORT,
    stun: StunAddresses | None = None,
    settings: Settings | None = None,
    also: Sequence[Endpoint] = (),
) -> AsyncIterator[Running]:
    log = Recorder()
    settings = settings or Settings(access=JOINED)
    edge = Edge(listen, log, name=name, lifetime_s=lifetime_s, stun=stun, settings=settings, also=also)
    stop = asyncio.Event()
    task = asyncio.create_task(edge.run(join or [], stop))
    try:
        await log.wait_for("listening")
        yield Running(edge, log, stop)
    finally:
        stop.set()
        await task


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * PATIENCE_S):  # a shorter wait has the better message
            await test()

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def registered(at: Running, role: str, session: str = "k7x2mq") -> AsyncIterator[ClientConnection]:
    async with connect(str(at.url), proxy=None) as client:
        await client.send(registration(role, session))
        assert json.loads(await client.recv())["type"] == "welcome"
        yield client


async def received(client: ClientConnection) -> dict[str, Any]:
    value = json.loads(await client.recv())
    assert isinstance(value, dict)
    return value


async def closing_reason(client: ClientConnection) -> tuple[int, str]:
    """Read until the connection closes; return the code and the reason."""
    try:
        while True:
            await client.recv()
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (1006, "")


@contextlib.asynccontextmanager
async def ticket(url: EdgeUrl, session: str = "relay1") -> AsyncIterator[str]:
    """Yield the relay ticket of two clients that are paired there and stay connected."""
    async with connect(str(url), proxy=None) as sender, connect(str(url), proxy=None) as receiver:
        await sender.send(registration("sender", session))
        welcome = json.loads(await sender.recv())
        await receiver.send(registration("receiver", session))
        assert json.loads(await receiver.recv())["type"] == "welcome"
        peer = json.loads(await receiver.recv())
        assert peer["ticket"] == welcome["ticket"]
        await sender.recv()
        yield str(welcome["ticket"])
