"""Hosts behind one NAT, and NATs behind a NAT, as required by RFC 4787, RFC 5382 and RFC 6888, tested with sockets."""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
import select
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from punchlab import Lab
from punchlab.lab.trial import control
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    Hairpinning,
    IcmpErrors,
    MappingBehavior,
    NatBehavior,
    Pooling,
    PortAllocation,
    Unsolicited,
)
from punchlab.topologies import Carrier, SameNat
from tests.lab.nat.nat444 import Nat444
from tests.lab.nat.world import PATIENCE_S, PORT, SILENCE_S, World, world

KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM]
TRANSPORTS = pytest.mark.parametrize("kind", KINDS, ids=["tcp", "udp"])
CONE = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.PRESERVING
)
OPEN = replace(CONE, filtering=FilteringBehavior.ENDPOINT_INDEPENDENT)
SYMMETRIC = NatBehavior(
    MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.RANDOM
)
HAIRPIN = replace(OPEN, hairpinning=Hairpinning.EXTERNAL_SOURCE)
CGN = replace(HAIRPIN, port_allocation=PortAllocation.BLOCKS, block_size=64)
SERVERS = [("server", 5000), ("stranger", 5001)]


@contextlib.contextmanager
def nat444(home: NatBehavior, cgn: NatBehavior, kind: socket.SocketKind) -> Iterator[World]:
    with Lab(Nat444(home=home, cgn=cgn)) as lab, contextlib.ExitStack() as stack:
        yield World(lab, kind, stack)


def source_at(
    w: World, listener: socket.socket, sender: socket.socket, target: tuple[str, int], wait_s: float = PATIENCE_S
) -> tuple[str, int] | None:
    """Return the source endpoint of the connection at the listener, None without one. An answer has arrived."""
    sender.setblocking(False)
    assert sender.connect_ex(target) in (0, errno.EINPROGRESS)
    if w.kind is socket.SOCK_DGRAM:
        sender.send(b"x")
    if not select.select([listener], [], [], wait_s)[0]:
        return None
    remote: tuple[str, int]
    if w.kind is socket.SOCK_DGRAM:
        remote = listener.recvfrom(1)[1]
        listener.sendto(b"y", remote)
    else:
        accepted, remote = listener.accept()
        w.stack.enter_context(accepted).send(b"y")
    sender.settimeout(PATIENCE_S)
    assert sender.recv(1) == b"y"
    return remote


# Two hosts behind one NAT (RFC 4787 REQ-3, RFC 5382 REQ-7).


@TRANSPORTS
@pytest.mark.parametrize(
    "nat",
    [CONE, OPEN, SYMMETRIC, replace(CONE, port_allocation=PortAllocation.SEQUENTIAL), CGN],
    ids=["port-restricted", "full", "symmetric", "sequential", "blocks"],
)
def test_two_hosts_with_one_source_port_and_one_server_get_their_own_answers(
    nat: NatBehavior, kind: socket.SocketKind
) -> None:
    with world(nat, kind) as w:
        server = w.listening("server", 5000)
        seen = {}
        for host in ("a", "a2"):
            sender = w.bound(host, PORT)
            sender.connect((w.address("server"), 5000))
            sender.send(host.encode())
            if kind is socket.SOCK_DGRAM:
                data, remote = server.recvfrom(2)
                server.sendto(data, remote)
            else:
                accepted, remote = server.accept()
                w.stack.enter_context(accepted).settimeout(2)
                accepted.send(accepted.recv(2))
            assert sender.recv(2) == host.encode()
            seen[host] = remote
        assert len(set(seen.values())) == 2
        assert {address for address, _port in seen.values()} == {w.lab["nat_a"].address}


