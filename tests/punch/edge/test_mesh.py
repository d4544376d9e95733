"""Endpoints that exchange messages over a mesh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from tests.punch.edges import Running, closing_reason, received, registered, registration, run, running

HELLO = json.dumps({"type": "hello", "name": "tester", "instance": "ab" * 8})


async def meet(near: Running, far: Running, session: str = "k7x2mq") -> None:
    async with registered(near, "sender", session) as sender, registered(far, "receiver", session) as receiver:
        assert (await received(sender))["via"] == "bus"
        assert (await received(receiver))["via"] == "bus"


@contextlib.asynccontextmanager
async def neighbor(of: Running) -> AsyncIterator[ClientConnection]:
    """A plain mesh link."""
    async with connect(f"{of.url}/mesh", proxy=None) as link:
        assert (await received(link))["type"] == "hello"
        await link.send(HELLO)
        await of.log.wait_for("joined", peer="tester")
        yield link


def message(body: dict[str, object], identity: str = "01" * 8, age_s: object = 0) -> str:
    fields = {"id": identity, "session": "k7x2mq", "age_s": age_s, "body": body}
    return json.dumps({"type": "message", **fields})


def waiting(port: int = 9) -> dict[str, object]:
    return {"type": "waiting", "registration": f"{port:016x}", "client": "cc" * 8}


def here(ask: dict[str, Any], **changes: object) -> dict[str, object]:
    """Return the answer to `ask` for a receiver that is still connected."""
    contact = {"public": "11.0.0.9:9", "private": [], "pake": "cd" * 33, **changes}
    named = {name: ask[name] for name in ("registration", "asker")}
    return {"type": "here", **named, "client": "cc" * 8, "contact": contact}


ASK = {"registration": "01" * 8, "asker": "02" * 8}


@pytest.mark.parametrize("sender_first", [True, False])
def test_clients_at_two_edges_are_paired_in_either_order(sender_first: bool) -> None:
    async def test() -> None:
        async with running("e1") as near, running("e2", join=[near.url]) as far, contextlib.AsyncExitStack() as stack:
            await near.log.wait_for("joined", peer="e2")
            await far.log.wait_for("joined", peer="e1")
            order = [(near, "sender"), (far, "receiver")]
            clients = {}
            for edge, role in order if sender_first else reversed(order):
                clients[role] = await stack.enter_async_context(registered(edge, role))
                if edge is far and not sender_first:
                    await near.log.wait_for("bus_received")
            for role, other in (("sender", "receiver"), ("receiver", "sender")):
                ip, port = clients[other].local_address
                message = await received(clients[role])
                assert (message["public"], message["via"]) == (f"{ip}:{port}", "bus")
            assert near.log.all("paired", via="bus")
            assert far.log.all("paired", via="bus")
            assert far.log.all("bus_sent", session="k7x2mq", type="waiting", peer="e1")
            assert near.log.all("bus_sent", session="k7x2mq", type="answer", peer="e2")

    run(test)


def test_clients_at_one_edge_of_a_mesh_put_nothing_on_the_bus() -> None:
    async def test() -> None:
        async with running("e1") as near, running("e2", join=[near.url]) as far:
            await near.log.wait_for("joined")
            async with registered(near, "sender", "local") as sender, registered(near, "receiver", "local") as receiver:
                assert (await received(sender))["via"] == (await received(receiver))["via"] == "local"
            await near.log.wait_for("client_gone", count=2)
            await meet(near, far, "farther")  # earlier messages on the bus would arrive before this one
            for edge in (near, far):
                assert not edge.log.all("bus_sent", session="local")
                assert not edge.log.all("bus_received", session="local")

    run(test)


def test_a_late_link_delivers_the_missed_messages() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            address = Endpoint(*reserved.getsockname())
        # The far edge connects before the near one listens, and both clients are registered before the link exists.
        async with (
            running("e2", join=[EdgeUrl(*address)]) as far,
            registered(far, "receiver") as receiver,
            running("e1", listen=address) as near,
            registered(near, "sender") as sender,
        ):
            assert (await received(sender))["via"] == "bus"
            assert (await received(receiver))["via"] == "bus"

    run(test)


def test_an_edge_that_restarts_is_joined_again() -> None:
    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with running("e1") as near:
                address = near.address
                far = await stack.enter_async_context(running("e2", join=[near.url]))
                await far.log.wait_for("joined", peer="e1")
            await far.log.wait_for("left", peer="e1")
            near = await stack.enter_async_context(running("e1", listen=address))
            await far.log.wait_for("joined", count=2, peer="e1")
            await meet(near, far)

    run(test)


def test_edges_that_join_each_other_pair_once() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            address = Endpoint(*reserved.getsockname())
        async with (
            running("e1", join=[EdgeUrl(*address)]) as near,
            running("e2", listen=address, join=[near.url]) as far,
        ):
            await near.log.wait_for("joined", peer="e2")
            await far.log.wait_for("joined", peer="e1")
            await meet(near, far)
            await meet(far, near, "second")
            for edge in (near, far):
                assert len(edge.log.all("joined")) == 1
                assert len(edge.log.all("paired")) == 2

    run(test)


def test_messages_are_forwarded_between_edges_without_a_direct_link() -> None:
    async def test() -> None:
        async with running("e1") as one, running("e2", join=[one.url]) as two, running("e3", join=[two.url]) as three:
            await one.log.wait_for("joined", peer="e2")
            await two.log.wait_for("joined", peer="e3")
            await meet(one, three)
            assert not one.log.all("bus_received", peer="e3")

    run(test)


def test_three_edges_in_a_ring_pair_once() -> None:
    async def test() -> None:
        async with (
            running("e1") as one,
            running("e2", join=[one.url]) as two,
            running("e3", join=[one.url, two.url]) as three,
        ):
            for edge in (one, two, three):
                await edge.log.wait_for("joined", count=2)
            await meet(two, three)
            assert [len(edge.log.all("paired")) for edge in (one, two, three)] == [0, 1, 1]

    run(test)


def test_an_edge_that_joins_itself_gives_up() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            address = Endpoint(*reserved.getsockname())
        async with running("e1", listen=address, join=[EdgeUrl(*address)]) as edge:
            async with registered(edge, "sender") as sender, registered(edge, "receiver"):
                assert (await received(sender))["via"] == "local"
            assert not edge.log.all("joined")

    run(test)


@pytest.mark.parametrize(
    "frame",
    [
        "not json",
        '{"type":"register"}',
        message({"type": "gone"}),
        message({"type": "shout", "registration": "00" * 8}),
        message(here(ASK, public="0.0.0.0:1")),
        message(here(ASK, pake="<script>")),
        message(waiting(), age_s=-1),
        message(waiting(), identity="x"),
    ],
)
def test_a_bad_frame_ends_a_mesh_link_only(frame: str) -> None:
    async def test() -> None:
        async with running("e1") as edge, running("e2", join=[edge.url]) as far:
            await far.log.wait_for("joined")
            async with neighbor(edge) as link:
                await link.send(frame)
                assert (await closing_reason(link))[0] == 1008
            await edge.log.wait_for("left", peer="tester")
            assert len(edge.log.all("rejected")) == 1
            await meet(edge, far)

    run(test)


def test_a_frame_over_4_kib_ends_a_mesh_link() -> None:
    async def test() -> None:
        async with running("e1") as edge, neighbor(edge) as link:
            await link.send(message(waiting() | {"padding": "x" * 4096}))
            assert (await closing_reason(link))[0] == 1009
            await edge.log.wait_for("rejected")

    run(test)


def test_a_client_frame_at_the_mesh_path_is_refused() -> None:
    async def test() -> None:
        async with running("e1") as edge, connect(f"{edge.url}/mesh", proxy=None) as client:
            await client.send(registration("sender"))
            assert await closing_reason(client) == (1008, "unexpected type 'register'; expected hello")

    run(test)


def test_a_message_repeated_is_answered_once() -> None:
    async def test() -> None:
        async with running("e1") as edge, registered(edge, "sender") as sender, neighbor(edge) as link:
            for _ in range(2):
                await link.send(message(waiting()))
            await link.send(message(waiting(), identity="02" * 8))
            ask = (await received(link))["body"]
            assert (ask["type"], ask["registration"]) == ("ask", waiting()["registration"])
            for identity in ("03" * 8, "03" * 8, "04" * 8):
                await link.send(message(here(ask), identity=identity))
            assert (await received(sender))["public"] == "11.0.0.9:9"
            answer = (await received(link))["body"]
            assert (answer["type"], answer["receiver"]) == ("answer", "cc" * 8)
            await edge.log.wait_for("bus_received", count=6)
            assert len(edge.log.all("bus_sent")) == 2

    run(test)


def test_a_message_older_than_a_session_s_life_is_dropped() -> None:
    async def test() -> None:
        async with (
            running("e1", lifetime_s=60) as edge,
            registered(edge, "sender"),
            neighbor(edge) as link,
        ):
            await link.send(message(waiting(port=1), identity="01" * 8, age_s=61))
            await link.send(message(waiting(port=2), identity="02" * 8, age_s=59))
            assert (await received(link))["body"]["registration"] == waiting(port=2)["registration"]

    run(test)


def test_a_message_expires_with_its_session_and_ages_in_transit() -> None:
    async def test() -> None:
        async with running("e1", lifetime_s=0.5) as edge:
            async with neighbor(edge) as link:
                await link.send(message(waiting(port=1), identity="01" * 8, age_s=0.0))
                await edge.log.wait_for("bus_received")
            async with connect(f"{edge.url}/mesh", proxy=None) as young:
                await received(young)
                await young.send(json.dumps({"type": "hello", "name": "young", "instance": "cd" * 8}))
                kept = await received(young)
                assert kept["id"] == "01" * 8
                assert 0 < kept["age_s"] < 0.5
            await asyncio.sleep(0.5 - kept["age_s"])  # the test is about its age
            async with connect(f"{edge.url}/mesh", proxy=None) as late, registered(edge, "receiver"):
                await received(late)
                await late.send(json.dumps({"type": "hello", "name": "late", "instance": "ef" * 8}))
                assert (await received(late))["id"] != "01" * 8

    run(test)
