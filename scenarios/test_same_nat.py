"""Two hosts behind one NAT connect on their LAN whatever the NAT does, and otherwise only by hairpinning."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.secure.channel import HELLO_BYTES
from punchlab.topologies import AB, Lookalikes
from scenarios.conftest import Punch
from scenarios.hostile.thief import assert_nothing_was_learnt, overhear
from scenarios.pairs import PATIENCE_S, Pair, events

PORT = 9999
HAIRPINNING = "einat_fullcone"
KINDS = ["full_cone", "restricted_cone", "port_restricted_cone", "symmetric", HAIRPINNING]


def test_hosts_behind_one_firewall_connect_without_crossing_it(punch: Punch) -> None:
    trial = punch("same_nat", "firewall", "firewall")
    assert trial.direct, trial
    assert trial.agrees, trial
    assert trial.exchange.winner_nats == (), trial


@pytest.mark.parametrize("nat", KINDS)
def test_hosts_of_one_home_connect_on_their_lan(nat: str, punch: Punch, trials: int) -> None:
    for _ in range(max(trials, 5) if nat == HAIRPINNING else trials):
        trial = punch("same_nat", nat, nat)
        assert trial.direct, trial
        assert trial.agrees, trial
        # Even if the NAT hairpins and that connection can be established first.
        assert trial.exchange.winner_nats == (), trial
        # The lab's own sockets do not use host candidates.
        assert trial.control.direct is (nat == HAIRPINNING), trial


@pytest.mark.parametrize("strategy", ["auto", "reuse"])
def test_two_clients_on_one_computer_connect_locally(strategy: str, tmp_path: Path) -> None:
    """Their edge is elsewhere and cannot tell a client this computer's address: the clients tell each other."""
    with Lab(AB(nat_a="port_restricted_cone", nat_b="port_restricted_cone")) as lab, Pair(lab, tmp_path) as pair:
        receiver, sender = pair.receive("a", "--strategy", strategy), pair.send("a", "--strategy", strategy)
        pair.connect(sender, receiver)
        for client in (sender, receiver):
            (agreed,) = events(client, "agreed")
            assert Endpoint.parse(agreed["remote"]).ip == lab["a"].address


def test_another_host_with_the_peers_private_address_is_not_accepted_as_the_peer(tmp_path: Path) -> None:
    """In A's home, C has that address, accepts connections to every port, and sends what the peer would send."""
    with (
        Lab(Lookalikes()) as lab,
        Pair(lab, tmp_path) as pair,
        lab["c"].socket() as listener,
        ThreadPoolExecutor() as pool,
    ):
        c, b = lab["c"], lab["b"]
        assert c.address == b.address
        c.run(["iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", str(PORT)])
        listener.bind((c.address, PORT))
        listener.listen()
        listener.settimeout(PATIENCE_S)

        def impersonate() -> bytes:
            sock: socket.socket = listener.accept()[0]
            with sock:
                return overhear(sock)

        heard = pool.submit(impersonate)
        receiver, sender = pair.receive("b"), pair.send("a")
        pair.connect(sender, receiver)
        assert_nothing_was_learnt([heard.result()], pair.content)
        assert len(heard.result()) == HELLO_BYTES  # and no proof, which would allow one more guess
        (agreed,) = events(sender, "agreed")
        assert Endpoint.parse(agreed["remote"]).ip == lab["cgn1"].address
        taken = [event["remote"] for event in events(sender, "connected")]
        assert any(remote.startswith(f"{c.address}:") for remote in taken)
