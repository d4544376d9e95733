"""What happens to a NAT while it runs, as the sockets on both sides of it see it."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from lab import InputError, Lab
from lab.nat import presets
from punch.nat.behavior import Filtering, Mapping, NatBehavior, PortAllocation, Unsolicited
from tests.lab.nat.world import PORT, SILENCE_S, World, world
from tests.lab.nat444 import Nat444
from topologies import AB, Firewalls

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
TRANSPORTS = pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
CONE = NatBehavior(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.PRESERVING)
RANDOM_CONE = replace(CONE, port_allocation=PortAllocation.RANDOM)
SEQUENTIAL = NatBehavior(
    Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.SEQUENTIAL
)


class Talk:
    """A connection (over UDP: a pair of sockets) from an inside host to the server, and what the server sees of it."""

    def __init__(self, w: World, host: str = "a", port: int = PORT, server_port: int = 5000) -> None:
        self.inner, listener = w.bound(host, port), w.listening("server", server_port)
        target = (w.lab["server"].address, server_port)
        self.inner.connect(target)
        self.inner.send(b"x")
        self.outer: socket.socket
        if w.kind is TCP:
            self.outer, self.seen = listener.accept()
            w.stack.enter_context(self.outer)
            self.outer.settimeout(2)
            assert self.outer.recv(1) == b"x"
        else:
            self.outer = listener
            _data, self.seen = listener.recvfrom(1)
            self.outer.connect(self.seen)
        assert self.goes_out()
        assert self.comes_in()

    def goes_out(self, wait_s: float = 2) -> bool:
        return _passes(self.inner, self.outer, wait_s)

    def comes_in(self, wait_s: float = 2) -> bool:
        return _passes(self.outer, self.inner, wait_s)

    @property
    def dead(self) -> bool:
        """Whether nothing comes through any more, in either direction."""
        return not self.goes_out(SILENCE_S) and not self.comes_in(SILENCE_S)


def _passes(sender: socket.socket, receiver: socket.socket, wait_s: float) -> bool:
    sender.send(b"y")
    return bool(select.select([receiver], [], [], wait_s)[0]) and receiver.recv(64)[-1:] == b"y"


@TRANSPORTS
@pytest.mark.parametrize("event", ["reboot", "flush"])
@pytest.mark.parametrize("nat", ["port_restricted_cone", "linux_masq"])
def test_a_connection_does_not_survive_what_forgets_it(nat: str, event: str, kind: socket.SocketKind) -> None:
    with world(nat, kind) as w:
        talk = Talk(w)
        getattr(w.lab.nat("a"), event)()
        if kind is UDP:
            # Datagrams know no connection: what goes out makes a new mapping. What comes in finds none.
            assert not talk.comes_in(SILENCE_S)
            assert talk.goes_out()
        else:
            assert talk.dead
        assert w.mapped("a2", "stranger", 5001)[0] == w.lab.nat("a").address


def test_after_a_reboot_a_nat_that_resets_tells_the_server() -> None:
    with world(replace(CONE, unsolicited=Unsolicited.RESET)) as w:
        talk = Talk(w)
        w.lab.nat("a").reboot()
        talk.outer.send(b"y")
        with pytest.raises(ConnectionResetError):
            talk.outer.recv(1)


@TRANSPORTS
@pytest.mark.parametrize("event", ["reboot", "flush", "change_address"])
def test_a_hole_is_closed_by_what_forgets_mappings(event: str, kind: socket.SocketKind) -> None:
    with world("full_cone", kind) as w:
        hole = w.mapped("a", "server", 5000)
        assert w.reached("stranger", 6000, hole, ["a"]) == "a"
        getattr(w.lab.nat("a"), event)()
        assert w.reached("stranger", 6001, hole, ["a"]) is None
        # Until somebody opens another one.
        assert w.reached("stranger", 6002, w.mapped("a", "stranger", 5000), ["a"]) == "a"


@TRANSPORTS
@pytest.mark.parametrize("event", ["reboot", "flush"])
def test_a_random_port_is_drawn_anew_when_its_mapping_was_forgotten(event: str, kind: socket.SocketKind) -> None:
    with world(RANDOM_CONE, kind) as w:
        ports = [w.mapped("a", "server", 5000)[1]]
        assert w.mapped("a", "stranger", 5001)[1] == ports[0]
        for server_port in (5002, 5003):
            getattr(w.lab.nat("a"), event)()
            ports.append(w.mapped("a", "server", server_port)[1])
        assert len(set(ports)) > 1  # one in 64511**2 that it is not


@TRANSPORTS
def test_a_sequence_of_ports_starts_over_after_a_reboot_and_goes_on_after_a_flush(kind: socket.SocketKind) -> None:
    first = SEQUENTIAL.port_range[0]
    with world(SEQUENTIAL, kind) as w:
        ports = []
        for number, event in enumerate(("flush", "reboot", "flush", "flush")):
            ports.append(w.mapped("a", "server", 5000 + number)[1])
            getattr(w.lab.nat("a"), event)()
        assert ports == [first, first + 1, first, first + 1]


def test_a_port_is_free_again_after_a_flush() -> None:
    with world("port_restricted_cone", UDP) as w:
        assert w.mapped("a", "server", 5000)[1] == PORT
        assert w.mapped("a2", "server", 5001)[1] != PORT
        w.lab.nat("a").flush()
        assert w.mapped("a2", "server", 5002)[1] == PORT


def test_a_nat_that_boots_is_silent_for_its_downtime() -> None:
    with world(replace(CONE, unsolicited=Unsolicited.RESET), UDP) as w:
        talk = Talk(w)
        nat = w.lab.nat("a")
        boot = threading.Thread(target=nat.reboot, args=(1.5,))
        begun = time.monotonic()
        boot.start()
        while talk.goes_out(0.05):
            assert time.monotonic() < begun + 1.5
        with w.lab["stranger"].socket() as dialler:
            dialler.settimeout(SILENCE_S)
            with pytest.raises(TimeoutError):
                dialler.connect((nat.address, 12345))
        assert time.monotonic() < begun + 1.5
        boot.join()
        assert time.monotonic() >= begun + 1.5
        assert talk.goes_out()
        with w.lab["stranger"].socket() as dialler, pytest.raises(ConnectionRefusedError):
            dialler.connect((nat.address, 12345))


@TRANSPORTS
def test_after_a_change_of_address_peers_see_the_new_one_and_the_old_one_is_gone(kind: socket.SocketKind) -> None:
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


def test_both_ends_of_an_access_link_know_each_other_at_once() -> None:
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


def test_a_pool_follows_its_first_address() -> None:
    with world(replace(CONE, pool_size=4), UDP) as w:
        nat = w.lab.nat("a")
        before = {w.mapped(host, "server", 5000)[0] for host in ("a", "a2")}
        last = int(nat.change_address().rpartition(".")[2])
        after = {w.mapped(host, "server", 5001)[0] for host in ("a", "a2")}
        assert not before & after
        assert {int(address.rpartition(".")[2]) for address in after} <= set(range(last, last + 4))


@pytest.mark.parametrize("address", ["11.16.1.1", "11.16.1.2", "11.16.1.255", "11.16.9.9", "home"])
def test_an_address_that_cannot_be_had_is_bad_input_and_nothing_happens(address: str) -> None:
    with world("full_cone") as w:
        talk = Talk(w)
        with pytest.raises(InputError, match=rf"address: '{address}'.*11\.16\.1\.0/24"):
            w.lab.nat("a").change_address(address)
        assert talk.goes_out()


@TRANSPORTS
def test_a_link_that_is_down_loses_packets_and_the_mapping_stays(kind: socket.SocketKind) -> None:
    with world(RANDOM_CONE, kind) as w:
        talk, nat = Talk(w), w.lab.nat("a")
        nat.link_down()
        nat.link_down()
        assert talk.dead
        nat.link_up()
        nat.link_up()
        # TCP has kept what was lost, and sends it again.
        assert talk.goes_out(10)
        assert talk.comes_in(10)
        assert w.mapped("a", "stranger", 5001) == talk.seen


def test_a_link_that_is_down_answers_nobody() -> None:
    with world("full_cone") as w:
        w.lab.nat("a").link_down()
        for node, target in (("a", w.lab["server"].address), ("server", w.lab["nat_a"].address)):
            dialler = w.bound(node, 6000)
            dialler.settimeout(SILENCE_S)
            with pytest.raises(TimeoutError):
                dialler.connect((target, 5000))


def test_any_link_can_be_cut_and_joined() -> None:
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
def test_a_cone_becomes_symmetric_under_way(kind: socket.SocketKind) -> None:
    with world("full_cone", kind) as w:
        talk = Talk(w)
        assert w.mapped("a", "stranger", 5001)[1] == PORT
        w.lab.nat("a").behave("symmetric")
        assert w.lab.behavior("a") == presets.behavior("symmetric")
        # What was there goes on; what is new is mapped, and filtered, by the new behavior.
        assert talk.goes_out()
        assert talk.comes_in()
        ports = {w.mapped("a", "stranger", port)[1] for port in (5002, 5003)}
        assert len({*ports, PORT}) == 3
        assert w.reached("stranger", 6000, talk.seen, ["a"]) is None
        w.lab.nat("a").behave("full_cone")
        assert talk.goes_out()
        hole = w.mapped("a", "stranger", 5004)
        assert w.mapped("a", "server", 5005) == hole
        assert w.reached("stranger", 6001, hole, ["a"]) == "a"


def test_every_behavior_can_follow_every_other_kind() -> None:
    kinds: list[str | NatBehavior] = [
        "full_cone",
        SEQUENTIAL,
        "linux_masq",
        replace(CONE, pool_size=4),
        "symmetric",
        CONE,
    ]
    with world(CONE, UDP) as w:
        for number, nat in enumerate(kinds):
            w.lab.nat("a").behave(nat)
            w.lab.nat("a").flush()
            port = w.mapped("a", "server", 5000 + number)[1]
            behavior = presets.behavior(nat)
            assert behavior is not None
            assert (port == PORT) is (behavior.port_allocation is PortAllocation.PRESERVING)


def test_an_unsolicited_syn_is_answered_by_the_behavior_of_the_moment() -> None:
    with world(CONE) as w:
        nat = w.lab.nat("a")
        for unsolicited, error in ((Unsolicited.RESET, ConnectionRefusedError), (Unsolicited.DROP, TimeoutError)):
            nat.behave(replace(CONE, unsolicited=unsolicited))
            with w.lab["stranger"].socket() as dialler:
                dialler.settimeout(SILENCE_S)
                with pytest.raises(error):
                    dialler.connect((nat.address, 12345))


@pytest.mark.parametrize("nat", ["none", replace(CONE, translates=False)])
def test_a_nat_does_not_become_what_needs_another_network(nat: str | NatBehavior) -> None:
    with world(CONE) as w, pytest.raises(InputError, match="translates, as nat_a does"):
        w.lab.nat("a").behave(nat)


def test_a_nat_is_named_by_its_node_or_by_a_host_behind_it() -> None:
    with world(CONE) as w:
        assert w.lab.nat("a") is w.lab.nat("a2") is w.lab.nat("nat_a")
        for name in ("server", "core1", "z"):
            with pytest.raises(InputError, match=rf"nat: '{name}'.*one of a, a2, nat_a"):
                w.lab.nat(name)


def test_a_home_and_its_carrier_are_events_of_their_own() -> None:
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
        # Other hosts of the home are other users of the carrier.
        assert lab["core1"].run(["ip", "route", "get", traffic.address]).stdout.startswith("local")


@TRANSPORTS
def test_a_firewall_forgets_and_its_link_is_cut_for_ipv6_too(kind: socket.SocketKind) -> None:
    with Lab(Firewalls(delay="0ms", edge_delay="0ms")) as lab, contextlib.ExitStack() as stack:
        wall, edge = lab.nat("a"), lab["edge1"].graph.address6
        assert edge is not None
        door, inner = (stack.enter_context(socket_of(lab, node, kind)) for node in ("edge1", "a"))
        door.bind((edge, 5000))
        if kind is TCP:
            door.listen()
        inner.connect((edge, 5000))
        inner.send(b"x")
        if kind is TCP:
            outer = stack.enter_context(door.accept()[0])
            outer.recv(1)
        else:
            outer = door
            outer.connect(outer.recvfrom(1)[1])
        assert _passes(outer, inner, 2)
        wall.link_down()
        assert not _passes(outer, inner, SILENCE_S)
        wall.link_up()
        assert _passes(outer, inner, 10)
        wall.change_address()
        wall.background(50)
        wall.flush()
        assert not _passes(outer, inner, SILENCE_S)
        assert _pings(lab)


def socket_of(lab: Lab, node: str, kind: socket.SocketKind) -> socket.socket:
    with lab[node].entered():
        return socket.socket(socket.AF_INET6, kind)


@contextlib.contextmanager
def _stream(w: World) -> Iterator[list[tuple[float, int]]]:
    """Datagrams from fresh local ports, as fast as they go; (time, external port) of those that came out."""
    seen: list[tuple[float, int]] = []
    listener, target = w.listening("server", 5000), (w.lab["server"].address, 5000)
    end = threading.Event()

    def send() -> None:
        for port in range(20000, 60000):
            if end.is_set():
                return
            with w.lab["a"].socket(UDP) as sender:
                sender.bind(("0.0.0.0", port))
                sender.sendto(b"x", target)
            while select.select([listener], [], [], 0)[0]:
                seen.append((time.monotonic(), listener.recvfrom(1)[1][1]))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield seen
    finally:
        end.set()
        sending.join()


def test_no_packet_sees_half_of_a_change() -> None:
    """Every datagram leaves by the old behavior (the port is preserved) or by the new one (a port of its range)."""
    low = NatBehavior(
        Mapping.ENDPOINT_INDEPENDENT,
        Filtering.ENDPOINT_INDEPENDENT,
        PortAllocation.SEQUENTIAL,
        port_range=(2000, 6095),
    )
    with world(CONE, UDP) as w, _stream(w) as seen:
        moments = []
        for nat in (low, CONE, low, CONE):
            before = len(seen)
            while len(seen) < before + 20:
                select.select([], [], [], 0.001)
            w.lab.nat("a").behave(nat)
            moments.append(time.monotonic())
        before = len(seen)
        while len(seen) < before + 20:
            select.select([], [], [], 0.001)
    ports = [port for _time, port in seen]
    changes = sum((one < 10000) is not (other < 10000) for one, other in pairwise(ports))
    assert changes == 4
    assert not {port for port in ports if not (2000 <= port < 6096 or port >= 20000)}
