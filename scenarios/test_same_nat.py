"""Two hosts behind one NAT: they meet on their LAN whatever it does, and otherwise only if it hairpins."""

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


def test_hosts_behind_one_firewall_need_not_ask_it(punch: Punch) -> None:
    trial = punch("same_nat", "firewall", "firewall")
    assert trial.direct, trial
    assert trial.agrees, trial
    assert trial.exchange.winner_nats == (), trial


@pytest.mark.parametrize("nat", KINDS)
def test_hosts_of_one_home_meet_on_their_lan(nat: str, punch: Punch, trials: int) -> None:
    for _ in range(max(trials, 5) if nat == HAIRPINNING else trials):
        trial = punch("same_nat", nat, nat)
        assert trial.direct, trial
        assert trial.agrees, trial
        # Also where the NAT would turn them back, and that connection may be there first.
        assert trial.exchange.winner_nats == (), trial
        # The sockets of the control experiment have no host candidates.
        assert trial.control.direct is (nat == HAIRPINNING), trial


@pytest.mark.parametrize("strategy", ["auto", "reuse"])
def test_two_clients_of_one_computer_meet_there(strategy: str, tmp_path: Path) -> None:
    """Their edge is elsewhere, and cannot name this computer's own address to a client: they name it to each other."""
    with Lab(AB(nat_a="port_restricted_cone", nat_b="port_restricted_cone")) as lab, Pair(lab, tmp_path) as pair:
        receiver, sender = pair.receive("a", "--strategy", strategy), pair.send("a", "--strategy", strategy)
        pair.meet(sender, receiver)
        for client in (sender, receiver):
            (agreed,) = events(client, "agreed")
            assert Endpoint.parse(agreed["remote"]).ip == lab["a"].address


def test_whoever_has_the_peer_s_private_address_is_not_taken_for_the_peer(tmp_path: Path) -> None:
    """In A's home C has it, takes connections to whatever port, and speaks as the peer would."""
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
        pair.meet(sender, receiver)
        assert_nothing_was_learnt([heard.result()], pair.content)
        assert len(heard.result()) == HELLO_BYTES  # and no proof, which would be a guess less
        (agreed,) = events(sender, "agreed")
        assert Endpoint.parse(agreed["remote"]).ip == lab["cgn1"].address
        taken = [event["remote"] for event in events(sender, "connected")]
        assert any(remote.startswith(f"{c.address}:") for remote in taken)
