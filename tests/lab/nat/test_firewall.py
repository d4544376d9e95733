"""A firewall without translation: hosts keep their addresses, and the filter admits or rejects packets."""

from __future__ import annotations

import contextlib
import errno
import socket

import pytest

from punchlab import Lab
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation, Unsolicited
from punchlab.topologies.internet import Internet
from tests.lab.nat.world import PORT, SILENCE_S, World


class Office(Internet):
    """`a` with a public address behind the firewall `wall`; `server` and `stranger` without a firewall."""

    def build(self, firewall: NatBehavior) -> None:
        self.begin()
        west = self.region("west")
        self.edge(west, delay="0ms")
        self.home(west, ["server"], "none", "drop")
        self.home(west, ["stranger"], "none", "drop")
        self._node("wall", "nat", gateway="11.16.9.1", behavior=firewall, forwarding=True)
        self._link("wall", "core1", "11.16.9.2/24", "11.16.9.1/24")
        self._node("a", "host", gateway="11.16.10.1")
        self._link("a", "wall", "11.16.10.2/24", "11.16.10.1/24")
        self._routes["core1"].append(("11.16.10.0/24", "11.16.9.2"))
        self.finish()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
@pytest.mark.parametrize("filtering", FilteringBehavior)
def test_a_firewall_filters_and_does_not_translate(filtering: FilteringBehavior, kind: socket.SocketKind) -> None:
    wall = NatBehavior(MappingBehavior.ENDPOINT_INDEPENDENT, filtering, PortAllocation.PRESERVING, translates=False)
    with Lab(Office(firewall=wall)) as lab, contextlib.ExitStack() as stack:
        world = World(lab, kind, stack)
        a = (lab["a"].address, PORT)
        assert world.reached("stranger", 6000, a, ["a"]) is None
        assert world.mapped("a", "server", 5000) == a
        reached = {name: world.reached(name, 6001, a, ["a"]) == "a" for name in ("server", "stranger")}
        assert reached == {
            "server": filtering is not FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
            "stranger": filtering is FilteringBehavior.ENDPOINT_INDEPENDENT,
        }


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (Unsolicited.DROP, None),
        (Unsolicited.RESET, errno.ECONNREFUSED),
        (Unsolicited.ADMIN_PROHIBITED, errno.EHOSTUNREACH),
    ],
)
def test_a_firewall_answers_unsolicited_syns_for_its_hosts(answer: Unsolicited, number: int | None) -> None:
    wall = NatBehavior(
        MappingBehavior.ENDPOINT_INDEPENDENT,
        FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
        PortAllocation.PRESERVING,
        answer,
        translates=False,
    )
    with Lab(Office(firewall=wall)) as lab, contextlib.ExitStack() as stack:
        dialler = World(lab, socket.SOCK_STREAM, stack).bound("stranger", 6000)
        dialler.settimeout(SILENCE_S)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is asserted below
            dialler.connect((lab["a"].address, PORT))
        assert caught.value.errno == number
