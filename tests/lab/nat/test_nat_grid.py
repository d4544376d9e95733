"""Every mapping with every filtering, port allocation and answer does what it says, over TCP and UDP at once."""

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


def knock(w: World, outsiders: list[Endpoint], target: Endpoint) -> list[socket.socket]:
    """Dial the target from each outsider, without waiting."""
    diallers = []
    for outsider in outsiders:
        dialler = w.bound(*outsider)
        dialler.setblocking(False)
        assert dialler.connect_ex(target) in (0, errno.EINPROGRESS)
        if w.kind is socket.SOCK_DGRAM:
            dialler.send(b"y")
        diallers.append(dialler)
    return diallers


def arrivals(door: socket.socket) -> set[Endpoint]:
    """Who is at the door now, as the host sees them."""
    door.setblocking(False)
    seen = set()
    while True:
        try:
            if door.type is socket.SOCK_DGRAM:
                seen.add(door.recvfrom(1)[1])
            else:
                accepted, remote = door.accept()
                accepted.close()
                seen.add(remote)
        except BlockingIOError:
            return seen


@pytest.mark.parametrize("unsolicited", [Unsolicited.DROP, Unsolicited.RESET])
@pytest.mark.parametrize("allocation", [PortAllocation.PRESERVING, PortAllocation.RANDOM, PortAllocation.SEQUENTIAL])
@pytest.mark.parametrize("filtering", FilteringBehavior)
@pytest.mark.parametrize("mapping", MappingBehavior)
def test_a_nat_behaves_as_it_says(
    mapping: MappingBehavior, filtering: FilteringBehavior, allocation: PortAllocation, unsolicited: Unsolicited
) -> None:
    nat = NatBehavior(mapping, filtering, allocation, unsolicited, port_range=(20000, 30000))
    with world(nat) as w:
        worlds = [World(w.lab, kind, w.stack) for kind in KINDS]
        first = [each.mapped("a", *DESTINATIONS[0]) for each in worlds]

        # Filtering: everybody knocks at the mapping made for the first destination; those admitted arrive unchanged.
        doors = [each.listening("a", PORT) for each in worlds]
        knockers = [
            dialler
            for each, target in zip(worlds, first, strict=True)
            for dialler in knock(each, [("server", 6000), ("stranger", 6000)], target)
        ]
        refused = knock(worlds[0], [("stranger", 6001)], (w.lab["nat_a"].address, 12345))[0]
        seen: list[set[Endpoint]] = [set(), set()]
        expected = {(w.lab[name].address, port) for name, port in ADMITTED[filtering]}
        while seen != [expected, expected] and select.select(doors, [], [], PATIENCE_S)[0]:
            seen = [before | arrivals(door) for before, door in zip(seen, doors, strict=True)]
        ready = select.select([], [refused], [], PATIENCE_S if unsolicited is Unsolicited.RESET else SILENCE_S)[1]
        select.select(doors, [], [], SILENCE_S)
        seen = [before | arrivals(door) for before, door in zip(seen, doors, strict=True)]
        assert seen == [expected, expected]

        # The answer to a SYN for nobody.
        assert bool(ready) == (unsolicited is Unsolicited.RESET)
        error = refused.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert error == (errno.ECONNREFUSED if unsolicited is Unsolicited.RESET else 0)
        for opened in (*doors, *knockers):
            opened.close()

        told_apart_by = TOLD_APART_BY[mapping]
        for each, before in zip(worlds, first, strict=True):
            ports = {DESTINATIONS[0]: before[1]}
            ports |= {to: each.mapped("a", *to)[1] for to in DESTINATIONS[1:]}
            # MappingBehavior: the destinations that share a port are those that the mapping does not tell apart.
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
