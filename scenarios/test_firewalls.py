"""Hosts with public addresses behind stateful firewalls without translation."""

from __future__ import annotations

import pytest

from punchlab.lab.nat.presets import FIREWALLS
from scenarios.conftest import Punch


@pytest.mark.parametrize("wall_b", FIREWALLS)
@pytest.mark.parametrize("wall_a", FIREWALLS)
def test_hosts_behind_firewalls_connect_with_their_own_addresses(
    wall_a: str, wall_b: str, punch: Punch, trials: int
) -> None:
    for _ in range(trials):
        trial = punch("firewalls", wall_a, wall_b)
        assert trial.agrees, trial
        assert trial.direct, trial
        winner = trial.exchange.winner
        assert winner is not None
        assert winner.nats == ("nat_a", "nat_b"), trial
        assert winner.at_a == winner.at_b[::-1], trial


def test_a_firewall_and_a_symmetric_nat_connect_only_with_address_dependent_filtering(punch: Punch) -> None:
    for wall, direct in (("firewall", False), ("firewall_address", True)):
        trial = punch("firewalls", wall, "symmetric", deadline_s=3)
        assert trial.agrees, trial
        assert trial.direct is direct, trial


def test_hosts_behind_firewalls_that_answer_with_resets_connect_if_the_syns_cross(punch: Punch) -> None:
    trial = punch("firewalls", "firewall", "firewall", unsolicited="reset", delay="100ms", max_attempts=1, skew_s=0.03)
    assert trial.direct, trial
    assert trial.exchange.crossed, trial
