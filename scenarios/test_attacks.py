"""Attacks on an edge and on clients: honest hosts behind NATs still connect.

M attacks the lab's edge from the addresses of a whole network, so that per-address limits do not stop the attack, or
from a single address, so that they do. Memory limits are for the edge's process, as the kernel reports it.
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
REGISTRATIONS = 1_000
ROUNDS = 2
LIMIT = 50
"""The maximum number of waiting clients per address at an edge."""
PER_CONNECTION_KIB = 40
"""The memory that an edge may need for each open connection."""
LEFT_KIB = 16 * 1024
"""The memory by which an edge may grow for everything else."""


class UnderAttackPair(Pair):
    """Two honest hosts, their edge, and the attacker M."""

    def __init__(self, lab: Lab, topology: UnderAttack, folder: Path) -> None:
        super().__init__(lab, folder)
        m = lab["m"]
        m.run(["ip", "route", "add", "local", topology.botnet, "dev", "lo"])
        addresses = map(str, ipaddress.ip_network(topology.botnet).hosts())
        self.attackers = Attackers(Endpoint(lab["edge1"].address, PORT), addresses, m.socket)
        # Only a client on the edge's machine can read its metrics.
        self._operator = Attackers(Endpoint("127.0.0.1", PORT), itertools.repeat("127.0.0.1"), lab["edge1"].socket)
        self.edge = self.edges.process("edge1")
        self.met = threading.Event()
        self._pid, self._before_kib = self.edge.process.pid, 0

    def record_memory(self) -> None:
        """Record the memory of the edge after it has served one pair."""
        self.honest_hosts_connect()
        self._before_kib = memory_kib(self._pid)

    def honest_hosts_connect(self) -> None:
        """Let the two hosts connect directly."""
        receiver, sender = self.receive("b"), self.send("a")
        self.connect(sender, receiver)
        for client, peer in ((sender, "nat_b"), (receiver, "nat_a")):
            (agreed,) = events(client, "agreed")
            assert Endpoint.parse(agreed["remote"]).ip == self.lab[peer].address
            assert "relay" not in agreed

    def connect_under(self, attack: Callable[[], None]) -> None:
        """Let the two hosts connect repeatedly during `attack`, then set `met`. Return when the attack has ended."""
        with ThreadPoolExecutor(1) as pool:
            attacking = pool.submit(attack)
            try:
                for _ in range(ROUNDS):
                    self.honest_hosts_connect()
            finally:
                self.met.set()
            while not attacking.done():
                self._wait(lambda: attacking.done(), 0.1)
            attacking.result()

    def grown_kib(self, field: str = "VmRSS") -> int:
        """Return the growth of the edge's memory, now or (VmHWM) at its maximum. The edge must not have restarted."""
        assert self.edges.alive()
        assert self.edges.process("edge1").process.pid == self._pid
        return memory_kib(self._pid, field) - self._before_kib

    def until_connections_are_closed(self) -> None:
        """Wait until the edge counts no connections except that of the query."""
        answer = b""

        def alone() -> bool:
            nonlocal answer
            answer = self._operator.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
            return b"punch_edge_connections 1.0\n" in answer

        for _ in range(int(PATIENCE_S / 0.1)):
            self._wait(lambda: False, 0.1)
            if alone():
                return
        raise AssertionError(answer)


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[UnderAttackPair]:
    topology = UnderAttack()
    with Lab(topology) as lab, UnderAttackPair(lab, topology, tmp_path) as pair:
        yield pair


def test_ten_thousand_hostile_frames(attacked: UnderAttackPair) -> None:
    pytest.importorskip("hypothesis", reason="needs hypothesis: pip install hypothesis")
    from scenarios.hostile.frames import volleys

    ahead = volleys(FRAMES, PER_VOLLEY)

    def attack() -> None:
        rounds = 0
        while not attacked.met.is_set() or rounds < len(ahead):
            attacked.attackers.assault(ahead[rounds % len(ahead)])
            rounds += 1

    attacked.record_memory()
    attacked.connect_under(attack)
    attacked.until_connections_are_closed()
    assert sum(map(len, ahead)) >= FRAMES
    assert attacked.grown_kib() < LEFT_KIB
    assert attacked.grown_kib("VmHWM") < LEFT_KIB + PER_VOLLEY * PER_CONNECTION_KIB


