"""Two clients agree on whether they have a tunnel, whatever happens at the last moment; on the loopback network."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator

import pytest

from punchlab.punch.client.tunnel import TunnelOptions, open_tunnel
from punchlab.punch.edge.relay import RelayOffer
from punchlab.punch.edge.server import Settings
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import PunchFailedError, TunnelBrokenError
from punchlab.punch.frames import Role
from punchlab.punch.punching.candidates import Candidate
from punchlab.punch.secure.channel import HELLO_BYTES, PROOF_BYTES
from punchlab.punch.strategy.context import PunchContext, Strategy
from tests.punch.edges import preshared, run, running
from tests.punch.recorder import Recorder

DEADLINE_S = 1.5
NO_RELAY = EdgeUrl("127.0.0.1", 9)
"""An offered relay that no server answers at."""


class Accepts(Strategy):
    """Connects to nobody."""

    async def punch(self, context: PunchContext) -> None:
        context.begin_key()
        context.puncher.accept()


class LacksSockets(Strategy):
    """Fails because the process has no descriptor left."""

    async def punch(self, context: PunchContext) -> None:
        context.begin_key()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Dials(Strategy):
    """Connects to `through`, a proxy that knows the peer's address."""

    def __init__(self, through: Endpoint, target: asyncio.Future[Endpoint]) -> None:
        self._through, self._target = through, target

    async def punch(self, context: PunchContext) -> None:
        self._target.set_result(context.peer.contact.public)
        context.begin_key()
        context.puncher.dial(Candidate(self._through, "srflx"))


@contextlib.asynccontextmanager
async def between(
    target: asyncio.Future[Endpoint], count: int, go_on: asyncio.Event | None = None
) -> AsyncIterator[Endpoint]:
    """A proxy that forwards both directions, but only a limited number of bytes from the target until `go_on`.

    Without `go_on` it closes both connections at that point.
    """

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int | None = None) -> None:
        if count is not None:
            while count and (data := await reader.read(count)):
                writer.write(data)
                count -= len(data)
            if go_on is None:
                raise ConnectionError
            await go_on.wait()
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer_reader, peer_writer = await asyncio.open_connection(*await target)
        try:
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(carry(reader, peer_writer), carry(peer_reader, writer, count))
        finally:
            writer.close()
            peer_writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Endpoint(*server.sockets[0].getsockname())


def test_a_choice_that_is_confirmed_too_late_for_the_deadline_holds_and_nobody_goes_to_the_relay() -> None:
    async def test() -> None:
        key, both = os.urandom(32), asyncio.Barrier(2)
        target: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
        logs: dict[Role, Recorder] = {"sender": Recorder(), "receiver": Recorder()}
        late = asyncio.Event()

        async def client(edge: EdgeUrl, role: Role, strategy: Strategy) -> None:
            options = TunnelOptions(edge, strategy, logs[role], deadline_s=DEADLINE_S, relay=True)
            async with open_tunnel(options, preshared(key), role):
                await both.wait()

        async def be_late() -> None:
            await logs["sender"].wait_for("peer_known")
            await asyncio.sleep(DEADLINE_S + 0.2)
            late.set()

        settings = Settings(relay=RelayOffer(NO_RELAY))
        async with running(settings=settings) as edge, between(target, HELLO_BYTES, late) as through:
            sender = client(edge.url, "sender", Dials(through, target))
            await asyncio.gather(sender, client(edge.url, "receiver", Accepts()), be_late())
        for log in logs.values():
            assert not log.all("relaying")
            assert "relay" not in (await log.wait_for("agreed"))

    run(test)


def test_a_tunnel_that_breaks_as_soon_as_it_is_agreed_on_can_be_punched_again() -> None:
    async def test() -> None:
        key = os.urandom(32)
        target: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()

        async def client(edge: EdgeUrl, role: Role, strategy: Strategy) -> None:
            log = Recorder()
            with pytest.raises(TunnelBrokenError, match="tunnel failed immediately"):
                async with open_tunnel(TunnelOptions(edge, strategy, log), preshared(key), role):
                    pass
            assert log.all("agreed")

        async with running() as edge, between(target, HELLO_BYTES + PROOF_BYTES) as through:
            sender = client(edge.url, "sender", Dials(through, target))
            await asyncio.gather(sender, client(edge.url, "receiver", Accepts()))

    run(test)


def test_a_strategy_that_gets_no_socket_fails_in_one_line() -> None:
    async def test() -> None:
        key = os.urandom(32)

        async def client(edge: EdgeUrl, role: Role, strategy: Strategy, reason: str) -> None:
            options = TunnelOptions(edge, strategy, Recorder(), deadline_s=DEADLINE_S)
            with pytest.raises(PunchFailedError, match=reason):
                async with open_tunnel(options, preshared(key), role):
                    pass

        async with running() as edge:
            await asyncio.gather(
                client(edge.url, "sender", LacksSockets(), r"cannot punch: .*Too many open files"),
                client(edge.url, "receiver", Accepts(), "no connection"),
            )

    run(test)
