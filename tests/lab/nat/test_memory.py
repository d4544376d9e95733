"""What keeps and what ends a NAT's state: RSTs of either side, and packets from inside or from both sides."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from punchlab import Lab
from punchlab.lab.check.examine import examine
from punchlab.lab.check.segments import SILENCE_S, Conversation, Flag, RawTcp, block_resets
from punchlab.lab.oracle.outcome import Outcome
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    Refresh,
    Timeouts,
    Unsolicited,
)
from punchlab.topologies import Home
from tests.lab.homes import Homes
from tests.lab.nat.dials import Cell, dial_cells
from tests.lab.nat.test_firewall import Office
from tests.lab.nat.world import PORT, World, world

CONE = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.PRESERVING
)
SYMMETRIC = replace(CONE, mapping=MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, port_allocation=PortAllocation.RANDOM)
FULL_CONE = replace(CONE, filtering=FilteringBehavior.ENDPOINT_INDEPENDENT)
KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])


@contextlib.asynccontextmanager
async def ends(lab: Lab) -> AsyncIterator[tuple[RawTcp, RawTcp]]:
    block_resets([lab["a"], lab["server"]])
    async with RawTcp(lab["a"], lab["a"].address) as inside, RawTcp(lab["server"], lab["server"].address) as server:
        yield inside, server


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("nat", [CONE, SYMMETRIC], ids=["cone", "symmetric"])
def test_a_reset_closes_the_pinhole_of_its_connection_or_not(nat: NatBehavior, closes: bool) -> None:
    async def play(inside: RawTcp, server: RawTcp, number: int, sender: str) -> None:
        port, server_port = PORT + number, 5000 + 2 * number
        talk = Conversation(inside, port, server, server_port)
        if sender == "outside, in answer to a SYN":
            assert await talk.out(Flag.SYN)
        else:
            assert await talk.establish()
        before = talk.external
        reset = Flag.RST | Flag.ACK
        assert await (talk.out(reset) if sender == "inside" else talk.back(reset, must=True))
        talk.renumber()
        again = await talk.back(Flag.SYN)
        assert (again is None) is closes, sender
        # The mapping survives: the inside endpoint has the same external port again.
        talk.renumber()
        assert await talk.out(Flag.SYN)
        assert talk.external == before
        # Another remote endpoint is not admitted.
        stranger = Conversation(inside, port, server, server_port + 1)
        stranger.external = before
        assert await stranger.back(Flag.SYN) is None

    async def all_senders(lab: Lab) -> None:
        async with ends(lab) as (inside, server), asyncio.TaskGroup() as group:
            for number, sender in enumerate(("inside", "outside", "outside, in answer to a SYN")):
                group.create_task(play(inside, server, number, sender))

    with Lab(Homes(nat=replace(nat, reset_closes=closes))) as lab:
        asyncio.run(all_senders(lab))


@pytest.mark.parametrize("closes", [True, False])
def test_a_firewalls_pinhole_survives_a_reset_or_not(closes: bool) -> None:
    async def play(lab: Lab) -> None:
        async with ends(lab) as (inside, server):
            talk = Conversation(inside, PORT, server, 5000)
            assert await talk.establish()
            assert await talk.back(Flag.RST | Flag.ACK, must=True)
            talk.renumber()
            assert (await talk.back(Flag.SYN) is None) is closes

    with Lab(Office(firewall=replace(CONE, translates=False, reset_closes=closes))) as lab:
        asyncio.run(play(lab))


@pytest.mark.parametrize("closes", [True, False])
def test_the_oracle_models_what_a_reset_closes(closes: bool) -> None:
    early, late = replace(CONE, reset_closes=closes), replace(CONE, unsolicited=Unsolicited.RESET)
    (result,) = dial_cells([Cell(early, late, delay_ms=10, skew_ms=60)])
    prediction = result.cell.prediction
    assert prediction.outcome is (Outcome.FAILS if closes else Outcome.DIRECT)
    assert prediction.agrees(result.direct == 1), prediction


def test_the_oracle_models_delayed_answers_as_silence() -> None:
    silent = replace(CONE, unsolicited=Unsolicited.SILENT_THEN_ICMP)
    (result,) = dial_cells([Cell(silent, silent, delay_ms=10, skew_ms=60)])
    assert result.cell.prediction.outcome is Outcome.DIRECT
    assert result.direct == 1


def test_the_oracle_models_the_end_of_the_silence() -> None:
    # The peer sends later: its SYN passes a pinhole behind which no attempt is active.
    silent = replace(CONE, unsolicited=Unsolicited.SILENT_THEN_ICMP, silence_s=1)
    for skew_ms, outcome in ((700, Outcome.DIRECT), (1300, Outcome.FAILS)):
        (result,) = dial_cells([Cell(silent, silent, delay_ms=10, skew_ms=skew_ms)])
        assert result.cell.prediction.outcome is outcome
        assert result.cell.prediction.agrees(result.direct == 1)


QUICK = Timeouts(tcp_transitory_s=2, tcp_established_s=2, tcp_closing_s=2, udp_solitary_s=2, udp_stream_s=2)


@pytest.mark.parametrize("refresh", Refresh)
@pytest.mark.parametrize("nat", [CONE, FULL_CONE, SYMMETRIC], ids=["port-restricted", "full", "symmetric"])
def test_inbound_packets_alone_refresh_a_mapping_or_not(nat: NatBehavior, refresh: Refresh) -> None:
    async def play(w: World) -> list[bool]:
        async with ends(w.lab) as (inside, server):
            talk = Conversation(inside, PORT, server, 5000)
            assert await talk.establish()
            datagrams = Datagrams(w)

            async def segment() -> bool:
                return await talk.back(Flag.ACK, b"x") is not None

            return list(await asyncio.gather(_cut_off(segment), _cut_off(datagrams.back)))

    with world(replace(nat, refresh=refresh, timeouts=QUICK), socket.SOCK_DGRAM) as w:
        assert asyncio.run(play(w)) == [refresh is Refresh.OUTBOUND] * 2


class Datagrams:
    """Datagrams from a to the server once, then only back."""

    def __init__(self, w: World) -> None:
        self._inside, self._server = w.bound("a", PORT), w.bound("server", 5000)
        self._inside.sendto(b"x", (w.lab["server"].address, 5000))
        self._external = self._server.recvfrom(1)[1]
        self._inside.setblocking(False)

    async def back(self) -> bool:
        """Return whether a datagram arrives."""
        self._server.sendto(b"y", self._external)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                return await asyncio.get_running_loop().sock_recv(self._inside, 1) == b"y"
        return False


async def _cut_off(send: Callable[[], Awaitable[bool]]) -> bool:
    """Return whether packets from outside are lost while the inside host sends nothing, not even an ACK."""
    silent_since = time.monotonic()
    while time.monotonic() - silent_since < 3:
        if not await send():
            assert time.monotonic() - silent_since > 2
            return True
        await asyncio.sleep(0.5)  # the interval of the remote host
    return False


@KINDS
def test_outbound_packets_refresh_a_mapping(kind: socket.SocketKind) -> None:
    nat = replace(FULL_CONE, refresh=Refresh.OUTBOUND, timeouts=QUICK)
    with world(nat, kind) as w:
        target = w.mapped("a", "server", 5000)
        started = time.monotonic()
        talking = w.bound("a", PORT)
        if kind is socket.SOCK_STREAM:
            server = w.listening("server", 5001)
            talking.connect((w.lab["server"].address, 5001))
            w.stack.enter_context(server.accept()[0])
        while time.monotonic() - started < 3:
            if kind is socket.SOCK_STREAM:
                talking.send(b"x")
            else:
                talking.sendto(b"x", (w.lab["server"].address, 5001))
            time.sleep(0.5)  # the interval of the inside host
        talking.close()
        assert w.reached("stranger", 6000, target, ["a"]) == "a"


def test_answers_to_an_admitted_host_refresh_the_mapping_for_others() -> None:
    with world(replace(FULL_CONE, refresh=Refresh.OUTBOUND, timeouts=QUICK), socket.SOCK_DGRAM) as w:
        target = w.mapped("a", "server", 5000)
        listener, admitted = w.listening("a", PORT), w.bound("stranger", 6000)
        started = time.monotonic()
        while time.monotonic() - started < 3:
            admitted.sendto(b"x", target)
            listener.sendto(b"y", listener.recvfrom(1)[1])
            assert admitted.recv(1) == b"y"
            time.sleep(0.5)  # the interval of both
        listener.close()
        assert w.reached("server", 6001, target, ["a"]) == "a"


def test_a_wrong_timeout_is_detected() -> None:
    with Lab(Home(nat=replace(CONE, timeouts=replace(QUICK, tcp_established_s=4)))) as lab:
        timeout = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established"
        lab["nat_a"].run(["sh", "-c", f"echo 20 > {timeout}"])
        seen = examine(lab, "a", replace(QUICK, tcp_established_s=4))
    assert [name for name, fine in seen.idled.items() if fine is not True] == ["tcp_established_s"]
