"""A waiting client with a key file changes to the next name of its session in time."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from websockets.asyncio.server import ServerConnection, serve

from punchlab.punch.client.tunnel import TunnelOptions, open_tunnel
from punchlab.punch.codec import encode
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import PunchFailedError
from punchlab.punch.frames import Contact, Peer, Register, Role, SessionId, Welcome
from punchlab.punch.rendezvous.reconnecting import ReconnectingRendezvous
from punchlab.punch.secure.keys import NAME_S, PresharedKey
from punchlab.punch.strategy.keep import Keep
from tests.punch.edges import run, running
from tests.punch.recorder import Recorder

SOON_S = 0.3


@pytest.mark.parametrize("slow", ["sender", "receiver"])
def test_clients_with_different_clocks_connect_under_the_next_name(slow: Role) -> None:
    async def test() -> None:
        key, begun = os.urandom(32), time.monotonic()
        logs: dict[Role, Recorder] = {"sender": Recorder(), "receiver": Recorder()}

        def clock(ahead_s: float) -> float:
            return NAME_S - SOON_S + ahead_s + time.monotonic() - begun

        async def client(role: Role) -> None:
            options = TunnelOptions(edge.url, Keep(), logs[role])
            exchange = PresharedKey(key, lambda: clock(0 if role == slow else 2 * SOON_S))
            async with open_tunnel(options, exchange, role):
                pass

        async with running("e1") as edge:
            await asyncio.gather(client("sender"), client("receiver"))
        names = {role: [event["session"] for event in log.all("registered")] for role, log in logs.items()}
        fast: Role = "receiver" if slow == "sender" else "sender"
        assert len(names[slow]) == 2
        assert names[fast] == names[slow][1:] != names[slow][:1]
        assert not any(log.all("edge_lost") for log in logs.values())

    run(test)


def test_a_peer_that_is_announced_at_the_last_moment_is_met() -> None:
    """The edge has sent each the other's contact, so neither may have left."""
    peer = Peer(Contact(Endpoint("127.0.0.1", 9), (), None), "local")

    async def test() -> None:
        leaving, announced = asyncio.Event(), asyncio.Event()
        registered = 0

        async def edge(connection: ServerConnection) -> None:
            nonlocal registered
            await connection.recv()
            registered += 1
            await connection.send(encode(Welcome("e", Endpoint(*connection.remote_address))))
            await leaving.wait()
            await connection.send(encode(peer))
            announced.set()
            await connection.wait_closed()

        async with serve(edge, "127.0.0.1", 0) as server:
            url = EdgeUrl("127.0.0.1", server.sockets[0].getsockname()[1])
            rendezvous = await ReconnectingRendezvous.connect_any([url], None, Recorder())
            close = rendezvous._connection.close

            async def leave(code: int = 1000, reason: str = "") -> None:
                leaving.set()
                await announced.wait()
                await close(code, reason)

            rendezvous._connection.close = leave  # type: ignore[method-assign]
            rendezvous.rename = lambda: (SessionId("name"), 0.01)
            await rendezvous.register(Register(SessionId("name"), "sender", (rendezvous.local,), None))
            assert await rendezvous.listen() == peer
            await rendezvous.close()
        assert registered == 1

    run(test)


def test_where_nobody_comes_the_clocks_are_named() -> None:
    async def test() -> None:
        async with running() as edge:
            options = TunnelOptions(edge.url, Keep(), Recorder(), wait_s=0.1)
            with pytest.raises(PunchFailedError, match=r"the clocks of both sides must agree within 10 minutes"):
                async with open_tunnel(options, PresharedKey(os.urandom(32)), "sender"):
                    pass

    run(test)
