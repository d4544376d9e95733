"""Links go down and up during traffic."""

from __future__ import annotations

import contextlib
import errno
import socket

import pytest

from punchlab import InputError, Lab
from punchlab.topologies import AB, Firewalls
from tests.lab.nat.events import RANDOM_CONE, TCP, TRANSPORTS, Talk, passes
from tests.lab.nat.world import SILENCE_S, world


@TRANSPORTS
def test_a_link_that_is_down_loses_packets_and_the_mapping_survives(kind: socket.SocketKind) -> None:
    with world(RANDOM_CONE, kind) as w:
        talk, nat = Talk(w), w.lab.nat("a")
        nat.link_down()
        nat.link_down()
        assert talk.dead
        nat.link_up()
        nat.link_up()
        # TCP has stored the lost data and retransmits it.
        assert talk.goes_out(10)
        assert talk.comes_in(10)
        assert w.mapped("a", "stranger", 5001) == talk.seen


def test_a_link_that_is_down_sends_no_answers() -> None:
    with world("full_cone") as w:
        w.lab.nat("a").link_down()
        for node, target in (("a", w.lab["server"].address), ("server", w.lab["nat_a"].address)):
            dialler = w.bound(node, 6000)
            dialler.settimeout(SILENCE_S)
            with pytest.raises(TimeoutError):
                dialler.connect((target, 5000))


def test_any_link_can_be_set_down_and_up() -> None:
    with Lab(AB()) as lab:
        for one, other in (("a", "nat_a"), ("core1", "nat_b"), ("edge1", "core1")):
            link = lab.link(one, other)
            assert lab.link(other, one) is link
            link.down()
            assert not link.is_up
            assert _pings(lab) is (one == "core1")
            link.up()
            assert link.is_up
            assert _pings(lab)
        lab.link("a", "nat_a").down()
        with lab["a"].socket() as dialler:
            assert dialler.connect_ex((lab.anycast, 5000)) == errno.ENETUNREACH
        with pytest.raises(InputError, match=r"link: 'a,b'.*nat_a"):
            lab.link("a", "b")


def _pings(lab: Lab) -> bool:
    return lab["a"].run(["ping", "-c1", "-W1", lab.anycast], check=False).returncode == 0


@TRANSPORTS
def test_a_firewall_can_be_flushed_and_its_link_set_down_with_ipv6(kind: socket.SocketKind) -> None:
    with Lab(Firewalls(delay="0ms", edge_delay="0ms")) as lab, contextlib.ExitStack() as stack:
        wall, edge = lab.nat("a"), lab["edge1"].graph.address6
        assert edge is not None
        listener, inner = (stack.enter_context(socket_of(lab, node, kind)) for node in ("edge1", "a"))
        listener.bind((edge, 5000))
        if kind is TCP:
            listener.listen()
        inner.connect((edge, 5000))
        inner.send(b"x")
        if kind is TCP:
            outer = stack.enter_context(listener.accept()[0])
            outer.recv(1)
        else:
            outer = listener
            outer.connect(outer.recvfrom(1)[1])
        assert passes(outer, inner, 2)
        wall.link_down()
        assert not passes(outer, inner, SILENCE_S)
        wall.link_up()
        assert passes(outer, inner, 10)
        wall.change_address()
        wall.background(50)
        wall.flush()
        assert not passes(outer, inner, SILENCE_S)
        assert _pings(lab)


def socket_of(lab: Lab, node: str, kind: socket.SocketKind) -> socket.socket:
    with lab[node].entered():
        return socket.socket(socket.AF_INET6, kind)