def test_idle_connections_slow_readers_and_guesses_all_at_once(attacked: UnderAttackPair) -> None:
    attackers, sessions = attacked.attackers, [f"slow{number}" for number in range(SLOW)]
    heard: set[tuple[str, ...]] = set()

    def attack() -> None:
        with attackers.idle(IDLE) as idle, attackers.slow_readers(sessions) as slow:
            heard.update(attackers.guess_sessions(GUESSES))
            flood(slow, ANSWERED_PINGS)
            for sock in idle:
                drain(sock)  # until the edge has closed them all

    attacked.record_memory()
    attacked.connect_under(attack)
    assert heard == {("welcome", "edge", "public", "relay", "ticket", "type")}
    gone = {event["session"]: event["reason"] for event in events(attacked.edge, "client_gone")}
    assert {gone[session] for session in sessions} <= {"sent too many bytes", "does not read the data sent to it"}
    attacked.until_connections_are_closed()
    assert attacked.grown_kib("VmHWM") < LEFT_KIB + (IDLE + SLOW) * PER_CONNECTION_KIB


def test_attacks_from_one_address_do_not_block_other_addresses(attacked: UnderAttackPair) -> None:
    def attack() -> None:
        with attacked.attackers.one_address(LIMIT) as register_again:
            for _ in range(REGISTRATIONS):
                register_again()
            attacked.met.wait()

    attacked.record_memory()
    attacked.connect_under(attack)
    attacked.until_connections_are_closed()
    assert attacked.grown_kib("VmHWM") < LEFT_KIB + LIMIT * PER_CONNECTION_KIB


def test_a_client_with_the_session_but_not_the_code_receives_no_byte_of_the_file(attacked: UnderAttackPair) -> None:
    """M registers as the receiver; the sender connects to M, which sends arbitrary messages."""
    m = attacked.lab["m"]
    sender = attacked.send("a", "--deadline", "2")
    thief, heard = PakeExchange(GUESS, "receiver"), list[bytes]()
    with m.entered():
        listener, to_edge = (bound_socket(Endpoint(m.address, 41000)) for _ in range(2))
    with listener, to_edge:
        listener.listen()
        to_edge.setblocking(True)
        to_edge.connect(attacked.attackers.edge)
        register: Json = {"session": thief.session, "role": "receiver", "private": [], "pake": thief.message}
        with connect(f"ws://{attacked.attackers.edge}", sock=to_edge, proxy=None) as client:
            client.send(json.dumps({"type": "register", **register}))
            client.recv()
            peer = json.loads(client.recv())
        public, introduced = Endpoint.parse(peer["public"]), thief_of(thief.session, thief.message, peer)
        assert public.ip == attacked.lab["nat_a"].address
        listener.settimeout(PATIENCE_S)
        sock, address = listener.accept()
        with sock:
            assert Endpoint(*address) == public
            heard.append(overhear(sock, introduced))
    assert attacked.ended(sender)["outcome"] == "wrong_peer"
    assert not events(sender, "agreed")
    assert_nothing_was_learnt(heard, attacked.content)
    attacked.honest_hosts_connect()


@pytest.mark.parametrize(
    ("tamper", "victims"),
    [(own_exchange, ("sender", "receiver")), (one_bit, ("receiver",)), (other_traits, ("receiver",))],
)
def test_an_edge_that_changes_the_exchanged_messages_is_detected(
    attacked: UnderAttackPair, tamper: Tamper, victims: tuple[str, ...]
) -> None:
    attacked.edges.kill("edge1")
    listener = attacked.lab["edge1"].socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", PORT))  # including anycast
    listener.listen()
    with malicious(tamper, victims, listener):
        receiver = attacked.receive("b", "--deadline", "3")
        sender = attacked.send("a", "--deadline", "3")
        for role, client in (("receiver", receiver), ("sender", sender)):
            failed = attacked.ended(client)
            assert is_detected(role, victims, failed["outcome"]), failed
            assert not events(client, "agreed")
    assert attacked.inbox(receiver) == []
