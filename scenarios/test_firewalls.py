"""Hosts with public addresses behind stateful firewalls: nothing is translated, but not everybody gets in."""

from __future__ import annotations

import pytest

from punchlab.lab.nat.presets import FIREWALLS
from scenarios.conftest import Punch


@pytest.mark.parametrize("wall_b", FIREWALLS)
@pytest.mark.parametrize("wall_a", FIREWALLS)
def test_every_pair_of_firewalls_is_punched_and_keeps_its_addresses(
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


def test_a_firewall_does_not_help_against_a_symmetric_nat_unless_it_asks_for_addresses_only(punch: Punch) -> None:
    for wall, direct in (("firewall", False), ("firewall_address", True)):
        trial = punch("firewalls", wall, "symmetric", deadline_s=3)
        assert trial.agrees, trial
        assert trial.direct is direct, trial


def test_firewalls_that_answer_with_a_reset_are_punched_where_the_syns_cross(punch: Punch) -> None:
    trial = punch("firewalls", "firewall", "firewall", unsolicited="reset", delay="100ms", max_attempts=1, skew_s=0.03)
    assert trial.direct, trial
    assert trial.exchange.crossed, trial
