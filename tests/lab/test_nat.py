"""Every classic NAT does what its name says, seen through sockets alone, over TCP and UDP, with two hosts behind it."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Iterator

import pytest

from lab import Lab
from tests.lab.homes import Homes

PORT = 41000
SILENCE_S = 0.3
TRANSPORTS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
CONES = ("full_cone", "restricted_cone", "port_restricted_cone")


class World:
    """Sockets in the nodes of a lab: dial out from behind the NAT, dial in from outside, see who is reached."""

    def __init__(self, lab: Lab, kind: socket.SocketKind, stack: contextlib.ExitStack) -> None:
        self.lab, self.kind, self.stack = lab, kind, stack
        self.servers: dict[tuple[str, int], socket.socket] = {}

    def bound(self, node: str, port: int) -> socket.socket:
        made = self.stack.enter_context(self.lab[node].socket(self.kind))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("0.0.0.0", port))
        made.settimeout(2)
        return made

    def listening(self, node: str, port: int) -> socket.socket:
        made = self.bound(node, port)
        if self.kind is socket.SOCK_STREAM:
            made.listen()
        return made

    def mapped(self, host: str, server: str, server_port: int, port: int = PORT) -> tuple[str, int]:
        """The endpoint that the server sees when the host dials it from the local port."""
        key = (server, server_port)
        if key not in self.servers:
            self.servers[key] = self.listening(server, server_port)
        dialler = self.bound(host, port)
        dialler.connect((self.lab[server].address, server_port))
        dialler.send(b"x")
        if self.kind is socket.SOCK_DGRAM:
            seen: tuple[str, int] = self.servers[key].recvfrom(1)[1]
            return seen
        accepted, seen = self.servers[key].accept()
        self.stack.enter_context(accepted)
        return seen

    def reached(self, outsider: str, outsider_port: int, target: tuple[str, int], hosts: list[str]) -> str | None:
        """Which of the hosts, listening on PORT, the outsider reaches by dialling the target; None for nobody."""
        doors = {host: self.listening(host, PORT) for host in hosts}
        dialler = self.bound(outsider, outsider_port)
        dialler.setblocking(False)
        assert dialler.connect_ex(target) in (0, errno.EINPROGRESS)
        if self.kind is socket.SOCK_DGRAM:
            dialler.send(b"y")
        ready, _, _ = select.select(list(doors.values()), [], [], SILENCE_S)
        names = [host for host, door in doors.items() if door in ready]
        for door in (*doors.values(), dialler):
            door.close()
        return names[0] if names else None


@contextlib.contextmanager
def world(nat: str, kind: socket.SocketKind = socket.SOCK_STREAM, unsolicited: str = "drop") -> Iterator[World]:
    with Lab(Homes(nat=nat, unsolicited=unsolicited)) as lab, contextlib.ExitStack() as stack:
        yield World(lab, kind, stack)


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
def test_two_hosts_with_one_source_port_get_ports_of_their_own_towards_all_destinations(
    nat: str, kind: socket.SocketKind
) -> None:
    with world(nat, kind) as w:
        first = w.mapped("a", "server", 5000)
        second = {w.mapped("a2", server, port) for server in ("stranger", "server") for port in (5001, 5000)}
        assert len(second) == 1
        assert first not in second


@TRANSPORTS
def test_a_third_party_that_dials_the_second_hosts_port_reaches_the_second(kind: socket.SocketKind) -> None:
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
def test_filtering_admits_whom_the_kind_admits(nat: str, admitted: set[str], kind: socket.SocketKind) -> None:
    with world(nat, kind) as w:
        target = w.mapped("a", "server", 5000)
        outsiders = {"contacted address": ("server", 6000), "stranger": ("stranger", 6000)}
        got = {name for name, outsider in outsiders.items() if w.reached(*outsider, target, ["a"]) == "a"}
        # What was dialled may always answer: the reply that `mapped` got over TCP, a datagram back over UDP.
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


def test_a_mapping_outlives_the_connection_that_made_it() -> None:
    with world("full_cone") as w:
        w.mapped("a", "server", 5000)
        target = w.mapped("a2", "server", 5001)  # not its own port: chosen by the NAT
        w.stack.close()
        w.servers.clear()
        with contextlib.ExitStack() as again:
            w.stack = again
            w.lab["nat_a"].run(["sh", "-c", "echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close"])
            assert w.mapped("a2", "stranger", 5002) == target


def test_streams_in_the_middle_are_not_taken_up_by_a_nat_that_lost_its_state() -> None:
    with world("port_restricted_cone") as w:
        w.mapped("a", "server", 5000)
        loose = w.lab["nat_a"].run(["cat", "/proc/sys/net/netfilter/nf_conntrack_tcp_loose"])
        assert loose.stdout.strip() == "0"
