"""A running NAT changes its external address, as sockets on both sides see it."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from punchlab import InputError
from tests.lab.nat.events import CONE, TRANSPORTS, UDP, Talk
from tests.lab.nat.world import PORT, SILENCE_S, world


@TRANSPORTS
def test_after_a_change_of_address_peers_see_only_the_new_one(kind: socket.SocketKind) -> None:
    with world("full_cone", kind) as w:
        nat, talk = w.lab.nat("a"), Talk(w)
        old = nat.address
        new = nat.change_address()
        assert (nat.address, w.lab["nat_a"].address) == (new, new)
        assert new != old
        assert not talk.comes_in(SILENCE_S)
        assert kind is UDP or talk.dead
        hole = w.mapped("a", "stranger", 5001)
        assert hole == (new, PORT)
        assert w.reached("stranger", 6000, hole, ["a"]) == "a"
        assert w.reached("stranger", 6001, (old, PORT), ["a"]) is None
        assert nat.change_address(old) == old
        assert w.mapped("a", "stranger", 5002) == (old, PORT)


def test_a_pool_follows_its_first_address() -> None:
    with world(replace(CONE, pool_size=4), UDP) as w:
        nat = w.lab.nat("a")
        before = {w.mapped(host, "server", 5000)[0] for host in ("a", "a2")}
        last = int(nat.change_address().rpartition(".")[2])
        after = {w.mapped(host, "server", 5001)[0] for host in ("a", "a2")}
        assert not before & after
        assert {int(address.rpartition(".")[2]) for address in after} <= set(range(last, last + 4))


@pytest.mark.parametrize("address", ["11.16.1.1", "11.16.1.2", "11.16.1.255", "11.16.9.9", "home"])
def test_an_unavailable_address_is_bad_input_and_changes_nothing(address: str) -> None:
    with world("full_cone") as w:
        talk = Talk(w)
        with pytest.raises(InputError, match=rf"address: '{address}'.*11\.16\.1\.0/24"):
            w.lab.nat("a").change_address(address)
        assert talk.goes_out()
