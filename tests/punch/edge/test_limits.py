"""The limits of what one address may use of an edge."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from typing import ClassVar, cast

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from punchlab.punch.edge import connection, limits
from punchlab.punch.edge.connection import MAX_OUTBOX, EdgeConnection, Outbox
from punchlab.punch.edge.contacts import allowed_candidates
from punchlab.punch.edge.limits import Admission, LimitError, Limits, RateLimiter, sources
from punchlab.punch.edge.server import Settings
from punchlab.punch.endpoint import Endpoint
from scenarios.hostile.clients import upgrade, ws_frame
from tests.punch.edges import Running, closing_reason, received, registered, registration, run, running


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(call: Callable[[str], object], ip: str = "192.0.2.1") -> LimitError:
    with pytest.raises(LimitError) as caught:
        call(ip)
    return caught.value


def test_only_open_connections_of_an_address_count() -> None:
    limiter = RateLimiter(Limits(connections=2))
    first = limiter.enter("192.0.2.1")
    limiter.enter("192.0.2.1")
    assert refusal(limiter.enter).limit == "connections"
    limiter.enter("192.0.2.2")
    first.leave()
    limiter.enter("192.0.2.1")
    assert limiter.connections == 3


def test_all_connections_together_are_bounded() -> None:
    limiter = RateLimiter(Limits(edge_connections=2))
    for ip in ("192.0.2.1", "192.0.2.2"):
        limiter.enter(ip).settle()
    assert refusal(limiter.enter, "192.0.2.3").limit == "edge_connections"


def test_pending_connections_of_one_address_are_bounded() -> None:
    limiter = RateLimiter(Limits(pending=2))
    first = limiter.enter("192.0.2.1")
    limiter.enter("192.0.2.1")
    assert str(refusal(limiter.enter)) == "too many connections from 192.0.2.1 that have not registered (at most 2)"
    limiter.enter("192.0.2.2")
    first.settle()
    limiter.enter("192.0.2.1")
    assert (limiter.pending, limiter.connections) == (3, 4)


@pytest.mark.parametrize(("settled", "most"), [(0, 256), (300, 100)])
def test_the_oldest_pending_connection_is_closed_for_a_new_one(settled: int, most: int) -> None:
    """At the limit of pending connections, or when the edge is full; connections of registered clients stay open."""
    limiter = RateLimiter(
        Limits(edge_connections=settled + most, connections=10_000, pending=10_000, connection_rate=1e6)
    )
    ended: list[int] = []
    reported: list[None] = []
    limiter.on_ended = lambda: reported.append(None)
    for number in range(settled):
        registered = limiter.enter("192.0.2.1")
        registered.end = partial(ended.append, -number)
        registered.settle()
    for number in range(most + 20):
        admission = limiter.enter("192.0.2.2")

        def end(number: int = number, admission: Admission = admission) -> None:
            ended.append(number)
            admission.leave()

        admission.end = end
    assert ended == list(range(20))
    assert (limiter.pending, limiter.connections, len(reported)) == (most, settled + most, 20)


def test_a_burst_of_connections_is_limited_to_ten_seconds_worth() -> None:
    clock = Clock()
    limiter = RateLimiter(Limits(connection_rate=2), clock)
    for _ in range(20):
        limiter.enter("192.0.2.1").leave()
    assert refusal(limiter.enter).limit == "connection_rate"
    clock.now += 0.5
    limiter.enter("192.0.2.1")
    assert refusal(limiter.enter).limit == "connection_rate"
    limiter.enter("192.0.2.2")


def test_frames_have_a_separate_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(Limits(frame_rate=1), clock)
    for _ in range(10):
        limiter.take("frame_rate", "192.0.2.1")
    assert refusal(partial(limiter.take, "frame_rate")).limit == "frame_rate"
    limiter.enter("192.0.2.1")
    clock.now += 1
    limiter.take("frame_rate", "192.0.2.1")


def test_rejections_of_an_address_are_reported_at_intervals() -> None:
    clock = Clock()
    limiter = RateLimiter(Limits(registrations=1), clock)
    limiter.hold("registrations", "192.0.2.1")
    register = partial(limiter.hold, "registrations")
    assert [refusal(register).recently_reported for _ in range(3)] == [False, True, True]
    clock.now += 10
    assert not refusal(register).recently_reported
    limiter.release("registrations", "192.0.2.1")
    limiter.hold("registrations", "192.0.2.1")


def test_the_table_of_addresses_is_bounded_and_keeps_entries_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TABLE", 100)
    limiter = RateLimiter(Limits(connections=1), Clock())
    held = [f"10.0.0.{number}" for number in range(50)]
    for ip in held:
        limiter.enter(ip)
    for number in range(10_000):
        limiter.take("frame_rate", f"10.1.{number // 256}.{number % 256}")
        assert len(limiter) <= 100 + len(held)
    for ip in held:
        assert refusal(limiter.enter, ip).limit == "connections"


def test_addresses_that_use_nothing_are_removed() -> None:
    clock = Clock()
    limiter = RateLimiter(Limits(), clock)
    for number in range(1000):
        limiter.take("frame_rate", f"10.1.{number // 256}.{number % 256}")
    clock.now += 60
    for number in range(1000):
        limiter.take("frame_rate", f"10.2.{number // 256}.{number % 256}")
    assert len(limiter) <= 1010


@pytest.mark.parametrize(
    ("ip", "counted"),
    [
        ("192.0.2.1", {"192.0.2.1": 1}),
        ("::ffff:192.0.2.1", {"192.0.2.1": 1}),
        ("2001:db8:1:234:3:4:5:6", {"2001:db8:1:234::/64": 1, "2001:db8:1:200::/56": 2, "2001:db8:1::/48": 4}),
        ("fe80::1%eth0", {"fe80::/64": 1, "fe80::/56": 2, "fe80::/48": 4}),
    ],
)
def test_an_ipv6_address_counts_in_its_networks(ip: str, counted: dict[str, int]) -> None:
    assert dict(sources(ip)) == counted


def test_one_ipv6_network_cannot_exhaust_an_edge() -> None:
    """A /48 has four times the share of one address, whatever addresses its clients use, and other clients are
    accepted."""
    limiter = RateLimiter(Limits(connection_rate=1e6))
    entered = 0
    for number in range(65_536):
        with contextlib.suppress(LimitError):
            limiter.enter(f"2001:db8:1:{number:x}::1").settle()
            entered += 1
    assert entered == 4 * Limits().connections
    assert "from 2001:db8:1::/48 (at most 400)" in str(refusal(limiter.enter, "2001:db8:1:ffff::1"))
    limiter.enter("2001:db8:2::1")
    assert limiter.connections == 401


def test_one_customer_with_a_56_has_twice_the_share_of_an_address() -> None:
    limiter = RateLimiter(Limits(connection_rate=1e6))
    for number in range(256):
        with contextlib.suppress(LimitError):
            limiter.enter(f"2001:db8:1:{number:x}::1").settle()
    assert limiter.connections == 2 * Limits().connections


def test_ipv6_networks_have_rates_too() -> None:
    limiter = RateLimiter(Limits(connection_rate=1), Clock())
    entered = 0
    for number in range(1000):
        with contextlib.suppress(LimitError):
            limiter.enter(f"2001:db8:1:{number:x}::1").leave()
            entered += 1
    assert entered == 40


def at(edge: Running, ip: str = "127.0.0.5") -> connect:
    return connect(str(edge.url), local_addr=(ip, 0), proxy=None)


async def refused_at(edge: Running, ip: str = "127.0.0.5") -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught:
        await at(edge, ip)
    body = caught.value.response.body
    assert body is not None
    return caught.value.response.status_code, bytes(body).decode()


def test_a_rejected_connection_gets_the_reason_and_others_are_accepted() -> None:
    async def test() -> None:
        async with (
            running(settings=Settings(limits=Limits(connections=2))) as edge,
            contextlib.AsyncExitStack() as stack,
        ):
            clients: list[ClientConnection] = [await stack.enter_async_context(at(edge)) for _ in range(2)]
            assert await refused_at(edge) == (429, "too many connections from 127.0.0.5 (at most 2)\n")
            await edge.log.wait_for("limited", limit="connections")
            async with at(edge, "127.0.0.6"):
                pass
            await clients[0].close()
            async with at(edge):
                pass

    run(test)


def test_connections_without_data_count() -> None:
    async def test() -> None:
        async with running(settings=Settings(limits=Limits(connections=2))) as edge:
            with socket.create_connection(edge.address), socket.create_connection(edge.address):
                assert (await refused_at(edge, "127.0.0.1"))[0] == 429

    run(test)


def test_waiting_clients_of_one_address_are_limited() -> None:
    async def test() -> None:
        async with running(settings=Settings(limits=Limits(registrations=1))) as edge:
            async with registered(edge, "sender"), connect(str(edge.url), proxy=None) as second:
                await second.send(registration("sender", "other1"))
                reason = "too many clients at 127.0.0.1 are waiting for their peers (at most 1)"
                assert await closing_reason(second) == (1008, reason)
            await edge.log.wait_for("client_gone")
            async with registered(edge, "sender", "other1"):
                pass

    run(test)


def test_a_client_whose_role_is_taken_does_not_count_as_waiting() -> None:
    async def test() -> None:
        settings = Settings(limits=Limits(registrations=2))
        async with running(settings=settings) as edge, registered(edge, "sender"):
            for _ in range(5):
                async with connect(str(edge.url), proxy=None) as second:
                    await second.send(registration("sender"))
                    assert "already has a sender" in (await closing_reason(second))[1]
            async with registered(edge, "receiver"):
                pass

    run(test)


def test_a_client_that_sends_too_many_bytes_is_disconnected() -> None:
    async def test() -> None:
        async with running() as edge:
            async with registered(edge, "sender") as client:
                with contextlib.suppress(ConnectionClosed):
                    for number in range(10_000):
                        await client.ping(f"{number:0125}")
                        await asyncio.sleep(0)  # read the answers
                assert await closing_reason(client) == (1008, "sent too many bytes")
            assert (await edge.log.wait_for("client_gone"))["reason"] == "sent too many bytes"

    run(test)


def test_a_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a limit of the bytes that it may send: the edge does not queue answers without bound."""
    monkeypatch.setattr(connection, "BYTE_RATE", 1e12)

    async def test() -> None:
        async with running() as edge:
            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, edge.address)
                await loop.sock_sendall(sock, upgrade() + ws_frame(registration("sender").encode()))
                await edge.log.wait_for("client")
                with contextlib.suppress(ConnectionError):
                    while True:
                        await loop.sock_sendall(sock, ws_frame(b"x" * 125, 9) * 100)
            assert (await edge.log.wait_for("client_gone"))["reason"] == "does not read the data sent to it"

    run(test)


