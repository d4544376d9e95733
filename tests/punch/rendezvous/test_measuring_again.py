"""A client repeats all measurements of the network before each registration; on the loopback network."""

from __future__ import annotations

import asyncio
import os

import pytest

from punchlab.punch.client.tunnel import TunnelOptions, open_tunnel
from punchlab.punch.endpoint import EdgeUrl
from punchlab.punch.frames import Role
from punchlab.punch.strategy.auto import Auto
from punchlab.punch.strategy.context import Preparation, PunchContext, Strategy
from punchlab.punch.strategy.reuse import Reuse
from tests.punch.edges import preshared, run, running
from tests.punch.recorder import Recorder


class Numbered(Reuse):
    """Measures a number, each time another one, and records the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.edges: list[EdgeUrl] = []
        self.met: tuple[str | None, str | None] | None = None
        self.preparation: Preparation | None = None

    async def prepare(self, preparation: Preparation) -> str | None:
        self.calls.append("prepare")
        self.edges.append(preparation.edge)
        self.preparation = preparation
        return str(len(self.edges))

    async def close(self) -> None:
        self.calls.append("close")

    async def punch(self, context: PunchContext) -> None:
        self.met = context.traits, context.peer.contact.traits
        await super().punch(context)


async def client(role: Role, key: bytes, strategy: Strategy, log: Recorder, *edges: EdgeUrl) -> None:
    first, *others = edges
    options = TunnelOptions(first, strategy, log, other_edges=tuple(others))
    async with open_tunnel(options, preshared(key), role):
        pass


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_client_that_loses_its_edge_measures_at_the_next_one(role: Role) -> None:
    async def test() -> None:
        key, log = os.urandom(32), Recorder()
        waiting, coming = Numbered(), Numbered()
        other: Role = "receiver" if role == "sender" else "sender"
        async with running("e2") as second:
            async with running("e1") as first:
                client_task = asyncio.create_task(client(role, key, waiting, log, first.url, second.url))
                await log.wait_for("registered", edge="e1")
            await log.wait_for("registered", edge="e2")
            await client(other, key, coming, Recorder(), second.url)
            await client_task
        assert waiting.edges == [first.url, second.url]
        assert waiting.calls == ["close", "prepare", "close", "prepare", "close"]
        assert waiting.met == ("2", "1")  # the key of the tunnel is bound to both
        assert coming.met == ("1", "2")

    run(test)


@pytest.mark.parametrize("times", [1, 3])
def test_a_client_whose_traits_are_outdated_registers_again(times: int) -> None:
    async def test() -> None:
        key, log, waiting, coming = os.urandom(32), Recorder(), Numbered(), Numbered()
        async with running() as edge:
            client_task = asyncio.create_task(client("sender", key, waiting, log, edge.url))
            for number in range(times):
                await log.wait_for("registered", count=number + 1)
                assert waiting.preparation is not None
                waiting.preparation.outdate()
            await log.wait_for("registered", count=times + 1)
            await client("receiver", key, coming, Recorder(), edge.url)
            await client_task
        assert coming.met == ("1", str(times + 1))

    run(test)


def test_traits_that_are_outdated_when_the_peer_is_known_change_nothing() -> None:
    async def test() -> None:
        key, log, waiting, coming = os.urandom(32), Recorder(), Numbered(), Numbered()
        async with running() as edge:
            client_task = asyncio.create_task(client("sender", key, waiting, log, edge.url))
            await log.wait_for("registered")
            await client("receiver", key, coming, Recorder(), edge.url)
            assert waiting.preparation is not None
            waiting.preparation.outdate()
            await client_task
        assert not log.all("edge_lost")

    run(test)


def test_a_client_measures_at_the_edge_that_it_is_connected_to() -> None:
    async def test() -> None:
        key, log, waiting, coming = os.urandom(32), Recorder(), Numbered(), Numbered()
        async with running() as edge:
            nobody = EdgeUrl(edge.url.host, 1)
            client_task = asyncio.create_task(client("sender", key, waiting, log, nobody, edge.url))
            await log.wait_for("registered")
            await client("receiver", key, coming, Recorder(), edge.url)
            await client_task
        assert waiting.edges == [edge.url]

    run(test)


def test_auto_gives_up_what_it_prepared_before_it_prepares_again() -> None:
    async def test() -> None:
        key, log, inner = os.urandom(32), Recorder(), Numbered()
        auto = Auto()
        async with running("e2") as second:
            async with running("e1") as first:
                client_task = asyncio.create_task(client("sender", key, auto, log, first.url, second.url))
                await log.wait_for("registered", edge="e1")
                auto._prepared["portmap"] = inner
            await log.wait_for("registered", edge="e2")
            assert inner.calls == ["close"]
            await client("receiver", key, Auto(), Recorder(), second.url)
            await client_task

    run(test)
