"""An edge that dials back: allowed targets, limits, and results."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from punchlab.punch.edge.probing import dialback
from punchlab.punch.edge.probing.dialback import BURST, REFILL_S, Allowance
from punchlab.punch.edge.probing.responder import StunAddresses
from punchlab.punch.edge.probing.targets import refuses_target
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import EdgeUnreachableError
from punchlab.punch.nat.probe import NotTested
from punchlab.punch.probe.frames import Dialled
from punchlab.punch.probe.servers import DialBackClient, Servers, find
from tests.punch.edges import closing_reason, received, run, running
from tests.punch.probe.ports import fresh_ports

STUN = StunAddresses(("127.0.0.1", "127.0.0.2"), fresh_ports())


@contextlib.asynccontextmanager
async def dial_back_client() -> AsyncIterator[DialBackClient]:
    async with running(stun=STUN) as edge:
        made = await DialBackClient.connect(edge.url)
        try:
            yield made
        finally:
            await made.close()


@contextlib.asynccontextmanager
async def bare() -> AsyncIterator[ClientConnection]:
    async with running(stun=STUN) as edge, connect(f"{edge.url}/probe", proxy=None) as client:
        yield client


def test_the_vantage_has_the_stun_endpoints_and_the_public_endpoint() -> None:
    async def test() -> None:
        async with dial_back_client() as made:
            assert list(made.vantage.stun) == STUN.endpoints
            assert made.vantage.public.ip == "127.0.0.1"

    run(test)


@pytest.mark.parametrize("origin", STUN.ips)
def test_a_listener_is_dialled_from_the_requested_address_and_a_fresh_port(origin: str) -> None:
    async def test() -> None:
        async with dial_back_client() as made:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                dialled = await made.dial_back("tcp", origin, Endpoint(*listener.getsockname()), 5)
                accepted, source = listener.accept()
                accepted.close()
            assert isinstance(dialled, Dialled)
            assert (dialled.answer, dialled.origin) == ("accept", source)
            assert source[0] == origin
            assert source[1] not in STUN.ports

    run(test)


def test_the_result_for_a_closed_port_depends_on_the_transport() -> None:
    async def test() -> None:
        async with dial_back_client() as made:
            with socket.socket() as held:
                held.bind(("127.0.0.1", 0))
                at = Endpoint(*held.getsockname())
                tcp = await made.dial_back("tcp", "127.0.0.1", at, 5)
                udp = await made.dial_back("udp", "127.0.0.1", at, 5)
            assert isinstance(tcp, Dialled)
            assert isinstance(udp, Dialled)
            assert (tcp.answer, udp.answer) == ("reset", "port-unreachable")

    run(test)


def test_no_other_address_is_dialled() -> None:
    async def test() -> None:
        async with dial_back_client() as made:
            with socket.create_server(("127.0.0.2", 0)) as listener:
                result = await made.dial_back("tcp", "127.0.0.1", Endpoint(*listener.getsockname()), 1)
                assert isinstance(result, NotTested)
                assert "127.0.0.1" in result.why

    run(test)


def test_a_dial_request_has_no_target_address() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.2", 0)) as victim:
            victim.settimeout(0.2)
            port = victim.getsockname()[1]
            async with bare() as client:
                await received(client)
                fields = {"id": 1, "transport": "tcp", "ip": "127.0.0.1", "port": port, "patience_s": 5}
                await client.send(json.dumps({"type": "dial", "target": "127.0.0.2", **fields}))
                assert (await received(client))["result"] == "ECONNREFUSED"  # no listener at our own address
            with pytest.raises(TimeoutError):
                victim.accept()

    run(test)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 0},
        {"port": 65536},
        {"port": "80"},
        {"port": 1.5},
        {"transport": "icmp"},
        {"patience_s": 1e9},
        {"patience_s": -1},
        {"id": None},
        {"ip": ""},
    ],
)
def test_a_malformed_dial_request_closes_the_connection(wrong: dict[str, object]) -> None:
    async def test() -> None:
        async with bare() as client:
            await received(client)
            fields = {"id": 1, "transport": "tcp", "ip": "127.0.0.1", "port": 9, "patience_s": 1}
            await client.send(json.dumps({"type": "dial", **fields, **wrong}))
            code, reason = await closing_reason(client)
            assert code == 1008
            assert next(iter(wrong)) in reason

    run(test)


def test_an_edge_dials_only_from_its_own_addresses_and_not_too_often() -> None:
    async def test() -> None:
        async with dial_back_client() as made:
            target = Endpoint("127.0.0.1", fresh_ports()[0])
            elsewhere = await made.dial_back("udp", "127.0.0.3", target, 0.1)
            assert isinstance(elsewhere, NotTested)
            assert "127.0.0.3" in elsewhere.why
            result = [await made.dial_back("tcp", "127.0.0.1", target, 1) for _ in range(BURST + 1)]
            assert all(isinstance(each, Dialled) for each in result[:BURST])
            assert isinstance(result[BURST], NotTested)
            assert "too many" in str(result[BURST])

    run(test)


def test_well_known_ports_are_not_dialled() -> None:
    async def test() -> None:
        async with dial_back_client() as made:
            for transport in ("tcp", "udp"):
                result = await made.dial_back(transport, "127.0.0.1", Endpoint("127.0.0.1", 1023), 0.1)
                assert isinstance(result, NotTested)
                assert "127.0.0.1:1023 cannot be dialled: a port below 1024" in result.why

    run(test)


@pytest.mark.parametrize(
    ("origin", "ip", "dialled"),
    [
        *(("11.0.0.1", "11.0.0.2", True), ("11.0.0.1", "8.8.8.8", True), ("10.0.0.1", "11.0.0.2", True)),
        *(("10.0.0.1", "10.9.9.9", True), ("127.0.0.1", "127.0.0.2", True), ("127.0.0.1", "127.0.0.1", True)),
        *(("11.0.0.1", "172.17.0.1", False), ("11.0.0.1", "127.0.0.1", False), ("10.0.0.1", "127.0.0.1", False)),
        *(("127.0.0.1", "10.0.0.2", False), ("10.0.0.1", "192.168.1.1", False), ("11.0.0.1", "169.254.1.1", False)),
        *(("169.254.1.1", "169.254.1.2", False), ("11.0.0.1", "11.0.0.1", False), ("10.0.0.1", "10.0.0.1", False)),
    ],
)
def test_targets_are_limited_to_the_network_of_the_origin(origin: str, ip: str, dialled: bool) -> None:
    computer = {"11.0.0.1", "10.0.0.1", "127.0.0.1"}
    assert (refuses_target(Endpoint(ip, 1024), origin, computer) is None) is dialled
    assert refuses_target(Endpoint(ip, 1023), origin, computer)


def test_a_client_behind_the_private_gateway_of_the_edge_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose userland proxy hides its clients."""
    monkeypatch.setattr(dialback, "default_gateway", lambda: "127.0.0.1")

    async def test() -> None:
        async with dial_back_client() as made:
            result = await made.dial_back("tcp", "127.0.0.1", Endpoint("127.0.0.1", 41000), 0.1)
            assert isinstance(result, NotTested)
            assert "the gateway of this edge" in result.why

    run(test)