@TRANSPORTS
def test_two_hosts_with_one_source_port_reach_each_other_by_hairpinning(kind: socket.SocketKind) -> None:
    with world(replace(CONE, hairpinning=Hairpinning.EXTERNAL_SOURCE), kind) as w:
        external = {host: w.mapped(host, "server", 5000) for host in ("a", "a2")}
        for host, peer in (("a", "a2"), ("a2", "a")):
            with w.listening(peer, PORT) as listener:
                assert source_at(w, listener, w.bound(host, PORT + 1), external[peer]) is not None
        # From the same port by which the peer knows it (RFC 4787 REQ-9a, RFC 5382 REQ-8a).
        listener, sender = w.listening("a", PORT), w.bound("a2", PORT)
        assert source_at(w, listener, sender, external["a"]) == external["a2"]


# A carrier's NAT in front of home NATs (RFC 6888 REQ-1: it meets the requirements of any NAT).


@TRANSPORTS
def test_a_host_behind_two_cones_has_one_external_endpoint_for_all_destinations(kind: socket.SocketKind) -> None:
    with nat444(CONE, CGN, kind) as w:
        seen = {w.mapped("a", *server) for server in SERVERS}
        assert len(seen) == 1
        assert seen.pop()[0] == w.lab["cgn1"].address


@TRANSPORTS
@pytest.mark.parametrize(("home", "cgn"), [(SYMMETRIC, CGN), (CONE, SYMMETRIC)], ids=["home", "carrier"])
def test_with_one_symmetric_nat_of_two_every_destination_sees_another_port(
    home: NatBehavior, cgn: NatBehavior, kind: socket.SocketKind
) -> None:
    with nat444(home, cgn, kind) as w:
        assert len({w.mapped("a", *server) for server in SERVERS}) == 2


@TRANSPORTS
def test_homes_with_the_same_private_endpoint_are_distinguished(kind: socket.SocketKind) -> None:
    with nat444(OPEN, CGN, kind) as w:
        assert w.lab["a"].address == w.lab["b"].address
        external = {host: w.mapped(host, "server", 5000) for host in ("a", "b")}
        assert external["a"] != external["b"]
        for number, (host, endpoint) in enumerate(external.items()):
            assert w.reached("stranger", 6000 + number, endpoint, ["a", "b"]) == host


