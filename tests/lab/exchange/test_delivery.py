"""The bytes that the capture proves are those that real sockets sent and received."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from punchlab import Lab
from punchlab.lab.capture import CapturePoint, Recorder
from punchlab.lab.exchange import Delivery, Exchange, Kind, delivery
from punchlab.lab.process.node import Node
from punchlab.lab.trial.trial import pair_of, ways
from punchlab.topologies import AB
from tests.lab.exchange.story import Story

PORT = 5000
FAST_OPEN = 0x20000000
"""MSG_FASTOPEN in linux/socket.h: connect, with data in the SYN."""
PATIENCE_S = 10


@contextlib.contextmanager
def recorded(lab: Lab) -> Iterator[list[Delivery]]:
    """What a capture at every interface of the lab proves, when the block has ended."""
    found: list[Delivery] = []
    points = [
        CapturePoint(node.namespace, node.name, interface.name, udp=node.kind == "host")
        for node in lab
        if node.kind != "switch"
        for interface in lab.graph.nodes[node.name].interfaces
    ]
    with Recorder(points) as recorder:
        yield found
        recording = recorder.stop()
    assert recording.complete
    found.append(delivery(Exchange(recording.frames, pair_of(lab, "a", "b")), ways(lab.path("a", "b"))))


def server(node: Node, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    made = node.socket(kind)
    made.settimeout(PATIENCE_S)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", PORT))
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def client(node: Node, address: str) -> socket.socket:
    made = node.socket()
    made.settimeout(PATIENCE_S)
    made.connect((address, PORT))
    return made


def receive(connection: socket.socket, count: int) -> None:
    while count:
        count -= len(connection.recv(min(count, 1 << 16)))


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def finish(one: socket.socket, other: socket.socket) -> None:
    for each in (one, other):
        each.shutdown(socket.SHUT_WR)
        assert (other if each is one else one).recv(1) == b""
    one.close()
    other.close()


@pytest.mark.parametrize("end", ["fin", "receiver resets", "sender resets"])
@pytest.mark.parametrize("dialler", ["a", "b"])
@pytest.mark.parametrize(("forth", "back"), [(0, 0), (1, 0), (70_001, 12), (3_000_000, 900_000)])
def test_a_connection_carries_what_its_sockets_sent(dialler: str, forth: int, back: int, end: str) -> None:
    with Lab(AB(nat_a="none", nat_b="none")) as lab, recorded(lab) as found:
        listener = "b" if dialler == "a" else "a"
        with server(lab[listener]) as listening:
            dialling = client(lab[dialler], lab[listener].address)
            accepted = listening.accept()[0]
        accepted.settimeout(PATIENCE_S)
        a, b = (dialling, accepted) if dialler == "a" else (accepted, dialling)
        for one, other, count in ((a, b, forth), (b, a, back)):
            data = random.randbytes(count)
            for start in range(0, count, 1 << 16):
                one.sendall(data[start : start + (1 << 16)])
                receive(other, min(1 << 16, count - start))
        if end == "fin":
            finish(a, b)
        else:
            first, second = (b, a) if end == "receiver resets" else (a, b)
            reset(first)
            with pytest.raises(ConnectionResetError):
                second.recv(1)
            second.close()
    (proof,) = found
    assert proof.direct_bytes == forth
    assert proof.edge_bytes == 0
    assert proof.connected
    assert proof.complete
    assert not proof.udp


def test_connections_with_the_same_endpoints_are_counted_one_by_one_and_summed() -> None:
    with (
        Lab(AB(nat_a="none", nat_b="port_restricted_cone")) as lab,
        recorded(lab) as found,
        server(lab["a"]) as listening,
    ):
        for count in (5, 70, 900):
            dialling = lab["b"].socket()
            dialling.settimeout(PATIENCE_S)
            dialling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            dialling.bind(("", 41000))
            dialling.connect((lab["a"].address, PORT))
            accepted = listening.accept()[0]
            accepted.settimeout(PATIENCE_S)
            accepted.sendall(bytes(count))
            receive(dialling, count)
            finish(dialling, accepted)
    assert found[0].direct_bytes == 975


def test_of_what_goes_through_an_edge_the_part_that_arrives_counts() -> None:
    with Lab(AB(nat_a="symmetric", nat_b="symmetric")) as lab, recorded(lab) as found:
        edge = lab.edges[0]
        with server(edge) as listening:
            ends = []
            for host in ("a", "b"):
                dialling = client(lab[host], edge.address)
                accepted = listening.accept()[0]
                accepted.settimeout(PATIENCE_S)
                ends.append((dialling, accepted))
        (a, from_a), (b, to_b) = ends
        a.sendall(bytes(50_000))
        receive(from_a, 50_000)
        to_b.sendall(bytes(40_000))
        receive(b, 40_000)
        b.sendall(bytes(7))
        receive(to_b, 7)
        for one, other in ends:
            finish(one, other)
    (proof,) = found
    assert (proof.direct_bytes, proof.edge_bytes, proof.connected) == (0, 40_000, False)


@pytest.mark.parametrize("answer", [True, False])
def test_udp_between_the_hosts_counts_and_connects_them_if_it_is_answered(answer: bool) -> None:
    with Lab(AB(nat_a="full_cone", nat_b="none")) as lab, recorded(lab) as found, contextlib.ExitStack() as stack:
        a, b = (stack.enter_context(server(lab[host], socket.SOCK_DGRAM)) for host in "ab")
        for size in (0, 1, 1200, 9000):  # the last one is fragmented
            a.sendto(bytes(size), (lab["b"].address, PORT))
            data, source = b.recvfrom(1 << 16)
            assert len(data) == size
        if answer:
            b.sendto(b"x", source)
            assert a.recv(10) == b"x"
    (proof,) = found
    # Datagrams in one direction prove nothing: an edge could send them with the other's source address.
    assert (proof.direct_bytes, proof.edge_bytes) == (10_201 if answer else 0, 0)
    assert proof.connected is answer
    assert proof.udp
    assert proof.carrier is None


def test_udp_through_an_edge_is_not_direct() -> None:
    with Lab(AB(nat_a="full_cone", nat_b="full_cone")) as lab, recorded(lab) as found:
        edge = lab.edges[0]
        with (
            server(lab["a"], socket.SOCK_DGRAM) as a,
            server(lab["b"], socket.SOCK_DGRAM) as b,
            server(edge, socket.SOCK_DGRAM) as relay,
        ):
            b.sendto(b"", (edge.address, PORT))
            _data, to_b = relay.recvfrom(10)
            a.sendto(bytes(1000), (edge.address, PORT))
            relay.sendto(relay.recv(2000), to_b)
            assert len(b.recv(2000)) == 1000
    (proof,) = found
    assert (proof.direct_bytes, proof.edge_bytes, proof.connected, proof.udp) == (0, 1000, False, False)


@pytest.mark.parametrize("start", [0, 7, (1 << 32) - 5, (1 << 31) - 1])
def test_sequence_numbers_wrap(start: int) -> None:
    story, peer = Story(), 77
    end = (start + 1 + 65536) % (1 << 32)
    story.tcp(0, "S", start)
    story.tcp(30, "SA", peer, (start + 1) % (1 << 32), forth=False)
    story.tcp(90, "FA", end, peer + 1)
    story.tcp(120, "RA", peer + 1, (end + 1) % (1 << 32), forth=False)
    assert delivery(story.told(), {("nat_a", "nat_b")}).direct_bytes == 65536


def test_a_reset_of_no_connection_is_no_evidence() -> None:
    story = Story()
    story.handshake(0)
    story.tcp(60, "FA", 101, 5101)
    story.tcp(90, "FA", 5101, 102, forth=False)
    story.tcp(130, "S", 300)
    story.tcp(160, "RA", 0, 301, forth=False)
    proof = delivery(story.told(), {("nat_a", "nat_b")})
    assert (proof.direct_bytes, proof.complete) == (0, True)


@pytest.mark.parametrize("accepted", [True, False])
def test_data_in_a_syn_count(accepted: bool) -> None:
    with Lab(AB(nat_a="none", nat_b="full_cone")) as lab, recorded(lab) as found, server(lab["a"]) as listening:
        client_and_server, without_cookie = 1 + 2, 4 + 512
        lab["b"].run(["sysctl", "-qw", f"net.ipv4.tcp_fastopen={client_and_server + without_cookie}"])
        if accepted:
            lab["a"].run(["sysctl", "-qw", f"net.ipv4.tcp_fastopen={client_and_server + without_cookie}"])
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        with lab["b"].socket() as dialling:
            dialling.settimeout(PATIENCE_S)
            dialling.sendto(b"in the SYN", FAST_OPEN, (lab["a"].address, PORT))
            connection = listening.accept()[0]
            connection.settimeout(PATIENCE_S)
            receive(connection, 10)
            connection.sendall(bytes(70_000))
            receive(dialling, 70_000)
            finish(dialling, connection)
    (proof,) = found
    assert proof.carrier is not None
    (syn,) = (segment for segment in proof.carrier.segments if segment.kind is Kind.SYN)
    assert syn.payload == 10
    assert (proof.direct_bytes, proof.connected) == (70_000, True)
