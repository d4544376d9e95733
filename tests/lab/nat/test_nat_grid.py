"""Every combination of mapping, filtering, port allocation and answer works over TCP and UDP."""

from __future__ import annotations

import errno
import itertools
import select
import socket

import pytest

from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation, Unsolicited
from tests.lab.nat.world import PATIENCE_S, PORT, SILENCE_S, World, world

Endpoint = tuple[str, int]
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
DESTINATIONS = [("server", 5000), ("server", 5001), ("stranger", 5000), ("stranger", 5001)]
ADMITTED = {
    FilteringBehavior.ENDPOINT_INDEPENDENT: {("server", 6000), ("stranger", 6000)},
    FilteringBehavior.ADDRESS_DEPENDENT: {("server", 6000)},
    FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT: set(),
}
TOLD_APART_BY = {
    MappingBehavior.ENDPOINT_INDEPENDENT: 0,
    MappingBehavior.ADDRESS_DEPENDENT: 1,
    MappingBehavior.ADDRESS_AND_PORT_DEPENDENT: 2,
}


def send_probes(w: World, outsiders: list[Endpoint], target: Endpoint) -> list[socket.socket]:
    """Connect to the target from each outsider without waiting."""
    diallers = []
    for outsider in outsiders:
        dialler = w.bound(*outsider)
        dialler.setblocking(False)
        assert dialler.connect_ex(target) in (0, errno.EINPROGRESS)
        if w.kind is socket.SOCK_DGRAM:
            dialler.send(b"y")
        diallers.append(dialler)
    return diallers


def arrivals(listener: socket.socket) -> set[Endpoint]:
    """Return the sources of the packets that have arrived, as the host sees them."""
    listener.setblocking(False)
    seen = set()
    while True:
        try:
            if listener.type is socket.SOCK_DGRAM:
                seen.add(listener.recvfrom(1)[1])
            else:
                accepted, remote = listener.accept()
                accepted.close()
                seen.add(remote)
        except BlockingIOError:
            return seen


@pytest.mark.parametrize("unsolicited", [Unsolicited.DROP, Unsolicited.RESET])
@pytest.mark.parametrize("allocation", [PortAllocation.PRESERVING, PortAllocation.RANDOM, PortAllocation.SEQUENTIAL])
@pytest.mark.parametrize("filtering", FilteringBehavior)
@pytest.mark.parametrize("mapping", MappingBehavior)
def test_a_nat_has_its_behavior(
    mapping: MappingBehavior, filtering: FilteringBehavior, allocation: PortAllocation, unsolicited: Unsolicited
) -> None:
    nat = NatBehavior(mapping, filtering, allocation, unsolicited, port_range=(20000, 30000))
    with world(nat) as w:
        worlds = [World(w.lab, kind, w.stack) for kind in KINDS]
        first = [each.mapped("a", *DESTINATIONS[0]) for each in worlds]

        # Filtering: every outsider sends to the mapping of the first destination; admitted packets arrive unchanged.
        listeners = [each.listening("a", PORT) for each in worlds]
        connecting = [
            dialler
            for each, target in zip(worlds, first, strict=True)
            for dialler in send_probes(each, [("server", 6000), ("stranger", 6000)], target)
        ]
        refused = send_probes(worlds[0], [("stranger", 6001)], (w.lab["nat_a"].address, 12345))[0]
        seen: list[set[Endpoint]] = [set(), set()]
        expected = {(w.lab[name].address, port) for name, port in ADMITTED[filtering]}
        while seen != [expected, expected] and select.select(listeners, [], [], PATIENCE_S)[0]:
            seen = [before | arrivals(listener) for before, listener in zip(seen, listeners, strict=True)]
        ready = select.select([], [refused], [], PATIENCE_S if unsolicited is Unsolicited.RESET else SILENCE_S)[1]
        select.select(listeners, [], [], SILENCE_S)
        seen = [before | arrivals(listener) for before, listener in zip(seen, listeners, strict=True)]
        assert seen == [expected, expected]

        # The answer to a SYN without a mapping.
        assert bool(ready) == (unsolicited is Unsolicited.RESET)
        error = refused.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert error == (errno.ECONNREFUSED if unsolicited is Unsolicited.RESET else 0)
        for opened in (*listeners, *connecting):
            opened.close()

        told_apart_by = TOLD_APART_BY[mapping]
        for each, before in zip(worlds, first, strict=True):
            ports = {DESTINATIONS[0]: before[1]}
            ports |= {to: each.mapped("a", *to)[1] for to in DESTINATIONS[1:]}
            # Mapping: the destinations that share a port are those that the mapping does not distinguish.
            for one, other in itertools.combinations(DESTINATIONS, 2):
                assert (ports[one] == ports[other]) == (one[:told_apart_by] == other[:told_apart_by])
            # Port allocation, in the order of the mappings.
            allocated = list(dict.fromkeys(ports.values()))
            match allocation:
                case PortAllocation.PRESERVING:
                    assert allocated[0] == PORT
                    assert all(20000 <= port <= 30000 for port in allocated[1:])
                case PortAllocation.RANDOM:
                    assert all(20000 <= port <= 30000 for port in allocated)
                    steps = {later - earlier for earlier, later in itertools.pairwise(allocated)}
                    assert len(allocated) < 3 or len(steps) > 1
                case PortAllocation.SEQUENTIAL:
                    assert allocated == [20000 + number for number in range(len(allocated))]
