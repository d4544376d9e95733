"""Features of a NAT besides mapping and filtering, tested with sockets: answers, hairpinning, pools, blocks,
timeouts.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from dataclasses import replace

import pytest

from punchlab.lab.nat import presets
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    Hairpinning,
    IcmpErrors,
    MappingBehavior,
    NatBehavior,
    Pooling,
    PortAllocation,
    Timeouts,
    Unsolicited,
)
from tests.lab.nat.world import PORT, SILENCE_S, World, world

IP_RECVERR = 11
"""From linux/in.h; Python does not define it."""

TRANSPORTS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
CONE = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.PRESERVING
)
FULL_CONE = replace(CONE, filtering=FilteringBehavior.ENDPOINT_INDEPENDENT)
SYMMETRIC = NatBehavior(
    MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.RANDOM
)
DESTINATIONS = [(server, port) for server in ("server", "stranger") for port in (5000, 5001)]


def failure(w: World, node: str, target: tuple[str, int], port: int = 6000) -> int | None:
    """Return the errno with which a TCP connection fails, or None without an answer."""
    dialler = w.bound(node, port)
    dialler.setblocking(False)
    assert dialler.connect_ex(target) == errno.EINPROGRESS
    return dialler.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if _ready(dialler) else None


def _ready(dialler: socket.socket) -> bool:
    return bool(select.select([], [dialler], [], SILENCE_S)[1])


@pytest.mark.parametrize("nat", [CONE, FULL_CONE, SYMMETRIC], ids=["port-restricted", "full", "symmetric"])
@pytest.mark.parametrize(
    ("unsolicited", "number"),
    [
        (Unsolicited.PORT_UNREACHABLE, errno.ECONNREFUSED),
        (Unsolicited.HOST_PROHIBITED, errno.EHOSTUNREACH),
        (Unsolicited.ADMIN_PROHIBITED, errno.EHOSTUNREACH),
    ],
)
def test_every_unsolicited_syn_is_rejected_with_icmp(nat: NatBehavior, unsolicited: Unsolicited, number: int) -> None:
    with world(replace(nat, unsolicited=unsolicited)) as w:
        # More than the kernel's rate limit of ICMP errors per second, if it applied.
        answers = [failure(w, "stranger", (w.lab["nat_a"].address, 12345), 6000 + count) for count in range(10)]
        assert answers == [number] * 10


def test_the_icmp_code_is_the_configured_one() -> None:
    for unsolicited in [each for each in Unsolicited if each is not Unsolicited.SILENT_THEN_ICMP]:
        with world(replace(CONE, unsolicited=unsolicited)) as w:
            dialler = w.bound("stranger", 6000)
            dialler.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            dialler.setblocking(False)
            dialler.connect_ex((w.lab["nat_a"].address, 12345))
            code = None
            if _ready(dialler) and unsolicited is not Unsolicited.RESET:
                _data, ancillary, _flags, _address = dialler.recvmsg(64, 512, socket.MSG_ERRQUEUE)
                # struct sock_extended_err: errno, origin, type, code
                _errno, _origin, kind, code = struct.unpack_from("IBBB", ancillary[0][2])
                assert kind == 3
            assert code == unsolicited.icmp_code


@pytest.mark.parametrize(("errors", "number"), [("translated", errno.ECONNREFUSED), ("swallowed", None)])
def test_an_icmp_error_from_outside_reaches_the_inside_host_or_is_swallowed(errors: str, number: int | None) -> None:
    with world(replace(CONE, icmp_errors=IcmpErrors(errors))) as w:
        refuse = ["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "5000", "-j", "REJECT"]
        w.lab["server"].run(refuse)
        assert failure(w, "a", (w.lab["server"].address, 5000)) == number


@TRANSPORTS
@pytest.mark.parametrize("nat", [CONE, FULL_CONE, SYMMETRIC], ids=["port-restricted", "full", "symmetric"])
def test_a_hairpinned_packet_has_the_external_source_endpoint(nat: NatBehavior, kind: socket.SocketKind) -> None:
    with world(replace(nat, hairpinning=Hairpinning.EXTERNAL_SOURCE), kind) as w:
        target, own = w.mapped("a", "server", 5000), w.mapped("a2", "server", 5000, PORT + 1)
        listener = w.listening("a", PORT)
        listener.settimeout(2)
        dialler = w.bound("a2", PORT + 1)
        dialler.connect(target)
        dialler.send(b"x")
        if kind is socket.SOCK_STREAM:
            accepted, remote = listener.accept()
            w.stack.enter_context(accepted)
            accepted.send(b"y")
        else:
            remote = listener.recvfrom(1)[1]
            listener.sendto(b"y", remote)
        assert dialler.recv(1) == b"y"
        assert remote[0] == w.lab["nat_a"].address
        assert (remote == own) is (nat is not SYMMETRIC)


def test_a_hairpinned_packet_with_internal_source_has_the_private_address() -> None:
    nat = replace(CONE, hairpinning=Hairpinning.INTERNAL_SOURCE)
    with world(nat, socket.SOCK_DGRAM) as w:
        target = w.mapped("a", "server", 5000)
        listener = w.listening("a", PORT)
        w.bound("a2", PORT + 1).sendto(b"x", target)
        assert listener.recvfrom(1)[1] == (w.lab["a2"].address, PORT + 1)


@TRANSPORTS
def test_without_hairpinning_no_packet_returns(kind: socket.SocketKind) -> None:
    with world(FULL_CONE, kind) as w:
        assert w.reached("a2", PORT + 1, w.mapped("a", "server", 5000), ["a"]) is None


@TRANSPORTS
@pytest.mark.parametrize("delta", [2, -3, 256])
def test_sequential_allocation_adds_its_delta_across_all_hosts(delta: int, kind: socket.SocketKind) -> None:
    nat = replace(SYMMETRIC, port_allocation=PortAllocation.SEQUENTIAL, port_delta=delta, port_range=(30000, 33999))
    with world(nat, kind) as w:
        ports = [w.mapped(host, *to)[1] for to in DESTINATIONS for host in ("a", "a2")]
        assert ports == list(range(30000, 34000, delta) if delta > 0 else range(33999, 29999, delta))[: len(ports)]


@TRANSPORTS
def test_a_clash_can_use_the_next_port(kind: socket.SocketKind) -> None:
    with world(replace(CONE, on_clash=PortAllocation.SEQUENTIAL, port_range=(30000, 33999)), kind) as w:
        assert [w.mapped(host, *DESTINATIONS[0])[1] for host in ("a", "a2")] == [PORT, 30000]


@TRANSPORTS
@pytest.mark.parametrize("mapping", MappingBehavior)
def test_every_host_has_its_own_block_of_ports(mapping: MappingBehavior, kind: socket.SocketKind) -> None:
    nat = replace(SYMMETRIC, mapping=mapping, port_allocation=PortAllocation.BLOCKS, block_size=64)
    with world(nat, kind) as w:
        keys = {
            MappingBehavior.ENDPOINT_INDEPENDENT: 1,
            MappingBehavior.ADDRESS_DEPENDENT: 2,
            MappingBehavior.ADDRESS_AND_PORT_DEPENDENT: 4,
        }
        for host in ("a", "a2"):
            ports = [w.mapped(host, *to, port)[1] for to in DESTINATIONS for port in (PORT, PORT + 1)]
            assert {(port - 1024) // 64 for port in ports} == {int(w.lab[host].address.rpartition(".")[2])}
            assert len(set(ports)) == 2 * keys[mapping]


@TRANSPORTS
@pytest.mark.parametrize("allocation", [PortAllocation.PRESERVING, PortAllocation.RANDOM, PortAllocation.SEQUENTIAL])
def test_a_paired_pool_gives_a_host_one_address_and_an_arbitrary_one_several(
    allocation: PortAllocation, kind: socket.SocketKind
) -> None:
    for pooling in Pooling:
        nat = replace(SYMMETRIC, port_allocation=allocation, pool_size=8, pooling=pooling)
        with world(nat, kind) as w:
            # Paired: for all destinations. Arbitrary: by destination, of which there are three addresses.
            servers = ("server", "stranger", "edge1")
            used = {host: {w.mapped(host, to, 5000)[0] for to in servers} for host in ("a", "a2")}
            first = int(w.lab["nat_a"].address.rpartition(".")[2])
            last_bytes = {int(address.rpartition(".")[2]) for addresses in used.values() for address in addresses}
            assert last_bytes <= set(range(first, first + 8))
            if pooling is Pooling.PAIRED:
                assert [len(addresses) for addresses in used.values()] == [1, 1]
            else:
                assert len(used["a"] | used["a2"]) > 1


@TRANSPORTS
def test_an_endpoint_independent_mapping_stays_on_its_address_of_an_arbitrary_pool(kind: socket.SocketKind) -> None:
    with world(replace(FULL_CONE, pool_size=8, pooling=Pooling.ARBITRARY), kind) as w:
        seen = {w.mapped("a", *to) for to in DESTINATIONS}
        assert len(seen) == 1
        assert w.reached("stranger", 6000, seen.pop(), ["a"]) == "a"


@TRANSPORTS
def test_with_overloading_two_hosts_share_a_port_for_different_destinations(kind: socket.SocketKind) -> None:
    with world(replace(CONE, port_overloading=True), kind) as w:
        assert [w.mapped("a", "server", 5000)[1], w.mapped("a2", "stranger", 5000)[1]] == [PORT, PORT]
        # Ford's observation: for a shared destination, the second host gets another port, so its mapping depends on the
        # destination.
        assert w.mapped("a2", "server", 5000)[1] != PORT


@TRANSPORTS
def test_a_remote_endpoint_contacted_through_another_port_never_appears_with_another_port(
    kind: socket.SocketKind,
) -> None:
    nat = replace(SYMMETRIC, filtering=FilteringBehavior.ENDPOINT_INDEPENDENT)
    with world(nat, kind) as w:
        registered, _other = w.mapped("a", "server", 5000), w.mapped("a", "stranger", 5001)
        assert w.reached("stranger", 5001, registered, ["a"]) is None
        assert w.reached("stranger", 5002, registered, ["a"]) == "a"


def test_replies_use_the_mapping_of_the_inbound_packet() -> None:
    nat = replace(SYMMETRIC, filtering=FilteringBehavior.ENDPOINT_INDEPENDENT)
    with world(nat, socket.SOCK_DGRAM) as w:
        registered = w.mapped("a", "server", 5000)
        listener, outsider = w.listening("a", PORT), w.bound("stranger", 6000)
        outsider.sendto(b"x", registered)
        listener.sendto(b"y", listener.recvfrom(1)[1])
        assert outsider.recvfrom(1)[1] == registered


def test_an_idle_udp_mapping_expires_on_time() -> None:
    nat = replace(FULL_CONE, timeouts=Timeouts(udp_solitary_s=1, udp_stream_s=1))
    with world(nat, socket.SOCK_DGRAM) as w:
        target = w.mapped("a", "server", 5000)
        assert w.reached("stranger", 6000, target, ["a"]) == "a"
        # The time itself is tested; there is no event to wait for.
        select.select([], [], [], 1.5)
        assert w.reached("stranger", 6001, target, ["a"]) is None


def test_conntrack_entries_expire_with_the_timeouts_of_the_behavior() -> None:
    wanted = Timeouts(11, 22, 33, 44, 55)
    with world(replace(CONE, timeouts=wanted)) as w:
        tcp = ("syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack", "time_wait")
        names = [*(f"tcp_timeout_{state}" for state in tcp), "udp_timeout", "udp_timeout_stream"]
        files = [f"/proc/sys/net/netfilter/nf_conntrack_{name}" for name in names]
        read = w.lab["nat_a"].run(["cat", *files]).stdout.split()
        assert read == ["11", "11", "22", "33", "33", "33", "33", "44", "55"]


@pytest.mark.parametrize("name", [name for name in presets.PRESETS if name != "none"])
def test_every_preset_can_be_built_and_passes_traffic(name: str) -> None:
    with world(name, unsolicited="preset") as w:
        behavior = presets.behavior(name)
        assert behavior is not None
        assert w.mapped("a", "server", 5000)[0] == w.lab["nat_a" if behavior.translates else "a"].address
        answer = failure(w, "stranger", (w.lab["nat_a"].address, 12345))
        assert (answer == errno.ECONNREFUSED) is (behavior.unsolicited is Unsolicited.RESET)
