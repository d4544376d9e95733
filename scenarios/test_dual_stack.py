"""Hosts behind NATs that also have IPv6 behind the firewalls of the same home routers (RFC 6092)."""

from __future__ import annotations

import pytest

from punchlab import Lab
from punchlab.topologies import DualStack
from scenarios.conftest import Punch


@pytest.mark.parametrize("strategy", ["auto", "reuse"])
def test_hosts_behind_incompatible_nats_connect_over_ipv6(strategy: str, punch: Punch, trials: int) -> None:
    for _ in range(trials):
        trial = punch("dual_stack", "symmetric", "symmetric", strategy=strategy)
        assert trial.control.direct is False, "the control attempt uses IPv4"
        assert trial.agrees, trial
        assert trial.direct, trial
        winner = trial.exchange.winner
        assert winner is not None
        assert winner.nats == ("nat_a", "nat_b"), trial
        assert winner.at_a == winner.at_b[::-1], trial
        assert winner.at_a[0].startswith("[2a11::"), trial


def test_ipv6_that_a_firewall_blocks_costs_no_time() -> None:
    """Each host reaches the edge over IPv6 but no other host, so IPv4 must work as without IPv6."""
    with Lab(DualStack(nat_a="port_restricted_cone", nat_b="port_restricted_cone")) as lab:
        for nat in ("nat_a", "nat_b"):
            others = ["!", "-d", lab["edge1"].address6, "-o", f"{nat}-eth0"]
            lab[nat].run(["ip6tables", "-I", "FORWARD", *others, "-j", "DROP"])
        trial = lab.punch("a", "b", strategy="keep")
    assert trial.direct, trial
    known = [side.last("peer_known") for side in trial.sides]
    assert all("'[2a11::" in str(each) for each in known), "IPv6 was not tried"
    winner = trial.exchange.winner
    assert winner is not None
    assert winner.at_a[0].startswith("192.168.1.2:"), trial
    assert trial.timings_s["known_to_agreed"] < 1, trial


def test_broken_ipv6_causes_no_delay() -> None:
    """The hosts have IPv6 addresses, but all their IPv6 packets are lost."""
    with Lab(DualStack(nat_a="port_restricted_cone", nat_b="port_restricted_cone")) as lab:
        lab["core1"].run(["ip6tables", "-I", "FORWARD", "-j", "DROP"])
        trial = lab.punch("a", "b", strategy="keep")
    assert trial.direct, trial
    assert all(side.last("registered") is not None for side in trial.sides)
    assert not any("public6" in (side.last("registered") or {}) for side in trial.sides)
    assert trial.timings_s["known_to_agreed"] < 1, trial
