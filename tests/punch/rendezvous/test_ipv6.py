"""Edges and clients with IPv6, on the loopback network."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from punchlab.punch.codec import decode
from punchlab.punch.edge.contacts import allowed_candidates, is_private
from punchlab.punch.edge.http import Access, parse_networks
from punchlab.punch.edge.limits import Limits
from punchlab.punch.edge.reflexive import ReflexiveAddresses
from punchlab.punch.edge.server import Settings
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import ArgumentError, FrameError
from punchlab.punch.frames import Contact, Register
from punchlab.punch.net.websocket import resolve
from punchlab.punch.punching.candidates import candidates
from punchlab.punch.punching.quota import Servers
from punchlab.punch.rendezvous.reconnecting import ReconnectingRendezvous
from punchlab.punch.rendezvous.reflexive import ReflexiveAddressDiscovery
from tests.punch.certificates import Authority
from tests.punch.edges import Running, closing_reason, received, registered, registration, run, running
from tests.punch.recorder import Command, Recorder

LOOPBACK = Endpoint("::1", 0)
BOTH = ("--listen", "127.0.0.1:0", "--listen", "[::1]:0")


@contextlib.contextmanager
def running_edge(*options: str) -> Iterator[tuple[Command, list[str]]]:
    """Yield an edge and its URLs."""
    with Command("edge", "--name", "e1", *options) as edge:
        listening = edge.wait_for("listening")
        yield edge, [f"ws://{address}" for address in (listening["address"], *listening.get("also", ()))]
        assert edge.finish(terminate=True) == 0
        assert edge.errors == []


@pytest.mark.parametrize("strategy", ["auto", "reuse", "sync", "lowttl", "birthday", "portmap"])
def test_every_strategy_works_with_ipv6_only(file: Path, out: Path, strategy: str) -> None:
    with (
        running_edge("--listen", "[::1]:0") as (_edge, (url,)),
        Command("send", file, "--edge", url, "--strategy", strategy) as sender,
        Command(
            *("receive", sender.wait_for("code")["code"], "--yes", "--dir", out, "--edge", url, "--strategy", strategy)
        ) as receiver,
    ):
        assert (receiver.finish(), sender.finish()) == (0, 0), (sender.events, receiver.events)
    assert (out / file.name).read_bytes() == file.read_bytes()
    agreed = sender.wait_for("agreed")
    assert agreed["local"].startswith("[::1]:")
    assert (receiver.wait_for("agreed")["remote"], receiver.wait_for("agreed")["local"]) == (
        agreed["local"],
        agreed["remote"],
    )


def test_an_edge_sends_an_ipv6_client_its_address_and_applies_limits() -> None:
    async def test() -> None:
        settings = Settings(limits=Limits(registrations=1))
        async with running(listen=LOOPBACK, settings=settings) as edge, connect(str(edge.url), proxy=None) as client:
            await client.send(registration("sender"))
            port = client.local_address[1]
            assert await received(client) == {"type": "welcome", "edge": "e1", "public": f"[::1]:{port}"}
            async with connect(str(edge.url), proxy=None) as other:
                await other.send(registration("receiver"))
                await other.wait_closed()
            event = await edge.log.wait_for("limited", limit="registrations")
            assert event["public"].startswith("[::1]:")

    run(test)


def test_edges_join_each_other_over_ipv6() -> None:
    async def test() -> None:
        async with running("e1", listen=LOOPBACK) as one, running("e2", listen=LOOPBACK, join=[one.url]) as other:
            await one.log.wait_for("joined", peer="e2")
            await other.log.wait_for("joined", peer="e1")

    run(test)


def test_an_address_in_use_is_named_and_nothing_stays_open() -> None:
    with running_edge("--listen", "[::1]:0") as (_edge, (url,)):
        taken = url.removeprefix("ws://")
        with Command("edge", "--listen", "127.0.0.1:0", "--listen", taken) as second:
            assert second.finish() == 2
        assert second.errors == [
            f"punch: listen: '{taken}' cannot be used; expected a free address of this machine (Address already in use)"
        ]


@pytest.mark.parametrize(
    ("option", "value"), [("--stun", "[::1]:3478"), ("--listen", "[::1%lo]:0"), ("--listen", "::1:7001")]
)
def test_an_unusable_address_is_refused_in_one_line(option: str, value: str) -> None:
    with Command("edge", *BOTH, option, value) as edge:
        assert edge.finish() == 2
    (line,) = edge.errors
    assert option.removeprefix("--") in line
    assert value in line


def test_a_client_cannot_be_bound_to_an_address_of_the_other_family(file: Path) -> None:
    with (
        running_edge("--listen", "[::1]:0") as (_edge, (url,)),
        Command("send", file, "--edge", url, "--bind", "127.0.0.2:0") as sender,
    ):
        assert sender.finish() == 2
    assert "bind: '127.0.0.2:0' cannot be used; expected an address of the same family" in sender.errors[0]


@pytest.mark.parametrize("ip", ["fd00::7", "fc00:1::2", "::1", "192.168.1.2", "100.64.0.9", "169.254.0.1"])
def test_addresses_of_private_networks(ip: str) -> None:
    assert is_private(ip)


@pytest.mark.parametrize("ip", ["2001:db8::1", "2a11::1", "fe80::1", "ff02::1", "64:ff9b::c000:201", "192.0.2.1"])
def test_addresses_of_public_networks(ip: str) -> None:
    assert not is_private(ip)


def test_a_link_local_address_is_never_sent_to_a_peer() -> None:
    local, unique = Endpoint("fe80::1", 41000), Endpoint("fd00::1", 41000)
    assert allowed_candidates((local, unique), Endpoint("2001:db8::1", 41000)) == (unique,)


def test_candidates_of_the_other_family_are_not_dialled() -> None:
    peer = Contact(Endpoint("11.0.0.2", 5), (Endpoint("10.0.0.2", 5), Endpoint("fd00::1", 5)), None)
    assert candidates(peer, Endpoint("fd00::2", 5), Endpoint("2001:db8::2", 5)) == [(Endpoint("fd00::1", 5), "host")]


def test_the_family_of_an_edge_s_address_is_not_guessed() -> None:
    async def test() -> None:
        assert (await resolve(EdgeUrl("127.0.0.1", 7))) == ("127.0.0.1", 7)
        assert (await resolve(EdgeUrl("::1", 7))) == ("::1", 7)
        with pytest.raises(OSError, match="not supported"):
            await resolve(EdgeUrl("::1", 7), socket.AF_INET)

    run(test)


def test_dual_stack_hosts_know_both_addresses_and_connect_over_either(file: Path, out: Path) -> None:
    """On one machine all addresses lead to the peer: both are dialled, and the first connection is used."""
    with (
        running_edge(*BOTH) as (_edge, (url, _url6)),
        Command("send", file, "--edge", url) as sender,
        Command("receive", sender.wait_for("code")["code"], "--yes", "--dir", out, "--edge", url) as receiver,
    ):
        assert (receiver.finish(), sender.finish()) == (0, 0), (sender.events, receiver.events)
    for one, other in ((sender, receiver), (receiver, sender)):
        shown = one.wait_for("registered")["public6"]
        local = Endpoint.parse(one.wait_for("registered")["local"])
        assert shown == f"[::1]:{local.port}"
        assert {"address": shown, "kind": "srflx"} in other.wait_for("peer_known")["candidates"]


def test_clients_without_a_common_ipv4_candidate_connect_over_ipv6(file: Path, out: Path) -> None:
    """One is registered over IPv6 only, so its peer can reach it only there."""
    with (
        running_edge(*BOTH) as (_edge, (url, url6)),
        Command("send", file, "--edge", url6, "--strategy", "keep") as sender,
        Command("receive", sender.wait_for("code")["code"], "--yes", "--dir", out, "--edge", url) as receiver,
    ):
        assert (receiver.finish(), sender.finish()) == (0, 0), (sender.events, receiver.events)
    assert receiver.wait_for("agreed")["local"] == receiver.wait_for("registered")["public6"]
    assert "public6" not in sender.wait_for("registered")


def test_a_client_bound_to_one_address_registers_no_other(file: Path) -> None:
    with (
        running_edge(*BOTH) as (_edge, (url, _url6)),
        Command("send", file, "--edge", url, "--bind", "127.0.0.2:0") as sender,
    ):
        assert "public6" not in sender.wait_for("registered")


def test_an_edge_without_ipv6_announces_nothing(file: Path) -> None:
    with running_edge("--listen", "127.0.0.1:0") as (_edge, (url,)), Command("send", file, "--edge", url) as sender:
        assert "public6" not in sender.wait_for("registered")


@contextlib.asynccontextmanager
async def seen_by(edge: Running) -> AsyncIterator[dict[str, str]]:
    """Return the fields for the registration that the edge sends to a client over IPv6."""
    async with connect(f"ws://{edge.address6}/sighting", proxy=None) as client:
        seen = await received(client)
        assert seen["type"] == "seen"
        assert Endpoint.parse(seen["public"]) == client.local_address[:2]
        yield {"public6": seen["public"], "proof6": seen["proof"]}


async def sent_to_peer(edge: Running, **fields: str) -> object:
    """Return the IPv6 endpoint that the peer receives if a client registers with `fields`."""
    async with registered(edge, "receiver") as receiver, connect(str(edge.url), proxy=None) as sender:
        await sender.send(registration("sender", "k7x2mq", **fields))
        return (await received(receiver)).get("public6")


def test_a_proven_ipv6_address_is_sent_to_the_peer() -> None:
    async def test() -> None:
        async with running(also=(LOOPBACK,)) as edge, seen_by(edge) as shown:
            assert await sent_to_peer(edge, **shown) == shown["public6"]
            assert not edge.log.all("candidates_withheld")

    run(test)


def test_an_unproven_ipv6_address_is_not_sent_to_the_peer() -> None:
    async def test() -> None:
        async with running(also=(LOOPBACK,)) as edge, running(also=(LOOPBACK,)) as elsewhere:
            async with seen_by(edge) as shown, seen_by(edge) as another, seen_by(elsewhere) as foreign:
                for fields in (
                    {**shown, "public6": "[2001:db8::1]:443"},
                    {**shown, "public6": f"[::1]:{Endpoint.parse(shown['public6']).port ^ 1}"},
                    {**shown, "proof6": another["proof6"]},
                    {**shown, "proof6": shown["proof6"][:-1] + ("0" if shown["proof6"][-1] != "0" else "1")},
                    {**shown, "proof6": f"{int(shown['proof6'][:16], 16) + 1:016x}{shown['proof6'][16:]}"},
                    {**shown, "proof6": "0" * 48},
                    foreign,
                ):
                    assert await sent_to_peer(edge, **fields) is None, fields
            assert len(edge.log.all("candidates_withheld", count=1)) == 7

    run(test)


def test_a_proof_is_valid_for_the_lifetime_of_a_session() -> None:
    now = 1000.0
    addresses = ReflexiveAddresses((LOOPBACK,), 60.0, lambda: now)
    public = Endpoint("2001:db8::1", 41000)
    proof = addresses.proof(public)
    assert addresses.confirms(public, proof)
    now += 60
    assert addresses.confirms(public, proof)
    now += 1
    assert not addresses.confirms(public, proof)


@pytest.mark.parametrize(
    "fields",
    [
        {"public6": "[2001:db8::1]:443"},
        {"public6": "[2001:db8::1]:443", "proof6": "no"},
        {"public6": "[fe80::1]:443", "proof6": "0" * 48},
        {"public6": "192.0.2.1:443", "proof6": "0" * 48},
        {"public6": ["[2001:db8::1]:443"], "proof6": "0" * 48},
    ],
)
def test_a_registration_with_invalid_ipv6_fields_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(FrameError, match="6: "):
        decode(registration("sender", "k7x2mq", **fields), Register)


def test_only_ipv6_gets_a_proof_and_only_ipv4_the_announcement() -> None:
    async def test() -> None:
        async with running(also=(LOOPBACK,)) as edge:
            async with connect(f"{edge.url}/sighting", proxy=None) as client:
                assert await closing_reason(client) == (1008, "expected a connection over IPv6")
            for url, announced in ((str(edge.url), str(edge.address6)), (f"ws://{edge.address6}", None)):
                async with connect(url, proxy=None) as client:
                    assert client.response is not None
                    assert client.response.headers.get("Punch-IPv6") == announced

    run(test)


class Misled(ReconnectingRendezvous):
    """A rendezvous whose edge announces a wrong IPv6 address."""

    announced: Endpoint

    @property
    def ipv6(self) -> Endpoint:
        return self.announced


def test_unreachable_ipv6_causes_no_delay() -> None:
    async def test() -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=0) as silent:
            address = Endpoint.of(silent.getsockname())
            # Its queue is full now, so SYNs are dropped.
            with socket.create_connection(address):
                async with running() as edge:
                    rendezvous = await Misled.connect_any((edge.url,), None, Recorder())
                    rendezvous.announced = address
                    discovery = ReflexiveAddressDiscovery(rendezvous, None, Servers())
                    try:
                        assert discovery.local is not None
                        begun = time.monotonic()
                        assert await discovery.result() is None
                        assert time.monotonic() - begun < 0.5
                    finally:
                        await discovery.close()
                        await rendezvous.close()

    run(test)


def test_a_client_that_changes_the_edge_gets_a_new_proof(file: Path, out: Path) -> None:
    with Command("edge", *BOTH, "--name", "e1", "--mesh-from", "127.0.0.1") as one:
        first = f"ws://{one.wait_for('listening')['address']}"
        with Command("edge", *BOTH, "--name", "e2", "--join", first) as other:
            second = f"ws://{other.wait_for('listening')['address']}"
            other.wait_for("joined")
            edges = {"e1": (one, second), "e2": (other, first)}
            with Command("send", file, "--edge", f"{first},{second}", "--strategy", "keep") as sender:
                code, at = sender.wait_for("code")["code"], sender.wait_for("registered")
                lost, left = edges.pop(at["edge"])
                lost.process.kill()
                sender.wait_for("registered", edge=next(iter(edges)), public6=at["public6"])
                with Command("receive", code, "--yes", "--dir", out, "--edge", left, "--strategy", "keep") as receiver:
                    assert (receiver.finish(), sender.finish()) == (0, 0), (sender.events, receiver.events)
    assert {"address": at["public6"], "kind": "srflx"} in receiver.wait_for("peer_known")["candidates"]


def test_the_certificate_of_the_url_holds_for_the_ipv6_address_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    certificate, key = authority.issue("127.0.0.1")
    with running_edge(*BOTH, "--tls-cert", str(certificate), "--tls-key", str(key)) as (edge, _urls):
        url = f"wss://{edge.wait_for('listening')['address']}"
        with Command("send", file, "--edge", url) as sender:
            assert sender.wait_for("registered")["public6"].startswith("[::1]:")


def test_access_lists_accept_both_families() -> None:
    named = parse_networks(["2001:db8::/32", "192.0.2.7"], field="mesh-from")
    assert [str(each) for each in named] == ["2001:db8::/32", "192.0.2.7/32"]
    with pytest.raises(ArgumentError, match=r"^mesh-from: '2001:db8::1/32' cannot be used"):
        parse_networks(["2001:db8::1/32"], field="mesh-from")


def test_a_network_that_may_not_join_is_rejected_over_ipv6() -> None:
    async def test() -> None:
        access = Access(mesh=parse_networks(["127.0.0.0/8"], field="mesh-from"))
        async with running(listen=LOOPBACK, settings=Settings(access=access)) as edge:
            with pytest.raises(InvalidStatus, match="403"):
                await connect(f"{edge.url}/mesh", proxy=None)

    run(test)


def test_an_address_with_a_zone_is_link_local() -> None:
    assert Endpoint.of(("fe80::1%eth0", 41000, 0, 2)).is_link_local
    assert not Endpoint("fd00::1", 41000).is_link_local
    assert not Endpoint("169.254.0.1", 41000).is_link_local
