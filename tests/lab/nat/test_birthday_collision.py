"""Birthday collision with real packets: a host behind random ports opens 256 of them, and its peer probes.

All ports from 1024 on are shuffled and split into groups of m. Each group is one experiment against the 256 open ports,
hypergeometric as in theory. Groups do not share ports, so one set of open ports suffices, and their hits vary less than
those of independent experiments: three binomial standard deviations are a wide limit.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import random
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import pytest

from punchlab import Lab, reports
from punchlab.topologies import AB

OPEN_PORTS = 256
PORTS = range(1024, 65536)
LEAST_HANDS = 200
PATIENCE_S = 10.0
FLIGHT_S = 0.25
"""The maximum duration of a handshake in this lab, whose links have no delay."""

TABLE = (Path(reports.__file__).parent / "reference" / "birthday.csv").read_text()
PUBLISHED = {
    int(row["probes"]): float(row["p_success"])
    for row in csv.DictReader(TABLE.splitlines())
    if row["case"] == "one_hard" and int(row["open_ports_hard_side"]) == OPEN_PORTS
}
AT_A_TIME = 2000
LOCAL = ("0.0.0.0", 42000)


@pytest.mark.usefixtures("many_sockets")
@pytest.mark.parametrize("probes", [64, 174, 256])
def test_probes_hit_as_often_as_published(probes: int, capsys: pytest.CaptureFixture[str]) -> None:
    deck = list(PORTS)
    random.shuffle(deck)
    hands = [deck[start : start + probes] for start in range(0, len(deck) - probes + 1, probes)]
    assert len(hands) >= LEAST_HANDS
    nats = {"nat_a": "symmetric", "nat_b": "port_restricted_cone"}
    with (
        Lab(AB(**nats, unsolicited="drop", delay="0ms", edge_delay="0ms")) as lab,
        contextlib.ExitStack() as stack,
    ):
        peer = external_endpoint(lab, stack)
        opened, ports = open_ports(lab, peer, stack)
        hits = probe(lab, hands, opened)

    # Exactly the open ports were hit, each by a connection that carried data.
    assert hits == [set(hand) & ports for hand in hands]

    successes, expected = sum(map(bool, hits)), PUBLISHED[probes]
    sigma = sqrt(expected * (1 - expected) / len(hands))
    deviation = (successes / len(hands) - expected) / sigma
    with capsys.disabled():
        print(
            f"\n{OPEN_PORTS} open ports, {probes} probes: {successes} of {len(hands)} = {successes / len(hands):.4f}, "
            f"published {expected:.4f}: {deviation:+.2f} sigma"
        )
    assert abs(deviation) <= 3


def external_endpoint(lab: Lab, stack: contextlib.ExitStack) -> tuple[str, int]:
    """Return the external endpoint of b's local endpoint."""
    edge = lab.edges[0]
    registrar = stack.enter_context(edge.socket())
    registrar.bind((edge.address, 0))
    registrar.listen()
    with lab["b"].entered():
        connection = stack.enter_context(dialler())
    connection.setblocking(True)
    connection.bind(LOCAL)
    connection.connect(registrar.getsockname())
    accepted, seen = registrar.accept()
    stack.enter_context(accepted)
    return seen[0], seen[1]


def dialler() -> socket.socket:
    """Return a socket in the current namespace with a shared local endpoint that closes with a RST."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return made


def open_ports(lab: Lab, peer: tuple[str, int], stack: contextlib.ExitStack) -> tuple[list[socket.socket], set[int]]:
    """Return sockets of a that connect to the peer, and the external ports of their SYNs."""
    with lab["nat_b"].entered():
        tap = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)))
    tap.settimeout(PATIENCE_S)
    with lab["a"].entered():
        sockets = [stack.enter_context(dialler()) for _ in range(OPEN_PORTS)]
    ports: set[int] = set()
    source = socket.inet_aton(lab["nat_a"].address)
    for sock in sockets:
        assert sock.connect_ex(peer) == errno.EINPROGRESS
    # A port that is drawn twice costs a retransmission.
    while len(ports) < OPEN_PORTS:
        packet = tap.recv(60)
        if packet[12:16] == source:
            ports.add(int.from_bytes(packet[20:22], "big"))
    assert all(port in PORTS for port in ports)
    return sockets, ports


def probe(lab: Lab, hands: Sequence[Sequence[int]], opened: Sequence[socket.socket]) -> list[set[int]]:
    """Connect from b to every port of every group. Return the ports of each group that reached an open socket of a."""
    target = lab["nat_a"].address
    received: set[int] = set()
    listeners = {sock.fileno(): sock for sock in opened}
    probes: dict[int, tuple[int, socket.socket]] = {}
    waiting: deque[tuple[float, list[socket.socket]]] = deque()
    with select.epoll() as poll, contextlib.ExitStack() as stack, lab["b"].entered():
        for listener in opened:
            poll.register(listener, select.EPOLLIN)

        def listen(until: float) -> None:
            left = until - time.monotonic()
            while events := poll.poll(max(0.0, left), 1024):
                for descriptor, _events in events:
                    poll.unregister(descriptor)
                    if descriptor in listeners:
                        received.add(int.from_bytes(listeners[descriptor].recv(2), "big"))
                    else:
                        port, sock = probes[descriptor]
                        sock.send(port.to_bytes(2, "big"))
                left = until - time.monotonic()

        def let_go() -> None:
            moment, sockets = waiting.popleft()
            listen(moment)
            for sock in sockets:
                del probes[sock.fileno()]
                sock.close()

        for hand in hands:
            sockets = []
            for port in hand:
                sock = stack.enter_context(dialler())
                sock.bind(LOCAL)
                assert sock.connect_ex((target, port)) == errno.EINPROGRESS
                probes[sock.fileno()] = port, sock
                poll.register(sock, select.EPOLLOUT)
                sockets.append(sock)
            waiting.append((time.monotonic() + FLIGHT_S, sockets))
            listen(0.0)
            while len(probes) > AT_A_TIME:
                let_go()
        while waiting:
            let_go()
    return [received.intersection(hand) for hand in hands]
