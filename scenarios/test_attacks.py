"""An edge under attack, and attackers of the clients: honest hosts behind their NATs meet all the same.

M attacks the lab's own edge from addresses of a whole network, so that it is not what one address may do that keeps
him out; or from a single one, which is. Bounds of memory are of the edge's process, as the kernel counts it.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.sync.client import connect

from punchlab import Lab
from punchlab.lab.client.edges import PORT
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.net.sockets import bound_socket
from punchlab.punch.secure.keys import PakeExchange
from punchlab.topologies import UnderAttack
from scenarios.hostile.clients import ANSWERED_PINGS, Attackers, drain, flood, memory_kib
from scenarios.hostile.edge import GUESS, Json, Tamper, is_detected, malicious, one_bit, other_traits, own_exchange
from scenarios.hostile.thief import assert_nothing_was_learnt, overhear, thief_of
from scenarios.pairs import PATIENCE_S, Pair, events

FRAMES, PER_VOLLEY = 10_000, 40
IDLE = 2_000
SLOW = 50
GUESSES = 2_000
KNOCKS = 1_000
MEETINGS = 2
LIMIT = 50
"""Clients of one address that an edge lets wait at a time."""
PER_CONNECTION_KIB = 40
"""What an edge may need for each connection while it is open."""
LEFT_KIB = 16 * 1024
"""By how much it may have grown for everything else."""


class Besieged(Pair):
    """Two honest hosts, their edge, and M in front of it."""

    def __init__(self, lab: Lab, topology: UnderAttack, folder: Path) -> None:
        super().__init__(lab, folder)
        m = lab["m"]
        m.run(["ip", "route", "add", "local", topology.botnet, "dev", "lo"])
        addresses = map(str, ipaddress.ip_network(topology.botnet).hosts())
        self.attackers = Attackers(Endpoint(lab["edge1"].address, PORT), addresses, m.socket)
        # Only whoever is on the edge's own machine may read its metrics.
        self._operator = Attackers(Endpoint("127.0.0.1", PORT), itertools.repeat("127.0.0.1"), lab["edge1"].socket)
        self.edge = self.edges.process("edge1")
        self.met = threading.Event()
        self._pid, self._before_kib = self.edge.process.pid, 0

    def weigh(self) -> None:
        """Take how large the edge is when it has served a pair as what it needs."""
        self.honest_hosts_meet()
        self._before_kib = memory_kib(self._pid)

    def honest_hosts_meet(self) -> None:
        """The two meet, now, and directly."""
        receiver, sender = self.receive("b"), self.send("a")
        self.meet(sender, receiver)
        for client, peer in ((sender, "nat_b"), (receiver, "nat_a")):
            (agreed,) = events(client, "agreed")
            assert Endpoint.parse(agreed["remote"]).ip == self.lab[peer].address
            assert "relay" not in agreed

    def meet_under(self, attack: Callable[[], None]) -> None:
        """Have the two meet, and again, while `attack` goes on; `met` is set then. Return when it has ended."""
        with ThreadPoolExecutor(1) as pool:
            attacking = pool.submit(attack)
            try:
                for _ in range(MEETINGS):
                    self.honest_hosts_meet()
            finally:
                self.met.set()
            while not attacking.done():
                self._wait(lambda: attacking.done(), 0.1)
            attacking.result()

    def grown_kib(self, field: str = "VmRSS") -> int:
        """By how much the edge, which is the same process as ever, is larger now, or (VmHWM) was at its largest."""
        assert self.edges.alive()
        assert self.edges.process("edge1").process.pid == self._pid
        return memory_kib(self._pid, field) - self._before_kib

    def until_nobody_is_left(self) -> None:
        """Until every connection that was counted has been counted off again, but for the one that asks."""
        told = b""

        def alone() -> bool:
            nonlocal told
            told = self._operator.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
            return b"punch_edge_connections 1.0\n" in told

        for _ in range(int(PATIENCE_S / 0.1)):
            self._wait(lambda: False, 0.1)
            if alone():
                return
        raise AssertionError(told)


@pytest.fixture
def besieged(tmp_path: Path) -> Iterator[Besieged]:
    topology = UnderAttack()
    with Lab(topology) as lab, Besieged(lab, topology, tmp_path) as siege:
        yield siege


def test_ten_thousand_hostile_frames(besieged: Besieged) -> None:
    pytest.importorskip("hypothesis", reason="needs hypothesis: pip install hypothesis")
    from scenarios.hostile.frames import volleys

    ahead = volleys(FRAMES, PER_VOLLEY)

    def attack() -> None:
        rounds = 0
        while not besieged.met.is_set() or rounds < len(ahead):
            besieged.attackers.assault(ahead[rounds % len(ahead)])
            rounds += 1

    besieged.weigh()
    besieged.meet_under(attack)
    besieged.until_nobody_is_left()
    assert sum(map(len, ahead)) >= FRAMES
    assert besieged.grown_kib() < LEFT_KIB
    assert besieged.grown_kib("VmHWM") < LEFT_KIB + PER_VOLLEY * PER_CONNECTION_KIB


def test_idle_connections_slow_readers_and_guesses_all_at_once(besieged: Besieged) -> None:
    attackers, sessions = besieged.attackers, [f"slow{number}" for number in range(SLOW)]
    heard: set[tuple[str, ...]] = set()

    def attack() -> None:
        with attackers.idle(IDLE) as idle, attackers.slow_readers(sessions) as slow:
            heard.update(attackers.guess_sessions(GUESSES))
            flood(slow, ANSWERED_PINGS)
            for sock in idle:
                drain(sock)  # until the edge has closed them all

    besieged.weigh()
    besieged.meet_under(attack)
    assert heard == {("welcome", "edge", "public", "relay", "ticket", "type")}
    gone = {event["session"]: event["reason"] for event in events(besieged.edge, "client_gone")}
    assert {gone[session] for session in sessions} <= {"sent too many bytes", "does not read the data sent to it"}
    besieged.until_nobody_is_left()
    assert besieged.grown_kib("VmHWM") < LEFT_KIB + (IDLE + SLOW) * PER_CONNECTION_KIB


def test_who_attacks_from_one_address_keeps_nobody_else_out(besieged: Besieged) -> None:
    def attack() -> None:
        with besieged.attackers.one_address(LIMIT) as knock:
            for _ in range(KNOCKS):
                knock()
            besieged.met.wait()

    besieged.weigh()
    besieged.meet_under(attack)
    besieged.until_nobody_is_left()
    assert besieged.grown_kib("VmHWM") < LEFT_KIB + LIMIT * PER_CONNECTION_KIB


def test_who_knows_a_session_but_not_its_code_never_gets_a_byte_of_the_file(besieged: Besieged) -> None:
    """M has himself told as the receiver; the sender dials him, and he says what he likes."""
    m = besieged.lab["m"]
    sender = besieged.send("a", "--deadline", "2")
    thief, heard = PakeExchange(GUESS, "receiver"), list[bytes]()
    with m.entered():
        listener, to_edge = (bound_socket(Endpoint(m.address, 41000)) for _ in range(2))
    with listener, to_edge:
        listener.listen()
        to_edge.setblocking(True)
        to_edge.connect(besieged.attackers.edge)
        register: Json = {"session": thief.session, "role": "receiver", "private": [], "pake": thief.message}
        with connect(f"ws://{besieged.attackers.edge}", sock=to_edge, proxy=None) as client:
            client.send(json.dumps({"type": "register", **register}))
            client.recv()
            peer = json.loads(client.recv())
        public, introduced = Endpoint.parse(peer["public"]), thief_of(thief.session, thief.message, peer)
        assert public.ip == besieged.lab["nat_a"].address
        listener.settimeout(PATIENCE_S)
        sock, address = listener.accept()
        with sock:
            assert Endpoint(*address) == public
            heard.append(overhear(sock, introduced))
    assert besieged.ended(sender)["outcome"] == "wrong_peer"
    assert not events(sender, "agreed")
    assert_nothing_was_learnt(heard, besieged.content)
    besieged.honest_hosts_meet()


@pytest.mark.parametrize(
    ("tamper", "victims"),
    [(own_exchange, ("sender", "receiver")), (one_bit, ("receiver",)), (other_traits, ("receiver",))],
)
def test_an_edge_that_changes_the_exchanged_messages_is_detected(
    besieged: Besieged, tamper: Tamper, victims: tuple[str, ...]
) -> None:
    besieged.edges.kill("edge1")
    listener = besieged.lab["edge1"].socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", PORT))  # anycast and all
    listener.listen()
    with malicious(tamper, victims, listener):
        receiver = besieged.receive("b", "--deadline", "3")
        sender = besieged.send("a", "--deadline", "3")
        for role, client in (("receiver", receiver), ("sender", sender)):
            failed = besieged.ended(client)
            assert is_detected(role, victims, failed["outcome"]), failed
            assert not events(client, "agreed")
    assert besieged.inbox(receiver) == []
