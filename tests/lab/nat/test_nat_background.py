"""Background traffic through a NAT: arrival times, and the effect on the ports of other hosts."""

from __future__ import annotations

import itertools
import math
import select
import socket
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from punchlab import InputError, Lab
from punchlab.lab.events.background import Arrival, schedule
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation
from punchlab.topologies import AB
from tests.lab.nat.world import PORT, World, world

TRANSPORTS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
SEQUENTIAL = NatBehavior(
    MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.SEQUENTIAL
)
DEVIATIONS = 6.5
"""A standard normal deviate exceeds this number of standard deviations once in 1e10."""


def taken(number: int, rate: float, seed: int | str, udp: float = 0.0, silent: float = 0.0) -> list[Arrival]:
    return list(itertools.islice(schedule(rate, seed, udp=udp, silent=silent), number))


def test_the_seed_determines_the_schedule() -> None:
    assert taken(1000, 50, "1/nat_a", 0.5, 0.5) == taken(1000, 50, "1/nat_a", 0.5, 0.5)
    assert taken(10, 50, 1) != taken(10, 50, 2)
    assert list(schedule(0, 1)) == []


def test_arrivals_are_a_poisson_process() -> None:
    rate, number = 50.0, 20_000
    arrivals = taken(number, rate, 7, udp=0.25, silent=0.5)
    times = [arrival.at_s for arrival in arrivals]
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise([0.0, *times]))
    # Kolmogorov-Smirnov test against the exponential distribution; beyond 3.4 / sqrt(n) once in 1e10.
    cumulated = [-math.expm1(-rate * gap) for gap in gaps]
    distance = max(max(abs(p - n / number), abs(p - (n + 1) / number)) for n, p in enumerate(cumulated))
    assert distance < 3.4 / math.sqrt(number)
    # Counts in windows: the variance equals the mean, within the error of the estimate.
    windows = [0] * int(times[-1])
    for at_s in times:
        if at_s < len(windows):
            windows[int(at_s)] += 1
    variance = sum((count - rate) ** 2 for count in windows) / len(windows)
    assert abs(variance / rate - 1) < DEVIATIONS * math.sqrt(2 / len(windows)) + 1 / rate
    for fraction, count in ((0.25, sum(a.udp for a in arrivals)), (0.5, sum(a.silent for a in arrivals))):
        assert abs(count - fraction * number) < DEVIATIONS * math.sqrt(number * fraction * (1 - fraction))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 0), "background: -1"),
        ((1001, 0, 0), "background: 1001"),
        ((math.nan, 0, 0), "background: nan"),
        ((1, 2, 0), "udp: 2"),
        ((1, 0, -0.5), "silent: -0.5"),
    ],
)
def test_invalid_traffic_is_bad_input(arguments: tuple[float, float, float], message: str) -> None:
    rate, udp, silent = arguments
    with world(SEQUENTIAL) as w, pytest.raises(InputError, match=message):
        w.lab.nat("a").background(rate, udp=udp, silent=silent)


@TRANSPORTS
def test_without_other_hosts_successive_ports_differ_by_the_delta(kind: socket.SocketKind) -> None:
    for delta in (1, 3):
        with world(replace(SEQUENTIAL, port_delta=delta), kind) as w:
            assert _step(w, 0.5)[0] == delta


@TRANSPORTS
@pytest.mark.parametrize("silent", [0.0, 1.0], ids=["answered", "silent"])
def test_other_hosts_use_ports_between_two_mappings_at_their_rate(kind: socket.SocketKind, silent: float) -> None:
    rate = 200.0
    with world(SEQUENTIAL, kind) as w:
        traffic = w.lab.nat("a").background(rate, seed=4, udp=float(kind is socket.SOCK_DGRAM), silent=silent)
        step, shortest_s, longest_s = _step(w, 1.0)
        least, most = rate * shortest_s, rate * longest_s
        assert least - DEVIATIONS * math.sqrt(least) < step - 1 < most + DEVIATIONS * math.sqrt(most)
        traffic.stop()
        opened = traffic.opened
        assert _step(w, 0.3)[0] == 1
        assert traffic.opened == opened


def test_the_rate_of_each_transport_is_its_fraction() -> None:
    with world(SEQUENTIAL, socket.SOCK_DGRAM) as w:
        w.lab.nat("a").background(200, seed=5)
        assert _step(w, 0.5)[0] == 1  # all of it is TCP


