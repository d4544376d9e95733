"""An IPv6 stateful firewall, tested with TCP and UDP sockets: admitted endpoints, and answers to others."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from punchlab import Lab
from punchlab.lab.graph import read
from punchlab.lab.nat.script import script
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    IcmpErrors,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    Unsolicited,
)
from punchlab.topologies import AB, Firewalls
from punchlab.topologies.internet import Internet
from tests.lab.nat.world import PATIENCE_S, PORT, SILENCE_S, World

IPV6_RECVERR = 25
"""From linux/in6.h; Python does not define it."""

TRANSPORTS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
WALL = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT,
    FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
    PortAllocation.PRESERVING,
    translates=False,
)


class Office(Internet):
    """`a` and `a2` behind the firewall `nat_a`; `server` and `stranger` without one; all with IPv6, no delays."""

    def build(self, wall: NatBehavior) -> None:
        self.begin(ipv6=True)
        west = self.region("west")
        self.edge(west, delay="0ms")
        self.home(west, ["a", "a2"], wall, "preset")
        self.home(west, ["server"], "none", "drop")
        self.home(west, ["stranger"], "none", "drop")
        self.finish()


@contextlib.contextmanager
def office(wall: NatBehavior, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[World]:
    with Lab(Office(wall=wall)) as lab, contextlib.ExitStack() as stack:
        yield World(lab, kind, stack, socket.AF_INET6)


@TRANSPORTS
@pytest.mark.parametrize("filtering", FilteringBehavior)
def test_addresses_are_preserved_and_filtering_admits_the_right_endpoints(
    filtering: FilteringBehavior, kind: socket.SocketKind
) -> None:
    with office(replace(WALL, filtering=filtering), kind) as w:
        a = (w.address("a"), PORT)
        assert w.reached("stranger", 6000, a, ["a"]) is None
        assert w.mapped("a", "server", 5000) == a
        reached = {name: w.reached(name, 6001, a, ["a"]) == "a" for name in ("server", "stranger")}
        assert reached == {
            "server": filtering is not FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
            "stranger": filtering is FilteringBehavior.ENDPOINT_INDEPENDENT,
        }
        # A pinhole of one host does not admit packets to another.
        assert w.reached("server", 6002, (w.address("a2"), PORT), ["a2"]) is None


@TRANSPORTS
def test_answers_pass(kind: socket.SocketKind) -> None:
    with office(WALL, kind) as w:
        server, dialler = w.listening("server", 5000), w.bound("a", PORT)
        dialler.connect((w.address("server"), 5000))
        dialler.send(b"x")
        if kind is socket.SOCK_DGRAM:
            server.sendto(b"y", server.recvfrom(1)[1])
        else:
            w.stack.enter_context(server.accept()[0]).send(b"y")
        assert dialler.recv(1) == b"y"


@pytest.mark.parametrize("filtering", FilteringBehavior)
@pytest.mark.parametrize(
    ("answer", "number", "code"),
    [
        (Unsolicited.DROP, None, None),
        (Unsolicited.RESET, errno.ECONNREFUSED, None),
        (Unsolicited.PORT_UNREACHABLE, errno.ECONNREFUSED, 4),
        (Unsolicited.HOST_PROHIBITED, errno.EACCES, 1),
        (Unsolicited.ADMIN_PROHIBITED, errno.EACCES, 1),
    ],
)
def test_an_unsolicited_syn_gets_the_configured_answer(
    filtering: FilteringBehavior, answer: Unsolicited, number: int | None, code: int | None
) -> None:
    with office(replace(WALL, filtering=filtering, unsolicited=answer)) as w:
        # More than the kernel's rate limit of ICMP errors per second, if it applied.
        for port in range(6000, 6003 if number is None else 6010):
            dialler = w.bound("stranger", port)
            dialler.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
            dialler.setblocking(False)
            dialler.connect_ex((w.address("a"), PORT))
            wait_s = SILENCE_S if number is None else PATIENCE_S
            assert bool(select.select([], [dialler], [], wait_s)[1]) is (number is not None)
            if number is not None:
                assert dialler.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == number
            if code is not None:
                _data, ancillary, _flags, _address = dialler.recvmsg(64, 512, socket.MSG_ERRQUEUE)
                # struct sock_extended_err: errno, origin, type, code
                assert struct.unpack_from("IBBB", ancillary[0][2])[2:] == (1, code)


def test_an_unsolicited_datagram_gets_no_answer() -> None:
    with office(replace(WALL, unsolicited=Unsolicited.PORT_UNREACHABLE), socket.SOCK_DGRAM) as w:
        dialler = w.bound("stranger", 6000)
        dialler.connect((w.address("a"), PORT))
        dialler.send(b"x")
        assert select.select([dialler], [], [], SILENCE_S)[0] == []


@pytest.mark.parametrize(("errors", "refused"), [(IcmpErrors.TRANSLATED, True), (IcmpErrors.SWALLOWED, False)])
def test_an_icmpv6_error_from_outside_reaches_the_inside_host_or_is_swallowed(
    errors: IcmpErrors, refused: bool
) -> None:
    with office(replace(WALL, icmp_errors=errors), socket.SOCK_DGRAM) as w:
        dialler = w.bound("a", PORT)
        dialler.connect((w.address("server"), 5999))
        dialler.send(b"x")
        dialler.settimeout(PATIENCE_S if refused else SILENCE_S)
        with pytest.raises(ConnectionRefusedError if refused else TimeoutError):
            dialler.recv(1)


@pytest.mark.parametrize("filtering", FilteringBehavior)
@pytest.mark.parametrize("delay", ["0ms", "20ms"])
def test_two_hosts_connect_through_their_firewalls(filtering: FilteringBehavior, delay: str) -> None:
    """With a delay, their SYNs cross: a simultaneous open, because there is no listener."""
    wall = replace(WALL, filtering=filtering)
    with Lab(Firewalls(nat_a=wall, nat_b=wall, delay=delay)) as lab, contextlib.ExitStack() as stack:
        w = World(lab, socket.SOCK_STREAM, stack, socket.AF_INET6)
        ends = [w.bound(host, PORT) for host in ("a", "b")]
        for end, peer in zip(ends, ("b", "a"), strict=True):
            end.setblocking(False)
            assert end.connect_ex((w.address(peer), PORT)) == errno.EINPROGRESS
        for end in ends:
            assert select.select([], [end], [], 5)[1]
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        ends[0].send(b"x")
        ends[1].settimeout(5)
        assert ends[1].recv(1) == b"x"


@pytest.mark.parametrize("filtering", FilteringBehavior)
def test_the_script_turns_a_router_into_the_firewall_and_can_run_twice(filtering: FilteringBehavior) -> None:
    wall = replace(WALL, filtering=filtering, unsolicited=Unsolicited.RESET)
    with office(wall) as w:
        router = w.lab["nat_a"]
        router.run(["sh", "-c", "nft flush ruleset; sysctl -qw net.ipv6.conf.all.forwarding=0"])
        outside, inside = router.graph.interfaces
        text = script("test", wall, inside=inside.name, outside=outside.name, address=router.address)
        for _ in range(2):
            router.run(["sh"], stdin=text)
        a = (w.address("a"), PORT)
        with pytest.raises(ConnectionRefusedError):
            w.bound("stranger", 6000).connect(a)
        assert w.mapped("a", "server", 5000) == a
        admitted = filtering is not FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT
        assert w.reached("server", 6001, a, ["a"]) == ("a" if admitted else None)


def test_a_node_has_ipv6_only_if_the_topology_enables_it() -> None:
    with Lab(AB()) as lab:
        assert lab["a"].run(["ip", "-6", "-brief", "address"]).stdout == ""
    with Lab(Firewalls(nat_b="port_restricted_cone")) as lab:
        shown = lab["a"].run(["ip", "-6", "-oneline", "address", "show", "dev", "a-eth0"]).stdout.splitlines()
        assert [line.split()[3] for line in shown] == [f"{lab['a'].address6}/120"]
        assert lab["b"].run(["ip", "-6", "-brief", "address"]).stdout == ""


def test_every_ipv6_address_is_the_counterpart_of_the_ipv4_one() -> None:
    graph = read(Firewalls())
    interfaces = [interface for node in graph.nodes.values() for interface in node.interfaces]
    for interface in interfaces:
        assert interface.address is not None
        assert interface.address6 is not None
        ipv4, ipv6 = ipaddress.IPv4Interface(interface.address), ipaddress.IPv6Interface(interface.address6)
        assert int(ipv6) & 0xFFFFFFFF == int(ipv4)
        assert ipv6.ip.is_global
        assert ipv6.network.prefixlen == 96 + ipv4.network.prefixlen


def test_a_delay_applies_to_ipv6() -> None:
    with Lab(Firewalls(delay="40ms")) as lab:
        shown = lab["a"].run(["ping", "-c", "3", "-i", "0.2", lab["edge1"].address6]).stdout
    least_ms = float(shown.split("=")[-1].split("/")[0])
    assert least_ms >= 42  # twice half of it, and twice the edge's own millisecond
