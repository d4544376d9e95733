"""Which NAT an event affects, and what all events have in common."""

from __future__ import annotations

import contextlib

import pytest

from punchlab import InputError, Lab
from tests.lab.nat.events import CONE, RANDOM_CONE, UDP
from tests.lab.nat.nat444 import Nat444
from tests.lab.nat.world import World, world


def test_both_ends_of_an_access_link_have_neighbor_entries_after_an_event() -> None:
    with world("full_cone") as w:
        nat = w.lab.nat("a")
        for event in (nat.reboot, nat.change_address, nat.link_down, nat.link_up):
            event()
            if event != nat.link_down:
                assert _neighbors(w, "core1") == [(nat.address, "PERMANENT")]
                assert _neighbors(w, "nat_a") == [("11.16.1.1", "PERMANENT")]


def _neighbors(w: World, node: str) -> list[tuple[str, str]]:
    shown = w.lab[node].run(["ip", "neigh", "show", "to", "11.16.1.0/24"]).stdout.splitlines()
    return [(line.split()[0], line.split()[-1]) for line in shown]


def test_a_nat_is_named_by_its_node_or_by_a_host_behind_it() -> None:
    with world(CONE) as w:
        assert w.lab.nat("a") is w.lab.nat("a2") is w.lab.nat("nat_a")
        for name in ("server", "core1", "z"):
            with pytest.raises(InputError, match=rf"nat: '{name}'.*one of a, a2, nat_a"):
                w.lab.nat(name)


def test_events_of_a_home_and_of_its_carrier_are_independent() -> None:
    with Lab(Nat444(home=CONE, cgn=RANDOM_CONE)) as lab, contextlib.ExitStack() as stack:
        w = World(lab, UDP, stack)
        home, carrier = lab.nat("a"), lab.nat("cgn1")
        assert (home.name, carrier.name) == ("nat_a", "cgn1")
        before = w.mapped("a", "server", 5000)
        home.change_address()
        assert w.mapped("a", "server", 5001)[0] == before[0]
        carrier.change_address()
        assert w.mapped("a", "server", 5002)[0] == carrier.address != before[0]
        traffic = home.background(100, udp=1)
        # Other hosts of the home are other customers of the carrier.
        assert lab["core1"].run(["ip", "route", "get", traffic.address]).stdout.startswith("local")