def _step(w: World, interval_s: float) -> tuple[int, float, float]:
    """Return the port difference of two successive mappings of a host, and the minimum and maximum time between
    them.
    """
    number = len(w.servers)
    before = time.monotonic()
    first = w.mapped("a", "server", 5000 + number)[1]
    between = time.monotonic()
    # The time itself is tested; there is no event to wait for.
    select.select([], [], [], interval_s)
    again = time.monotonic()
    second = w.mapped("a", "server", 5001 + number)[1]
    return second - first, again - between, time.monotonic() - before


def test_only_a_server_that_is_not_silent_answers() -> None:
    with world(SEQUENTIAL) as w:
        nat = w.lab.nat("a")
        nat.background(200, silent=1)
        _await(lambda: _tcp(w, "core1", "InSegs") >= 40)
        assert (_tcp(w, "core1", "PassiveOpens"), _tcp(w, "core1", "OutSegs")) == (0, 0)
        nat.background(200)
        # Opened by one side and closed by both.
        _await(lambda: _tcp(w, "core1", "PassiveOpens") >= 40)
        _await(lambda: _tcp(w, "core1", "CurrEstab") == 0)
        _await(lambda: _waiting(w, "core1") >= 40)
        assert _tcp(w, "core1", "OutRsts") == 0


def _tcp(w: World, node: str, name: str) -> int:
    """Return a counter of the node's TCP (RFC 4022)."""
    lines = [line.split() for line in w.lab[node].run(["cat", "/proc/net/snmp"]).stdout.splitlines()]
    names, values = (line for line in lines if line[0] == "Tcp:")
    return int(values[names.index(name)])


def _waiting(w: World, node: str) -> int:
    """Return how many of the node's connections are in TIME-WAIT."""
    return len(w.lab[node].run(["ss", "-Htn", "state", "time-wait"]).stdout.splitlines())


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


def test_hosts_that_share_a_block_can_exhaust_it() -> None:
    nat = replace(SEQUENTIAL, port_allocation=PortAllocation.BLOCKS, block_size=16, port_range=(2000, 2031))
    with world(nat, socket.SOCK_DGRAM) as w:
        assert 2000 <= w.mapped("a", "server", 5000)[1] < 2016
        traffic = w.lab.nat("a").background(500, udp=1)
        _await(lambda: traffic.opened >= 500)
        traffic.stop()
        with pytest.raises(TimeoutError):
            w.mapped("a", "server", 5001)


def test_the_hosts_of_the_topology_are_not_affected() -> None:
    with world("full_cone") as w:
        traffic = w.lab.nat("a").background(200)
        before = w.lab["a"].run(["ip", "-brief", "address"]).stdout
        hole = w.mapped("a", "server", 5000)
        assert hole[1] == PORT
        assert w.reached("stranger", 6000, hole, ["a", "a2"]) == "a"
        _await(lambda: traffic.opened >= 100)
        assert w.lab["a"].run(["ip", "-brief", "address"]).stdout == before
        assert _tcp(w, "a", "InSegs") < 20


def test_a_trial_records_the_traffic_but_its_timeline_omits_it() -> None:
    with Lab(AB(), background=50) as lab:
        trial = lab.punch("a", "b")
        addresses = lab.background_addresses
        opened = [frame for frame in trial.recording.frames if frame.node == "nat_a"]
    assert trial.direct, trial
    assert trial.agrees, trial
    assert trial.background_per_s == 50
    assert len(addresses) == 2
    assert any(socket.inet_aton(address) in frame.data for frame in opened for address in addresses)
    assert not any(f"{address}:" in str(trial) for address in addresses)


def test_traffic_continues_after_an_event() -> None:
    with world(SEQUENTIAL, socket.SOCK_DGRAM) as w:
        nat = w.lab.nat("a")
        traffic = nat.background(200, udp=1)
        for event in (nat.reboot, nat.flush, nat.change_address, lambda: nat.behave(SEQUENTIAL)):
            event()
            first, opened = w.mapped("a", "server", 5000 + len(w.servers))[1], traffic.opened
            while traffic.opened < opened + 20:
                select.select([], [], [], 0.001)
            assert w.mapped("a", "server", 5000 + len(w.servers))[1] - first >= 20
