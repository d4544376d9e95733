"""A malicious edge names addresses of third parties: clients send a limited number of packets there, and none to
some.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.lab.client.description import PUNCH
from punchlab.lab.client.edges import PORT
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.nat.birthday import OPENED, PROBES
from punchlab.punch.punching.quota import (
    CONNECTS,
    PUNCH_ADDRESSES,
    PUNCH_CONNECTS,
    PUNCH_DATAGRAMS,
    SERVER_USES,
    SESSION_ADDRESSES,
    SESSION_CONNECTS,
)
from punchlab.topologies import DualStack, UnderAttack
from scenarios.hostile.abuser import Abuser, Breaker, Lies, Mapped, Sent, watched
from scenarios.pairs import CODE, PATIENCE_S, events

DEADLINE_S = 2
SYNS = 3
"""SYNs of one unanswered connect() in that time, with Linux's retransmissions."""
GATEWAY = "192.168.1.1"
NO_BUSINESS = [
    "127.0.0.1:8080",
    "192.168.1.2:8080",  # the client's own
    "192.168.2.1:8080",
    "10.0.0.1:8080",
    "172.16.0.1:8080",
    "100.64.0.1:8080",
    "169.254.1.1:8080",
    "192.168.1.255:8080",
    f"{GATEWAY}:80",
    "198.18.0.1:8080",
]
"""Addresses that no edge can make a client connect to as a host candidate of its peer."""

HARD = {"mapping": "address-and-port-dependent", "filtering": "address-and-port-dependent", "allocation": "random"}
EASY = {"mapping": "endpoint-independent", "filtering": "address-and-port-dependent", "unsolicited": "drop"}


def as_it_is(source: Endpoint, _count: int) -> Endpoint:
    return source


def at_random(source: Endpoint, count: int) -> Endpoint:
    return Endpoint(source.ip, 20000 + count * 7919 % 40000)


def in_sequence(source: Endpoint, count: int) -> Endpoint:
    return Endpoint(source.ip, 20000 + count)


@dataclass(frozen=True)
class Case:
    """A strategy, the answers of the edge's STUN servers, and the claims of the edge about the peer."""

    strategy: str
    mapped: Mapped = as_it_is
    traits: object = None
    relay: bool = False
    connects: int = CONNECTS
    """To the address that the edge claims for the peer."""

    def __str__(self) -> str:
        return f"{self.strategy}-{self.mapped.__name__}"


CASES = [
    Case("keep", relay=True),
    Case("reuse"),
    Case("sync"),
    Case("lowttl"),
    Case("predict", as_it_is, {"dependent": True, "delta": 1}),
    Case("predict", in_sequence, {"dependent": False}),
    Case("birthday", as_it_is, {"dependent": True}, connects=PROBES + CONNECTS),
    Case("birthday", at_random, {"dependent": False}, connects=OPENED + CONNECTS),
    Case("portmap", as_it_is, "{victim}:5555", connects=2 * CONNECTS),
    Case("auto", as_it_is, {"nat": HARD, "told": {"birthday": '{"dependent":true}'}}, connects=PROBES + CONNECTS),
    Case("auto", at_random, {"nat": EASY, "told": {}}, connects=OPENED + CONNECTS),
]


class Scene:
    """A lab with a malicious edge and its client `a`. `victims` are addresses of hosts that reject connections."""

    def __init__(self, lab: Lab, folder: Path, victims: Iterator[str]) -> None:
        self.lab, self._folder, self.victims = lab, folder, victims
        self.edge = lab["edge1"]
        self.content = folder / "sent.bin"
        self.content.write_bytes(bytes(400_000))

    def listener(self) -> socket.socket:
        listener = self.edge.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", PORT))
        listener.listen()
        return listener

    def start(self, host: str, *words: str) -> EventProcess:
        options = ["--edge", f"ws://{self.edge.address}:{PORT}", "--json"]
        return EventProcess(self.lab[host], [*words, *options], PUNCH.function)

    def run(self, lies: Lies, *words: str) -> Sent:
        """Return what a client sends while it runs with an edge that makes these claims."""
        with (
            Abuser(lies, self.listener(), self.edge.socket) as self.abuser,
            watched(self.lab["a"].entered) as sent,
        ):
            client = self.start("a", *words)
            try:
                wait_for([client], lambda: not client.open, PATIENCE_S)
                assert client.returncode in (0, 1), (client.events, client.errors)
                assert not client.errors or "Traceback" not in str(client.errors), client.errors
            finally:
                client.end()
        self.client = client
        return sent

    def send(self, strategy: str, lies: Lies, *options: str) -> Sent:
        """The same for `punch send`."""
        words = ["send", str(self.content), "--code", CODE, "--strategy", strategy, "--deadline", str(DEADLINE_S)]
        sent = self.run(lies, *words, *options)
        assert events(self.client, "failed"), self.client.events
        return sent


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    topology = UnderAttack()
    with Lab(topology) as lab:
        lab["m"].run(["ip", "route", "add", "local", topology.botnet, "dev", "lo"])
        network = topology.botnet.partition("/")[0].rpartition(".")[0]
        yield Scene(lab, tmp_path, (f"{network}.{number}" for number in itertools.count(10)))