def test_each_address_has_an_allowance_that_refills() -> None:
    now = [100.0]
    allowance = Allowance(lambda: now[0])
    assert all(allowance.take("192.0.2.1") for _ in range(BURST))
    assert not allowance.take("192.0.2.1")
    assert allowance.take("192.0.2.2")
    now[0] += REFILL_S
    assert allowance.take("192.0.2.1")
    assert not allowance.take("192.0.2.1")


def test_an_edge_without_stun_does_not_serve_probes() -> None:
    async def test() -> None:
        async with running() as edge:
            with pytest.raises(InvalidStatus):
                async with connect(f"{edge.url}/probe", proxy=None):
                    pass
            with pytest.raises(EdgeUnreachableError, match="--stun"):
                await DialBackClient.connect(edge.url)

    run(test)


def test_two_edges_with_one_address_each_are_combined() -> None:
    async def test() -> None:
        port, _next = fresh_ports()
        stuns = [StunAddresses.of(Endpoint(f"127.0.0.{number}", port), None) for number in (1, 2)]
        async with running("e1", stun=stuns[0]) as one, running("e2", stun=stuns[1]) as other:
            servers = await found(one.url, other.url)
            assert servers.endpoints == [*stuns[0].endpoints, *stuns[1].endpoints]
            assert not servers.changes
            assert {ip: made.vantage.edge for ip, made in servers.dial_backs.items()} == {
                "127.0.0.1": "e1",
                "127.0.0.2": "e2",
            }
            await servers.close()

    async def found(*urls: EdgeUrl) -> Servers:
        return await find(urls)

    run(test)
