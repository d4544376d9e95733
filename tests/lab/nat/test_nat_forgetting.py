"""The state that a NAT loses by a reboot and a flush, as sockets on both sides see it."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace

import pytest

from punchlab.punch.nat.behavior import Unsolicited
from tests.lab.nat.events import CONE, RANDOM_CONE, SEQUENTIAL, TRANSPORTS, UDP, Talk
from tests.lab.nat.world import PORT, SILENCE_S, world


@TRANSPORTS
@pytest.mark.parametrize("event", ["reboot", "flush"])
@pytest.mark.parametrize("nat", ["port_restricted_cone", "linux_masq"])
def test_a_connection_does_not_survive_a_reboot_or_flush(nat: str, event: str, kind: socket.SocketKind) -> None:
    with world(nat, kind) as w:
        talk = Talk(w)
        getattr(w.lab.nat("a"), event)()
        if kind is UDP:
            # Over UDP, an outbound datagram creates a new mapping; an inbound one finds none.
            assert not talk.comes_in(SILENCE_S)
            assert talk.goes_out()
        else:
            assert talk.dead
        assert w.mapped("a2", "stranger", 5001)[0] == w.lab.nat("a").address


def test_after_a_reboot_a_nat_that_resets_informs_the_server() -> None:
    with world(replace(CONE, unsolicited=Unsolicited.RESET)) as w:
        talk = Talk(w)
        w.lab.nat("a").reboot()
        talk.outer.send(b"y")
        with pytest.raises(ConnectionResetError):
            talk.outer.recv(1)


@TRANSPORTS
@pytest.mark.parametrize("event", ["reboot", "flush", "change_address"])
def test_a_pinhole_does_not_survive_a_reboot_or_flush(event: str, kind: socket.SocketKind) -> None:
    with world("full_cone", kind) as w:
        hole = w.mapped("a", "server", 5000)
        assert w.reached("stranger", 6000, hole, ["a"]) == "a"
        getattr(w.lab.nat("a"), event)()
        assert w.reached("stranger", 6001, hole, ["a"]) is None
        # Until another pinhole is opened.
        assert w.reached("stranger", 6002, w.mapped("a", "stranger", 5000), ["a"]) == "a"


@TRANSPORTS
@pytest.mark.parametrize("event", ["reboot", "flush"])
def test_a_random_port_is_drawn_again_after_its_mapping_is_deleted(event: str, kind: socket.SocketKind) -> None:
    with world(RANDOM_CONE, kind) as w:
        ports = [w.mapped("a", "server", 5000)[1]]
        assert w.mapped("a", "stranger", 5001)[1] == ports[0]
        for server_port in (5002, 5003):
            getattr(w.lab.nat("a"), event)()
            ports.append(w.mapped("a", "server", server_port)[1])
        assert len(set(ports)) > 1  # fails by chance once in 64511**2


@TRANSPORTS
def test_a_port_sequence_restarts_after_a_reboot_and_continues_after_a_flush(kind: socket.SocketKind) -> None:
    first = SEQUENTIAL.port_range[0]
    with world(SEQUENTIAL, kind) as w:
        ports = []
        for number, event in enumerate(("flush", "reboot", "flush", "flush")):
            ports.append(w.mapped("a", "server", 5000 + number)[1])
            getattr(w.lab.nat("a"), event)()
        assert ports == [first, first + 1, first, first + 1]


def test_a_port_is_free_again_after_a_flush() -> None:
    with world("port_restricted_cone", UDP) as w:
        assert w.mapped("a", "server", 5000)[1] == PORT
        assert w.mapped("a2", "server", 5001)[1] != PORT
        w.lab.nat("a").flush()
        assert w.mapped("a2", "server", 5002)[1] == PORT


def test_a_rebooting_nat_drops_all_packets_during_its_downtime() -> None:
    with world(replace(CONE, unsolicited=Unsolicited.RESET), UDP) as w:
        talk = Talk(w)
        nat = w.lab.nat("a")
        boot = threading.Thread(target=nat.reboot, args=(1.5,))
        started = time.monotonic()
        boot.start()
        while talk.goes_out(0.05):
            assert time.monotonic() < started + 1.5
        with w.lab["stranger"].socket() as dialler:
            dialler.settimeout(SILENCE_S)
            with pytest.raises(TimeoutError):
                dialler.connect((nat.address, 12345))
        assert time.monotonic() < started + 1.5
        boot.join()
        assert time.monotonic() >= started + 1.5
        assert talk.goes_out()
        with w.lab["stranger"].socket() as dialler, pytest.raises(ConnectionRefusedError):
            dialler.connect((nat.address, 12345))
