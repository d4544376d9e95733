"""One endpoint, through its WebSockets."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from punchlab.punch.codec import encode
from punchlab.punch.edge.server import Edge
from punchlab.punch.errors import ArgumentError
from punchlab.punch.frames import MAX_FRAME, MAX_SIGNALS, PeerSignal
from tests.punch.edges import ANY_PORT, closing_reason, received, registered, registration, run, running
from tests.punch.recorder import Recorder


def test_the_welcome_has_the_name_of_the_edge_and_the_public_endpoint() -> None:
    async def test() -> None:
        async with running() as edge, connect(str(edge.url), local_addr=("127.0.0.7", 0), proxy=None) as client:
            await client.send(registration("sender"))
            port = client.local_address[1]
            assert await received(client) == {"type": "welcome", "edge": "e1", "public": f"127.0.0.7:{port}"}

    run(test)


def test_each_client_receives_the_other_s_endpoints_and_message() -> None:
    async def test() -> None:
        async with running() as edge, registered(edge, "sender") as sender, registered(edge, "receiver") as receiver:
            for client, other, letter in ((sender, receiver, "r"), (receiver, sender, "s")):
                ip, port = other.local_address
                assert await received(client) == {
                    "type": "peer",
                    "public": f"{ip}:{port}",
                    "private": ["192.168.1.2:41000"],
                    "pake": f"{ord(letter):064x}",
                    "via": "local",
                }

    run(test)


@pytest.mark.parametrize(
    ("frame", "code", "reason"),
    [
        ("not json", 1008, "malformed JSON"),
        ("[]", 1008, "expected a JSON object"),
        (b"\x00\x01", 1008, "text frame"),
        ('{"type":"peer"}', 1008, "unexpected type"),
        (registration("referee"), 1008, "role"),
        (registration("sender", pake=5), 1008, "pake"),
        ("[" * 4000, 1008, "malformed JSON"),
        ("x" * (MAX_FRAME + 1), 1009, "4096"),
    ],
)
def test_a_bad_frame_closes_only_its_own_connection_with_a_reason(frame: str | bytes, code: int, reason: str) -> None:
    async def test() -> None:
        async with running() as edge, registered(edge, "sender") as sender:
            async with connect(str(edge.url), proxy=None) as offender:
                await offender.send(frame)
                found = await closing_reason(offender)
                assert found[0] == code
                assert reason in found[1]
                ip, port = offender.local_address
            event = await edge.log.wait_for("rejected", public=f"{ip}:{port}")
            assert reason in event["reason"]
            async with registered(edge, "receiver"):
                assert (await received(sender))["type"] == "peer"

    run(test)


def test_a_frame_of_4_kib_is_accepted() -> None:
    async def test() -> None:
        padding = MAX_FRAME - len(registration("sender", padding=""))
        async with running() as edge, connect(str(edge.url), proxy=None) as client:
            await client.send(registration("sender", padding="x" * padding))
            assert (await received(client))["type"] == "welcome"

    run(test)


def test_signals_reach_only_the_peer_and_only_after_pairing() -> None:
    async def test() -> None:
        async with (
            running() as edge,
            registered(edge, "sender") as sender,
            registered(edge, "sender", "other1") as stranger,
            registered(edge, "receiver") as receiver,
        ):
            for client in (sender, receiver):
                assert (await received(client))["type"] == "peer"
            await sender.send(encode(PeerSignal("one")))
            await receiver.send(encode(PeerSignal("two")))
            assert await received(receiver) == {"type": "signal", "data": "one"}
            assert await received(sender) == {"type": "signal", "data": "two"}
            await stranger.send(encode(PeerSignal("three")))
            assert await closing_reason(stranger) == (1008, "a signal before the peer is known")

    run(test)


def test_a_client_with_too_many_signals_is_disconnected() -> None:
    async def test() -> None:
        async with running() as edge, registered(edge, "sender") as sender, registered(edge, "receiver") as receiver:
            assert (await received(sender))["type"] == "peer"
            for number in range(MAX_SIGNALS + 1):
                await sender.send(encode(PeerSignal(str(number))))
            assert await closing_reason(sender) == (1008, "more than 64 signals")
            assert (await received(receiver))["type"] == "peer"
            signals = [(await received(receiver))["data"] for _number in range(MAX_SIGNALS)]
            assert signals == [str(number) for number in range(MAX_SIGNALS)]

    run(test)


def test_traits_are_passed_on_as_they_are() -> None:
    async def test() -> None:
        async with (
            running() as edge,
            registered(edge, "receiver") as receiver,
            connect(str(edge.url), proxy=None) as sender,
        ):
            await sender.send(registration("sender", traits="anything at all"))
            assert (await received(receiver))["traits"] == "anything at all"
            assert (await received(sender))["type"] == "welcome"
            assert "traits" not in await received(sender)

    run(test)


def test_a_second_register_frame_ends_the_registration() -> None:
    async def test() -> None:
        async with running() as edge:
            async with registered(edge, "sender") as client:
                await client.send(registration("sender"))
                assert await closing_reason(client) == (1008, "unexpected type 'register'; expected signal")
            await edge.log.wait_for("client_gone", role="sender")
            async with registered(edge, "sender"):
                pass

    run(test)


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_taken_role_is_refused_until_its_client_has_left(role: str) -> None:
    async def test() -> None:
        async with running() as edge:
            async with registered(edge, role), connect(str(edge.url), proxy=None) as second:
                await second.send(registration(role))
                assert await closing_reason(second) == (1008, f"session k7x2mq already has a {role}")
            await edge.log.wait_for("client_gone", role=role)
            async with registered(edge, role):
                pass

    run(test)


def test_a_session_expires() -> None:
    async def test() -> None:
        async with running(lifetime_s=0.2) as edge, registered(edge, "sender") as client:
            assert await closing_reason(client) == (1008, "session expired")
            assert (await edge.log.wait_for("client_gone"))["reason"] == "session expired"

    run(test)


def test_a_client_that_drops_its_connection_frees_its_role() -> None:
    async def test() -> None:
        async with running() as edge:
            async with registered(edge, "sender") as client:
                client.transport.abort()
                assert (await edge.log.wait_for("client_gone"))["reason"] == "connection lost"
            async with registered(edge, "sender"):
                pass

    run(test)


def test_a_stopping_edge_closes_its_connections_with_a_reason() -> None:
    async def test() -> None:
        async with running() as edge, registered(edge, "sender") as client:
            edge.stop.set()
            assert (await closing_reason(client))[0] == 1001

    run(test)


def test_other_paths_are_not_found() -> None:
    async def test() -> None:
        async with running() as edge:
            with pytest.raises(InvalidStatus, match="404"):
                await connect(f"{edge.url}/other", proxy=None)

    run(test)


def test_an_address_in_use_is_an_argument_error() -> None:
    async def test() -> None:
        async with running() as edge:
            with pytest.raises(ArgumentError, match=r"^listen: .* in use"):
                Edge(edge.address, Recorder(), name=None, lifetime_s=1)

    run(test)


def test_an_edge_without_a_name_is_called_by_its_address() -> None:
    async def test() -> None:
        log = Recorder()
        edge = Edge(ANY_PORT, log, name=None, lifetime_s=1)
        stop = asyncio.Event()
        stop.set()
        await edge.run([], stop)
        assert log.all("listening", name=str(edge.address), address=str(edge.address))

    run(test)
