"""A running NAT changes its behavior, as sockets on both sides see it."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from punchlab import InputError
from punchlab.lab.nat import presets
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation, Unsolicited
from tests.lab.nat.events import CONE, SEQUENTIAL, TRANSPORTS, UDP, Talk
from tests.lab.nat.world import PORT, SILENCE_S, World, world


@TRANSPORTS
def test_a_running_cone_becomes_symmetric(kind: socket.SocketKind) -> None:
    with world("full_cone", kind) as w:
        talk = Talk(w)
        assert w.mapped("a", "stranger", 5001)[1] == PORT
        w.lab.nat("a").behave("symmetric")
        assert w.lab.behavior("a") == presets.behavior("symmetric")
        # Existing connections continue; new ones are mapped and filtered by the new behavior.
        assert talk.goes_out()
        assert talk.comes_in()
        ports = {w.mapped("a", "stranger", port)[1] for port in (5002, 5003)}
        assert len({*ports, PORT}) == 3
        assert w.reached("stranger", 6000, talk.seen, ["a"]) is None
        w.lab.nat("a").behave("full_cone")
        assert talk.goes_out()
        hole = w.mapped("a", "stranger", 5004)
        assert w.mapped("a", "server", 5005) == hole
        assert w.reached("stranger", 6001, hole, ["a"]) == "a"


def test_every_behavior_can_follow_every_other_kind() -> None:
    kinds: list[str | NatBehavior] = [
        "full_cone",
        SEQUENTIAL,
        "linux_masq",
        replace(CONE, pool_size=4),
        "symmetric",
        CONE,
    ]
    with world(CONE, UDP) as w:
        for number, nat in enumerate(kinds):
            w.lab.nat("a").behave(nat)
            w.lab.nat("a").flush()
            port = w.mapped("a", "server", 5000 + number)[1]
            behavior = presets.behavior(nat)
            assert behavior is not None
            assert (port == PORT) is (behavior.port_allocation is PortAllocation.PRESERVING)


def test_an_unsolicited_syn_gets_the_answer_of_the_current_behavior() -> None:
    with world(CONE) as w:
        nat = w.lab.nat("a")
        for unsolicited, error in ((Unsolicited.RESET, ConnectionRefusedError), (Unsolicited.DROP, TimeoutError)):
            nat.behave(replace(CONE, unsolicited=unsolicited))
            with w.lab["stranger"].socket() as dialler:
                dialler.settimeout(SILENCE_S)
                with pytest.raises(error):
                    dialler.connect((nat.address, 12345))


@pytest.mark.parametrize("nat", ["none", replace(CONE, translates=False)])
def test_a_behavior_that_needs_another_network_is_rejected(nat: str | NatBehavior) -> None:
    with world(CONE) as w, pytest.raises(InputError, match="a behavior that translates, like that of nat_a"):
        w.lab.nat("a").behave(nat)


@contextlib.contextmanager
def _stream(w: World) -> Iterator[list[tuple[float, int]]]:
    """Yield datagrams from new local ports at full speed; (time, external port) of those that arrive."""
    seen: list[tuple[float, int]] = []
    listener, target = w.listening("server", 5000), (w.lab["server"].address, 5000)
    end = threading.Event()

    def send() -> None:
        for port in range(20000, 60000):
            if end.is_set():
                return
            with w.lab["a"].socket(UDP) as sender:
                sender.bind(("0.0.0.0", port))
                sender.sendto(b"x", target)
            while select.select([listener], [], [], 0)[0]:
                seen.append((time.monotonic(), listener.recvfrom(1)[1][1]))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield seen
    finally:
        end.set()
        sending.join()


def test_a_change_is_atomic() -> None:
    """Every datagram leaves with the old behavior (the port is preserved) or the new one (a port of its range)."""
    low = NatBehavior(
        MappingBehavior.ENDPOINT_INDEPENDENT,
        FilteringBehavior.ENDPOINT_INDEPENDENT,
        PortAllocation.SEQUENTIAL,
        port_range=(2000, 6095),
    )
    with world(CONE, UDP) as w, _stream(w) as seen:
        moments = []
        for nat in (low, CONE, low, CONE):
            before = len(seen)
            while len(seen) < before + 20:
                select.select([], [], [], 0.001)
            w.lab.nat("a").behave(nat)
            moments.append(time.monotonic())
        before = len(seen)
        while len(seen) < before + 20:
            select.select([], [], [], 0.001)
    ports = [port for _time, port in seen]
    changes = sum((one < 10000) is not (other < 10000) for one, other in pairwise(ports))
    assert changes == 4
    assert not {port for port in ports if not (2000 <= port < 6096 or port >= 20000)}
