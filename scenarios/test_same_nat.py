"""Two hosts behind one NAT: they meet on their LAN whatever it does, and otherwise only if it hairpins."""

from __future__ import annotations

import pytest

from scenarios.conftest import Punch

KINDS = ["full_cone", "restricted_cone", "port_restricted_cone", "symmetric", "einat_fullcone"]


def test_hosts_behind_one_firewall_need_not_ask_it(punch: Punch) -> None:
    trial = punch("same_nat", "firewall", "firewall")
    assert trial.direct, trial
    assert trial.agrees, trial
    assert trial.exchange.winner_nats == (), trial


@pytest.mark.parametrize("nat", KINDS)
def test_hosts_of_one_home_meet_on_their_lan(nat: str, punch: Punch, trials: int) -> None:
    for _ in range(trials):
        trial = punch("same_nat", nat, nat)
        assert trial.direct, trial
        assert trial.agrees, trial
        # By the private candidate, or turned back at the NAT.
        hairpins = nat == "einat_fullcone"
        assert trial.exchange.winner_nats in ({(), ("nat_a",)} if hairpins else {()}), trial
        # The lab's own sockets know nothing of private candidates.
        assert trial.control.direct is hairpins, trial
