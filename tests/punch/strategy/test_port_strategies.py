"""How clients check their peers' claims about ports, and their limit of sockets; on the loopback network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from punchlab.punch.client.tunnel import TunnelOptions, open_tunnel
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.frames import Role
from punchlab.punch.strategy.allocation import Allocation
from punchlab.punch.strategy.context import Preparation, Strategy
from punchlab.punch.strategy.portmap import Portmap
from punchlab.punch.strategy.reuse import Reuse
from tests.punch.edges import Running, preshared, run, running
from tests.punch.recorder import Recorder

TOLD_S = 0.3
"""How long to wait where nothing may arrive."""


class Claiming(Reuse):
    """A peer that claims that an endpoint is mapped to it."""

    def __init__(self, claimed: Endpoint) -> None:
        self._claimed = claimed

    async def prepare(self, preparation: Preparation) -> str | None:
        del preparation
        return str(self._claimed)


@contextlib.contextmanager
def listening(ip: str) -> Iterator[tuple[socket.socket, Endpoint]]:
    with socket.create_server((ip, 0)) as listener:
        listener.setblocking(False)
        yield listener, Endpoint(*listener.getsockname())


async def meet(edge: Running, *sides: tuple[Role, Strategy, Recorder]) -> None:
    key = os.urandom(32)
    everyone = asyncio.Barrier(len(sides))

    async def one(role: Role, strategy: Strategy, log: Recorder) -> None:
        async with open_tunnel(TunnelOptions(edge.url, strategy, log), preshared(key), role):
            await everyone.wait()

    await asyncio.gather(*(one(*side) for side in sides))


@pytest.mark.parametrize(("ip", "believed"), [("127.0.0.1", True), ("127.0.0.2", False)])
def test_a_mapped_endpoint_is_dialled_at_the_address_that_the_edge_sees_and_nowhere_else(
    ip: str, believed: bool
) -> None:
    async def test() -> None:
        log = Recorder()
        async with running() as edge:
            with listening(ip) as (listener, claimed):
                await meet(edge, ("sender", Portmap(), log), ("receiver", Claiming(claimed), Recorder()))
                dialled = asyncio.create_task(asyncio.get_running_loop().sock_accept(listener))
                done, _pending = await asyncio.wait([dialled], timeout=None if believed else TOLD_S)
                for each in done:
                    each.result()[0].close()
                dialled.cancel()
        assert bool(done) is believed
        assert bool(log.all("candidate_refused", address=str(claimed))) is not believed

    run(test)


@settings(deadline=None)
@given(st.one_of(st.none(), st.text(), st.sampled_from(["{", "[]", '{"dependent":1,"delta":true}', '{"delta":0}'])))
def test_what_makes_no_sense_of_a_peer_s_allocation_is_not_known(text: str | None) -> None:
    assert Allocation.parse(text) == Allocation()


@pytest.mark.parametrize("told", [Allocation(), Allocation(dependent=False), Allocation(dependent=True, delta=-2)])
def test_the_allocation_that_a_peer_sends_is_read(told: Allocation) -> None:
    assert Allocation.parse(told.encode()) == told


@pytest.mark.parametrize(("hard", "had"), [(4096, 1024), (300, 236)])
def test_the_soft_limit_of_descriptors_is_raised_as_far_as_it_may_be(hard: int, had: int) -> None:
    code = (
        "import resource; from punchlab.punch.net.descriptors import available; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard})); print(available(1024))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == had
