"""Homes behind a carrier's NAT (NAT444): two customers connect if it hairpins, and its mapping affects each of them."""

from __future__ import annotations

import pytest

from scenarios.conftest import Punch

CONE, BY_ADDRESS = "port_restricted_cone", "restricted_cone"
HAIRPINS, SILENT, SYMMETRIC = "cgn_rfc6888", "cgn_fixed_eim", "cgn_cell_sym"
"""Carriers: one that complies with RFC 6888, one without hairpinning, and a symmetric one without hairpinning."""


@pytest.mark.parametrize(("nat", "direct"), [("full_cone", True), (CONE, True), ("symmetric", False)])
def test_homes_of_one_carrier_connect_if_it_hairpins(nat: str, direct: bool, punch: Punch, trials: int) -> None:
    for _ in range(trials):
        trial = punch("carrier", nat, nat, cgn=HAIRPINS, deadline_s=3)
        assert trial.agrees, trial
        assert trial.direct is direct, trial
        assert trial.exchange.winner_nats == (("nat_a", "cgn1", "nat_b") if direct else ()), trial


@pytest.mark.parametrize(("nat_b", "shortcut"), [("none", ()), (CONE, ("nat_b",))])
def test_a_host_without_a_home_nat_connects_without_hairpinning(
    nat_b: str, shortcut: tuple[str, ...], punch: Punch
) -> None:
    trial = punch("carrier", "none", nat_b, cgn=SILENT)
    assert trial.direct, trial
    assert trial.agrees, trial
    assert trial.exchange.winner_nats == shortcut, trial


def test_homes_of_one_carrier_do_not_connect_without_hairpinning(punch: Punch) -> None:
    trial = punch("carrier", "full_cone", "full_cone", cgn=SILENT, deadline_s=2)
    assert trial.outcome == "punch_timeout", trial
    assert trial.agrees, trial


@pytest.mark.parametrize(
    ("cgn", "nat_c", "direct"),
    [(HAIRPINS, CONE, True), (SILENT, CONE, True), (SYMMETRIC, BY_ADDRESS, True), (SYMMETRIC, CONE, False)],
)
@pytest.mark.parametrize("pair", [("a", "c"), ("c", "b")])
def test_a_home_behind_a_carrier_and_another_home_connect_if_their_mappings_allow(
    pair: tuple[str, str], cgn: str, nat_c: str, direct: bool, punch: Punch, trials: int
) -> None:
    nats = [nat_c if host == "c" else CONE for host in pair]
    for _ in range(trials):
        trial = punch("carrier", *nats, pair=pair, cgn=cgn, deadline_s=3)
        assert trial.agrees, trial
        assert trial.direct is direct, trial
        crossed = ("nat_a", "cgn1", "nat_c") if pair == ("a", "c") else ("nat_c", "cgn1", "nat_b")
        assert trial.exchange.winner_nats == (crossed if direct else ()), trial