def test_an_outbox_is_bounded() -> None:
    class Cut:
        reasons: ClassVar[list[str]] = []

        def cut(self, reason: str) -> None:
            self.reasons.append(reason)

    async def test() -> None:
        outbox = Outbox(cast("EdgeConnection", Cut()))
        for number in range(MAX_OUTBOX + 1):
            assert not Cut.reasons
            outbox.put_nowait(number)
        assert Cut.reasons == ["does not read the data sent to it"]
        assert outbox.qsize() == MAX_OUTBOX

    run(test)


@pytest.mark.parametrize(
    ("candidate", "is_sent"),
    [
        ("192.168.1.2:41000", True),
        ("10.255.0.1:41000", True),
        ("172.16.0.1:41000", True),
        ("100.64.0.1:41000", True),
        ("169.254.7.7:41000", True),
        ("127.0.0.5:41000", True),
        ("198.51.100.7:443", False),
        ("8.8.8.8:53", False),
        ("172.32.0.1:41000", False),
        ("100.128.0.1:41000", False),
        ("240.0.0.1:41000", False),
    ],
)
def test_a_third_party_cannot_be_made_a_target(candidate: str, is_sent: bool) -> None:
    async def test() -> None:
        async with running() as edge, registered(edge, "receiver") as receiver:
            async with at(edge) as sender:
                await sender.send(registration("sender", private=["192.168.1.2:5", candidate]))
                assert (await received(sender))["type"] == "welcome"
                ip, port = sender.local_address
                peer = await received(receiver)
            assert peer["public"] == f"{ip}:{port}"
            assert peer["private"] == ["192.168.1.2:5", *([candidate] if is_sent else [])]
            assert bool(edge.log.all("candidates_withheld", count=1)) is not is_sent

    run(test)


def test_a_public_host_may_register_its_reflexive_address() -> None:
    own, other = Endpoint("11.0.0.1", 41000), Endpoint("11.0.0.2", 41000)
    assert allowed_candidates((own, other), Endpoint("11.0.0.1", 50000)) == (own,)
