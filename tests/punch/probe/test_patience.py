"""A process that is scheduled late does not mistake that for silence: packets that the kernel received in time
count."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from punchlab.punch.edge.probing.responder import StunAddresses, answer
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.nat.behavior import FilteringBehavior
from punchlab.punch.nat.probe import FEWEST_PORTS, NotTested, pooling
from punchlab.punch.net.reach import Reach
from punchlab.punch.probe.lifetime import survives
from punchlab.punch.probe.patience import within
from punchlab.punch.probe.servers import Servers
from punchlab.punch.probe.stun import decode
from punchlab.punch.probe.udp import UdpTests
from punchlab.punch.punching.quota import Servers as Uses
from punchlab.punch.punching.supplied_servers import SuppliedServers

PATIENCE_S = 0.4


def test_an_answer_before_the_deadline_counts_even_if_read_late() -> None:
    async def test() -> bytes | None:
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            waiting = asyncio.create_task(within(0.1, asyncio.get_running_loop().sock_recv(one, 1)))
            await asyncio.sleep(0)  # it is waiting
            other.send(b"x")
            time.sleep(0.3)  # this process is not scheduled until after the deadline
            return await waiting

    assert asyncio.run(test()) == b"x"


def test_silence_is_none_and_an_error_is_an_error() -> None:
    async def failing() -> int:
        raise ConnectionRefusedError

    async def silent() -> int:
        await asyncio.Event().wait()
        return 1

    assert asyncio.run(within(0.05, silent())) is None
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(within(0.05, failing()))


class SlowServer:
    """A STUN server that stops answering for `held_up_s`, or `forever`, at the first CHANGE-REQUEST.

    `admits`: whether answers from other endpoints than the primary one pass.
    """

    def __init__(self, *, admits: bool, held_up_s: float, forever: bool = False) -> None:
        self._admits, self._held_up_s, self._forever = admits, held_up_s, forever
        self._sockets: dict[Endpoint, socket.socket] = {}
        free = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for each in free:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in free]
        for each in free:
            each.close()
        self._addresses = StunAddresses(("127.0.0.1", "127.0.0.2"), ports)
        for endpoint in self._addresses.endpoints:
            self._sockets[endpoint] = made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.setblocking(False)
            made.bind(endpoint)

    @property
    def servers(self) -> Servers:
        primary, other_port, other_address, other_both = self._addresses.endpoints
        named = SuppliedServers(Reach.of(primary, primary.ip), Uses())
        return Servers(primary, other_port, other_address, other_both, changes=True, dial_backs={}, named=named)

    async def serve(self) -> None:
        """Answer; after the first CHANGE-REQUEST nothing for a while, like a process that is not scheduled."""
        loop, primary, held_up = asyncio.get_running_loop(), self._addresses.endpoints[0], False
        try:
            while True:
                data, source = await loop.sock_recvfrom(self._sockets[primary], 1500)
                request = decode(data)
                if request.change is not None and not held_up:
                    held_up = True
                    await asyncio.sleep(1000 if self._forever else self._held_up_s)
                replied = answer(request, Endpoint(*source), primary, self._addresses, datagram=True)
                assert replied is not None
                message, origin, destination = replied
                if origin == primary or self._admits:
                    self._sockets[origin].sendto(message.encode(), destination)
        finally:
            for each in self._sockets.values():
                each.close()


async def admitted(server: SlowServer) -> FilteringBehavior | NotTested:
    serving = asyncio.create_task(server.serve())
    try:
        return await UdpTests(server.servers, PATIENCE_S).filtering()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize(
    ("admits", "expected"),
    [(True, FilteringBehavior.ENDPOINT_INDEPENDENT), (False, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT)],
)
def test_a_late_server_is_not_mistaken_for_filtering(admits: bool, expected: FilteringBehavior) -> None:
    server = SlowServer(admits=admits, held_up_s=1.6 * PATIENCE_S)
    assert asyncio.run(admitted(server)) is expected


def test_a_server_that_stops_answering_is_not_tested() -> None:
    server = SlowServer(admits=True, held_up_s=0, forever=True)
    found = asyncio.run(admitted(server))
    assert isinstance(found, NotTested)
    assert "does not answer" in found.why


def test_a_mapping_that_was_idle_for_too_long_is_tested_again() -> None:
    idled: list[float] = []

    async def idle_test(idle_s: float) -> tuple[bool | NotTested, float]:
        idled.append(idle_s * (2 if len(idled) < 2 else 1))
        return idled[-1] < 15, idled[-1]

    assert asyncio.run(survives(idle_test, 10)) is True
    assert idled == [20, 20, 10]


def test_a_process_that_is_always_late_reports_no_lifetime() -> None:
    async def idle_test(idle_s: float) -> tuple[bool | NotTested, float]:
        return False, idle_s * 2

    assert isinstance(asyncio.run(survives(idle_test, 10)), NotTested)


def test_few_answers_do_not_make_pooling_paired_but_two_addresses_are_arbitrary() -> None:
    assert isinstance(pooling(["11.0.0.1"] * (FEWEST_PORTS - 1)), NotTested)
    assert pooling(["11.0.0.1"] * FEWEST_PORTS) == "paired"
    assert pooling(["11.0.0.1", "11.0.0.2"]) == "arbitrary"
