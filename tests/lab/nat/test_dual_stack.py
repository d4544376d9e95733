"""A home router that translates IPv4 and is a firewall for IPv6, tested with sockets."""

from __future__ import annotations

import contextlib
import socket

import pytest

from punchlab import Lab
from punchlab.lab.errors import InputError
from punchlab.topologies import DualStack
from punchlab.topologies.internet import Internet
from tests.lab.nat.world import PORT, World


def test_ipv4_is_translated_and_ipv6_is_not() -> None:
    with Lab(DualStack(delay="0ms")) as lab, contextlib.ExitStack() as stack:
        seen = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            w = World(lab, socket.SOCK_STREAM, stack, family)
            seen[family] = w.mapped("a", "edge1", 5000)
        assert seen[socket.AF_INET][0] == lab["nat_a"].address
        assert seen[socket.AF_INET6] == (lab["a"].address6, PORT)


def test_ipv6_admits_only_contacted_endpoints_and_survives_a_reboot() -> None:
    with Lab(DualStack(delay="0ms")) as lab, contextlib.ExitStack() as stack:
        w = World(lab, socket.SOCK_STREAM, stack, socket.AF_INET6)
        a = (lab["a"].address6, PORT)
        for port in (6000, 6001):
            assert w.reached("edge1", port, a, ["a"]) is None
            lab.nat("nat_a").reboot()


def test_a_dual_stack_home_has_only_one_host() -> None:
    class Crowd(Internet):
        def build(self) -> None:
            self.begin(two_stacks=True)
            self.home(self.region("west"), ["a", "b"], "symmetric", "preset")

    with pytest.raises(InputError, match="one host in a home with two stacks"):
        Crowd()
