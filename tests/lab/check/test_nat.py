"""Every classic NAT has its behavior, tested with sockets over TCP and UDP, with two hosts behind it."""

from __future__ import annotations

import contextlib
import errno
import select
import socket

import pytest

from tests.lab.nat.world import PORT, SILENCE_S, world

TRANSPORTS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
CONES = ("full_cone", "restricted_cone", "port_restricted_cone")


@TRANSPORTS
@pytest.mark.parametrize("nat", CONES)
def test_a_cone_maps_an_inside_endpoint_to_one_external_port_and_keeps_its_number(
    nat: str, kind: socket.SocketKind
) -> None:
    with world(nat, kind) as w:
        seen = {w.mapped("a", server, port) for server in ("server", "stranger") for port in (5000, 5001)}
        assert seen == {(w.lab["nat_a"].address, PORT)}


@TRANSPORTS
def test_a_symmetric_nat_maps_to_another_port_for_every_destination(kind: socket.SocketKind) -> None:
    with world("symmetric", kind) as w:
        seen = [w.mapped("a", server, port) for server in ("server", "stranger") for port in (5000, 5001)]
        assert len(set(seen)) == 4
        assert {address for address, _port in seen} == {w.lab["nat_a"].address}


@TRANSPORTS
@pytest.mark.parametrize("nat", CONES)
def test_two_hosts_with_one_source_port_get_different_ports_for_all_destinations(
    nat: str, kind: socket.SocketKind
) -> None:
    with world(nat, kind) as w:
        first = w.mapped("a", "server", 5000)
        second = {w.mapped("a2", server, port) for server in ("stranger", "server") for port in (5001, 5000)}
        assert len(second) == 1
        assert first not in second


@TRANSPORTS
def test_a_third_party_reaches_the_second_host_through_its_port(kind: socket.SocketKind) -> None:
    with world("full_cone", kind) as w:
        first, second = w.mapped("a", "server", 5000), w.mapped("a2", "server", 5001)
        assert w.reached("stranger", 6000, second, ["a", "a2"]) == "a2"
        assert w.reached("stranger", 6001, first, ["a", "a2"]) == "a"


@TRANSPORTS
@pytest.mark.parametrize(
    ("nat", "admitted"),
    [
        ("full_cone", {"contacted endpoint", "contacted address", "stranger"}),
        ("restricted_cone", {"contacted endpoint", "contacted address"}),
        ("port_restricted_cone", {"contacted endpoint"}),
        ("symmetric", {"contacted endpoint"}),
    ],
)
def test_filtering_admits_the_right_endpoints(nat: str, admitted: set[str], kind: socket.SocketKind) -> None:
    with world(nat, kind) as w:
        target = w.mapped("a", "server", 5000)
        outsiders = {"contacted address": ("server", 6000), "stranger": ("stranger", 6000)}
        got = {name for name, outsider in outsiders.items() if w.reached(*outsider, target, ["a"]) == "a"}
        # A contacted endpoint is always admitted: the answer that `mapped` received over TCP, a datagram back over UDP.
        if kind is socket.SOCK_DGRAM:
            back = w.bound("a", PORT)
            back.connect((w.lab["server"].address, 5000))
            w.servers["server", 5000].sendto(b"z", target)
            assert back.recv(1) == b"z"
        assert got | {"contacted endpoint"} == admitted


@pytest.mark.parametrize("nat", [*CONES, "symmetric"])
@pytest.mark.parametrize(("unsolicited", "answer"), [("drop", None), ("reset", errno.ECONNREFUSED)])
def test_an_unsolicited_syn_is_dropped_or_reset(nat: str, unsolicited: str, answer: int | None) -> None:
    with world(nat, unsolicited=unsolicited) as w:
        dialler = w.bound("stranger", 6000)
        dialler.settimeout(SILENCE_S)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is asserted below
            dialler.connect((w.lab["nat_a"].address, 12345))
        assert caught.value.errno == answer


@pytest.mark.parametrize("nat", [*CONES, "symmetric"])
def test_a_packet_to_a_private_address_is_not_forwarded_from_outside(nat: str) -> None:
    with world(nat, socket.SOCK_DGRAM) as w:
        inside = w.listening("a", PORT)
        w.lab["core1"].run(["ip", "route", "add", "192.168.1.0/24", "via", w.lab["nat_a"].address])
        w.bound("stranger", 6000).sendto(b"x", (w.lab["a"].address, PORT))
        assert select.select([inside], [], [], SILENCE_S)[0] == []


def test_a_mapping_survives_the_connection_that_created_it() -> None:
    with world("full_cone") as w:
        w.mapped("a", "server", 5000)
        target = w.mapped("a2", "server", 5001)  # not its own port: chosen by the NAT
        w.stack.close()
        w.servers.clear()
        with contextlib.ExitStack() as again:
            w.stack = again
            w.lab["nat_a"].run(["sh", "-c", "echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close"])
            assert w.mapped("a2", "stranger", 5002) == target


def test_a_nat_that_lost_its_state_does_not_accept_established_connections() -> None:
    with world("port_restricted_cone") as w:
        w.mapped("a", "server", 5000)
        loose = w.lab["nat_a"].run(["cat", "/proc/sys/net/netfilter/nf_conntrack_tcp_loose"])
        assert loose.stdout.strip() == "0"