def contact(public: str, *private: str, traits: object = None, **more: object) -> dict[str, object]:
    """Return an edge's message about a peer."""
    text = traits if traits is None or isinstance(traits, str) else json.dumps(traits)
    told = {} if text is None else {"traits": text.replace("{victim}", public)}
    return {"public": f"{public}:8080", "private": list(private), **told, **more}


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{number}-{CASES[number]}")
def test_packets_to_third_parties_are_limited_with_each_strategy(number: int, scene: Scene) -> None:
    case, public, stun_alternate, relay = CASES[number], *itertools.islice(scene.victims, 3)
    edge = scene.edge.address
    neighbors = case.strategy != "auto"  # it trusts an edge only with two addresses
    if not neighbors:
        stun_alternate = scene.edge.graph.addresses[-1].partition("/")[0]
    stun = [Endpoint(ip, port) for ip in (edge, stun_alternate) for port in (3478, 3479)]
    hosts = [NO_BUSINESS[(2 * number + step) % len(NO_BUSINESS)] for step in range(2)]
    lies = Lies(
        contact(public, *hosts, traits=case.traits),
        public=Endpoint(public, 4000) if neighbors else None,  # it claims that both are behind one NAT
        relay=f"ws://{relay}:8081",
        stun=stun,
        at=stun[:2] if neighbors else stun,
        mapped=case.mapped,
    )
    sent = scene.send(case.strategy, lies, *(["--relay"] if case.relay else []))
    looks = case.strategy in ("auto", "predict", "birthday")
    asked = {GATEWAY, "239.255.255.250"} if case.strategy in ("auto", "portmap") else set()  # for a port mapping
    assert sent.addresses() <= {edge, public, *([stun_alternate] if looks else []), *asked, *([relay] * case.relay)}
    for each in asked:
        assert {packet.port for packet in sent.to(each)} <= {1900, 5351}
    connects = sent.connects()
    # On a machine too slow to examine its NAT in time, the client connects as with `keep`.
    guesses = case.strategy == "birthday" or any(e.get("name") == "birthday" for e in events(scene.client, "strategy"))
    assert (CONNECTS if guesses else 0) < connects[public] <= case.connects
    assert not neighbors or connects[stun_alternate] <= 2 * SERVER_USES
    assert connects[relay] == case.relay
    syns = [packet for packet in sent.to(public, socket.IPPROTO_TCP) if packet.connect]
    assert len(syns) <= SYNS * case.connects
    assert len(sent.to(public, socket.IPPROTO_UDP)) <= (PUNCH_DATAGRAMS if case.strategy == "lowttl" else 0)
    assert case.connects <= PUNCH_CONNECTS


def test_the_addresses_of_a_session_are_limited_however_often_its_tunnel_breaks(scene: Scene) -> None:
    victims = list(itertools.islice(scene.victims, 3 * SESSION_ADDRESSES))
    relay = f"ws://{scene.edge.address}:{PORT}"
    meetings = SESSION_ADDRESSES + 3
    inbox = scene.content.parent / "inbox"
    inbox.mkdir()
    common = ["--strategy", "keep", "--deadline", "0.5", "--relay"]
    with (
        Breaker(victims, scene.listener(), relay, 50_000, scene.edge.socket) as breaker,
        watched(scene.lab["a"].entered) as sent,
    ):
        clients = [
            scene.start("b", "receive", CODE, "--yes", "--dir", str(inbox), *common),
            scene.start("a", "send", str(scene.content), "--code", CODE, *common),
        ]
        try:
            wait_for(clients, lambda: breaker.meetings >= meetings or not all(c.open for c in clients), PATIENCE_S)
        finally:
            for client in clients:
                client.end()
    assert breaker.meetings >= meetings, [client.events[-3:] for client in clients]
    connects = sent.connects()
    dialled = {each for each in victims if connects[each]}
    assert len(dialled) == SESSION_ADDRESSES
    assert sum(connects[each] for each in dialled) <= min(SESSION_CONNECTS, SESSION_ADDRESSES * CONNECTS)
    refused = events(clients[1], "candidate_refused")
    assert {Endpoint.parse(str(each["address"])).ip for each in refused} <= {*victims} - dialled


@pytest.mark.parametrize("lan", ["192.168.2.1", "127.0.0.1", "192.168.1.9", None])
def test_a_probe_sends_to_one_more_address_of_its_server_and_to_its_own_reflexive_address(
    lan: str | None, scene: Scene
) -> None:
    other, external, third = itertools.islice(scene.victims, 3)
    edge = scene.edge.address
    named = lan or other
    stun = [
        Endpoint(edge, 3478),
        Endpoint(edge, 3479),
        Endpoint(named, 3478),
        Endpoint(third if lan is None else named, 3479),
    ]
    lies = Lies({}, stun=stun, at=stun[:2], mapped=lambda source, _count: Endpoint(lan or external, source.port))
    sent = scene.run(lies, "probe", "--patience", "0.5")
    assert sent.addresses() <= {edge, other, external}
    connects = sent.connects()
    assert connects[other] <= SERVER_USES
    assert connects[external] <= 2
    assert len(sent.to(other)) <= 20
    assert len(sent.to(external)) <= 20
    assert bool(connects[external]) is (lan is None)


@pytest.mark.parametrize("nowhere", ["fd00::9", "2002:7f00:1::1", "64:ff9b::7f00:1", "::1", "2001:db8::9", None])
def test_packets_over_ipv6_are_limited(nowhere: str | None, tmp_path: Path) -> None:
    with Lab(DualStack(nat_a="port_restricted_cone", nat_b="port_restricted_cone")) as lab:
        scene = Scene(lab, tmp_path, iter(()))
        victim, public6 = lab["nat_b"].address, nowhere or lab["b"].address6
        edge6 = nowhere or "2a11::9"
        sent = scene.send("keep", Lies(contact(victim, public6=f"[{public6}]:8080"), ipv6=Endpoint(edge6, 443)))
        assert {each for each in sent.addresses() if ":" in each and not each.startswith(("fe80", "ff"))} <= (
            set() if nowhere else {edge6, public6}
        )
        assert sent.connects()[edge6] <= SERVER_USES
        assert sent.connects()[victim] <= CONNECTS
        assert len(sent.connects()) <= PUNCH_ADDRESSES