@TRANSPORTS
def test_a_block_of_ports_belongs_to_a_subscriber_and_all_its_hosts(kind: socket.SocketKind) -> None:
    with nat444(CONE, CGN, kind) as w:
        blocks = {
            host: {(w.mapped(host, *server, port)[1] - 1024) // 64 for server in SERVERS for port in (PORT, PORT + 1)}
            for host in ("a", "a2", "b")
        }
        assert [len(block) for block in blocks.values()] == [1, 1, 1]
        assert blocks["a"] == blocks["a2"]
        assert blocks["a"] != blocks["b"]


@TRANSPORTS
def test_a_subscriber_keeps_its_address_of_a_paired_pool(kind: socket.SocketKind) -> None:
    """RFC 6888 REQ-2."""
    with nat444(SYMMETRIC, replace(SYMMETRIC, pool_size=8, pooling=Pooling.PAIRED), kind) as w:
        for hosts in (("a", "a2"), ("b",)):
            assert len({w.mapped(host, *server)[0] for host in hosts for server in SERVERS}) == 1


@TRANSPORTS
@pytest.mark.parametrize(("home", "carrier"), list(itertools.product(FilteringBehavior, FilteringBehavior)))
def test_a_packet_must_pass_both_filters(
    home: FilteringBehavior, carrier: FilteringBehavior, kind: socket.SocketKind
) -> None:
    with nat444(replace(CONE, filtering=home), replace(CGN, filtering=carrier), kind) as w:
        target = w.mapped("a", "server", 5000)
        got = {name for name in ("server", "stranger") if w.reached(name, 6000, target, ["a"]) == "a"}
        strictest = max(home, carrier, key=tuple(FilteringBehavior).index)
        assert (
            got
            == {
                FilteringBehavior.ENDPOINT_INDEPENDENT: {"server", "stranger"},
                FilteringBehavior.ADDRESS_DEPENDENT: {"server"},
                FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT: set(),
            }[strictest]
        )


@TRANSPORTS
@pytest.mark.parametrize("filtering", FilteringBehavior)
@pytest.mark.parametrize("hairpinning", Hairpinning)
def test_homes_of_one_carrier_reach_each_other_according_to_its_hairpinning(
    hairpinning: Hairpinning, filtering: FilteringBehavior, kind: socket.SocketKind
) -> None:
    with nat444(OPEN, replace(CGN, filtering=filtering, hairpinning=hairpinning), kind) as w:
        external = {host: w.mapped(host, "server", 5000) for host in ("a", "b")}
        if hairpinning is Hairpinning.INTERNAL_SOURCE:
            if kind is socket.SOCK_STREAM:
                # The answer bypasses the carrier's NAT, and the home NAT does not know its source.
                assert w.reached("a", PORT, external["b"], ["b"]) is None
            else:
                listener = w.listening("b", PORT)
                w.bound("a", PORT).sendto(b"x", external["b"])
                assert listener.recvfrom(1)[1] == (w.lab["nat_a"].address, PORT)
            return
        turned_back = hairpinning is Hairpinning.EXTERNAL_SOURCE
        wait_s = PATIENCE_S if turned_back else SILENCE_S
        remote = source_at(w, w.listening("b", PORT), w.bound("a", PORT), external["b"], wait_s)
        assert remote == (external["a"] if turned_back else None)


@TRANSPORTS
def test_the_home_nat_filters_hairpinned_packets(kind: socket.SocketKind) -> None:
    with nat444(CONE, CGN, kind) as w:
        external = {host: w.mapped(host, "server", 5000) for host in ("a", "b")}
        assert w.reached("a", PORT, external["b"], ["b"]) is None
        if kind is socket.SOCK_DGRAM:
            # Until b also has sent a packet there.
            listener = w.listening("b", PORT)
            listener.sendto(b"x", external["a"])
            assert source_at(w, listener, w.bound("a", PORT), external["b"]) == external["a"]


@pytest.mark.parametrize(
    ("home", "cgn", "number"),
    [
        (Unsolicited.DROP, Unsolicited.RESET, errno.ECONNREFUSED),
        (Unsolicited.ADMIN_PROHIBITED, Unsolicited.DROP, None),
        (Unsolicited.RESET, Unsolicited.ADMIN_PROHIBITED, errno.EHOSTUNREACH),
    ],
)
def test_the_carriers_nat_answers_the_syns_that_it_rejects(
    home: Unsolicited, cgn: Unsolicited, number: int | None
) -> None:
    outer = replace(CGN, filtering=FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, unsolicited=cgn)
    with nat444(replace(CONE, unsolicited=home), outer, socket.SOCK_STREAM) as w:
        target = w.mapped("a", "server", 5000)
        sender = w.bound("stranger", 6000)
        sender.settimeout(SILENCE_S if number is None else PATIENCE_S)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is asserted below
            sender.connect(target)
        assert caught.value.errno == number


def test_the_home_nat_answers_the_syns_that_the_carriers_nat_admits() -> None:
    with nat444(replace(CONE, unsolicited=Unsolicited.RESET), CGN, socket.SOCK_STREAM) as w:
        target = w.mapped("a", "server", 5000)
        sender = w.bound("stranger", 6000)
        with pytest.raises(ConnectionRefusedError):
            sender.connect(target)


@pytest.mark.parametrize("swallows", ["home", "cgn", None])
def test_an_icmp_error_passes_both_nats_unless_one_swallows_it(swallows: str | None) -> None:
    mute = IcmpErrors.SWALLOWED
    home = replace(CONE, icmp_errors=mute) if swallows == "home" else CONE
    cgn = replace(CGN, icmp_errors=mute) if swallows == "cgn" else CGN
    with nat444(home, cgn, socket.SOCK_DGRAM) as w:
        sender = w.bound("a", PORT)
        sender.connect((w.address("server"), 5999))
        sender.send(b"x")
        sender.settimeout(PATIENCE_S if swallows is None else SILENCE_S)
        with pytest.raises(ConnectionRefusedError if swallows is None else TimeoutError):
            sender.recv(1)


# Outcome prediction for NATs in series and for a shared NAT.

ANSWERS = [
    (Unsolicited.DROP, IcmpErrors.TRANSLATED),
    (Unsolicited.RESET, IcmpErrors.TRANSLATED),
    (Unsolicited.ADMIN_PROHIBITED, IcmpErrors.TRANSLATED),
    (Unsolicited.ADMIN_PROHIBITED, IcmpErrors.SWALLOWED),
]
HOMES = [
    NatBehavior(mapping, filtering, PortAllocation.PRESERVING, answer, icmp_errors=errors)
    for mapping, filtering, (answer, errors) in itertools.product(MappingBehavior, FilteringBehavior, ANSWERS)
]
Nested = tuple[NatBehavior, NatBehavior, NatBehavior, str]


def sample(seed: int, count: int) -> list[Nested]:
    """Return (home, other home, carrier, delay): `count` without delay, where SYNs do not cross, and `count` with a
    delay.

    Without delay, no NAT answers with ICMP: whether the kernel processes an error that arrives during connect() depends
    on the number of hops (it defers after ten iterations).
    """
    draw = random.Random(seed)
    prompt = [nat for nat in HOMES if nat.unsolicited.icmp_code is None]
    drawn: list[Nested] = []
    for homes, delay in ((prompt, "0ms"), (HOMES, "20ms")):
        some = (tuple(draw.choice(homes) for _ in range(3)) for _ in range(100 * count))
        drawn += [(a, b, cgn, delay) for a, b, cgn in some if is_equivalent(a, cgn)][:count]
    return drawn


def is_equivalent(home: NatBehavior, cgn: NatBehavior) -> bool:
    """Return whether a single behavior is equivalent (see `lab.oracle.nesting`)."""
    by_address = home.filtering is FilteringBehavior.ADDRESS_DEPENDENT
    return not (by_address and cgn.filtering is FilteringBehavior.ENDPOINT_INDEPENDENT and cgn.destination_dependent)


@pytest.mark.parametrize(("a", "c", "cgn", "delay"), sample(seed=6888, count=12))
def test_a_host_behind_two_nats_and_one_behind_one_connect_as_predicted(
    a: NatBehavior, c: NatBehavior, cgn: NatBehavior, delay: str
) -> None:
    with Lab(Carrier(nat_a=a, nat_b=a, nat_c=c, cgn=cgn, delay=delay, edge_delay="0ms")) as lab:
        dialled = control.attempt(lab, "a", "c")
    assert dialled.agrees is not False, dialled


@pytest.mark.parametrize(("a", "b", "cgn", "delay"), sample(seed=4787, count=12))
def test_homes_of_one_carrier_connect_as_predicted(
    a: NatBehavior, b: NatBehavior, cgn: NatBehavior, delay: str
) -> None:
    hairpinning = replace(cgn, hairpinning=Hairpinning.EXTERNAL_SOURCE)
    with Lab(Carrier(nat_a=a, nat_b=b, cgn=hairpinning, delay=delay, edge_delay="0ms")) as lab:
        dialled = control.attempt(lab, "a", "b")
    assert dialled.agrees is not False, dialled


@pytest.mark.parametrize("hairpinning", Hairpinning)
@pytest.mark.parametrize("nat", [CONE, OPEN, SYMMETRIC], ids=["port-restricted", "full", "symmetric"])
def test_hosts_of_one_home_connect_through_their_nat_as_predicted(nat: NatBehavior, hairpinning: Hairpinning) -> None:
    with Lab(SameNat(nat_a=replace(nat, hairpinning=hairpinning), edge_delay="0ms")) as lab:
        dialled = control.attempt(lab, "a", "b")
    assert dialled.direct is (hairpinning is Hairpinning.EXTERNAL_SOURCE)
    assert dialled.agrees, dialled
