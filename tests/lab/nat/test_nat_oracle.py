"""What the oracle says of two behaviors is what the kernel does: one dial from each side, at a chosen skew."""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
import select
import socket
import time

import pytest

from lab import Lab
from punch.nat.behavior import Filtering, IcmpErrors, Mapping, NatBehavior, PortAllocation, Unsolicited
from punch.nat.oracle import Dial, Outcome, Prediction, predict
from tests.lab.nat.world import World
from topologies import AB

PORTS = {"a": 41000, "b": 42000}
SILENCE_S = 0.25
PATIENCE_S = 3.0
FAR_APART_S = 0.06

ANSWERS = [
    (Unsolicited.DROP, IcmpErrors.TRANSLATED),
    (Unsolicited.RESET, IcmpErrors.TRANSLATED),
    (Unsolicited.PORT_UNREACHABLE, IcmpErrors.TRANSLATED),
    (Unsolicited.ADMIN_PROHIBITED, IcmpErrors.SWALLOWED),
]
BEHAVIORS = [
    NatBehavior(mapping, filtering, allocation, answer, icmp_errors=errors, port_range=(20000, 29999))
    for mapping, filtering, (answer, errors) in itertools.product(Mapping, Filtering, ANSWERS)
    for allocation in (PortAllocation.PRESERVING, PortAllocation.SEQUENTIAL)
]


def dial_both(a: NatBehavior, b: NatBehavior, skew_s: float, delay: str = "0ms") -> tuple[bool, Prediction]:
    """Whether a connection came about, and what the oracle says for the skew as it was measured."""
    with Lab(AB(nat_a=a, nat_b=b, delay=delay, edge_delay="0ms")) as lab, contextlib.ExitStack() as stack:
        world = World(lab, socket.SOCK_STREAM, stack)
        registered = {host: world.mapped(host, "edge1", 5000, port) for host, port in PORTS.items()}
        doors = [world.listening(host, port) for host, port in PORTS.items()]
        diallers = {host: world.bound(host, port) for host, port in PORTS.items()}
        moments = {}
        order = ["a", "b"] if skew_s >= 0 else ["b", "a"]
        for host, peer in zip(order, reversed(order), strict=True):
            diallers[host].setblocking(False)
            moments[host] = time.monotonic()
            # Not available: the listener has just accepted that very peer.
            assert diallers[host].connect_ex(registered[peer]) in (errno.EINPROGRESS, errno.EADDRNOTAVAIL)
            if host == order[0] and skew_s:
                # A chosen instant, not a wait for something to happen.
                time.sleep(abs(skew_s))
        path = lab.path("a", "b")
        prediction = predict(a, b, Dial(path.delay_s, moments["b"] - moments["a"], attempts=1, deadline_s=PATIENCE_S))
        wait_s = SILENCE_S + 4 * path.delay_s if prediction.outcome is Outcome.FAILS else PATIENCE_S
        return _connected(doors, list(diallers.values()), wait_s), prediction


def _connected(doors: list[socket.socket], diallers: list[socket.socket], wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    waiting = list(diallers)
    while (left := end - time.monotonic()) > 0:
        arrived, finished, _ = select.select(doors, waiting, [], left)
        if arrived:
            return True
        for dialler in finished:
            if dialler.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                return True
            waiting.remove(dialler)
    return False


def sample(seed: int, count: int) -> list[tuple[NatBehavior, NatBehavior]]:
    draw = random.Random(seed)
    return [(draw.choice(BEHAVIORS), draw.choice(BEHAVIORS)) for _ in range(count)]


@pytest.mark.parametrize(("skew_s", "delay"), [(FAR_APART_S, "0ms"), (-FAR_APART_S, "10ms")])
@pytest.mark.parametrize(("a", "b"), sample(seed=5382, count=20))
def test_the_kernel_does_what_the_oracle_says_of_syns_far_apart(
    a: NatBehavior, b: NatBehavior, skew_s: float, delay: str
) -> None:
    direct, prediction = dial_both(a, b, skew_s, delay)
    assert prediction.agrees(direct) is not False, prediction


@pytest.mark.parametrize("late", [answer for answer, errors in ANSWERS if errors is IcmpErrors.TRANSLATED])
@pytest.mark.parametrize("early", [answer for answer, errors in ANSWERS if errors is IcmpErrors.TRANSLATED])
@pytest.mark.parametrize("filtering", Filtering)
def test_refusals_decide_where_syns_do_not_cross(filtering: Filtering, early: Unsolicited, late: Unsolicited) -> None:
    a = NatBehavior(Mapping.ENDPOINT_INDEPENDENT, filtering, PortAllocation.PRESERVING, early)
    b = NatBehavior(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.PRESERVING, late)
    direct, prediction = dial_both(a, b, FAR_APART_S, delay="10ms")
    assert prediction.outcome is not Outcome.DEPENDS
    assert prediction.agrees(direct), prediction


@pytest.mark.parametrize(("a", "b"), sample(seed=4787, count=10))
def test_the_kernel_does_what_the_oracle_says_of_crossing_syns(a: NatBehavior, b: NatBehavior) -> None:
    direct, prediction = dial_both(a, b, skew_s=0.0, delay="60ms")
    assert prediction.agrees(direct) is not False, prediction
