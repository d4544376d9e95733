"""The default strategy if hosts, their NATs or their start times differ."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from punchlab import Lab
from punchlab.lab.nat import presets
from punchlab.lab.trial.trial import Trial
from punchlab.punch.nat.behavior import NatBehavior
from punchlab.topologies import AB
from scenarios.conftest import Punch
from scenarios.pairs import Pair, events, where
from scenarios.test_sync_lowttl_auto import chosen

STRICT = "port_restricted_cone"
LATE_S = 4.0
"""Longer than any wait of a client during registration."""


@pytest.mark.parametrize("late", ["sender", "receiver"])
def test_a_late_client_still_connects(late: str, tmp_path: Path) -> None:
    with Lab(AB()) as lab, Pair(lab, tmp_path) as pair:
        early = pair.send("a") if late == "receiver" else pair.receive("b")
        pair.idle(LATE_S)
        other = pair.receive("b") if late == "receiver" else pair.send("a")
        pair.connect(*((early, other) if late == "receiver" else (other, early)))
        # In the original session, with its first registration.
        assert where(early) == ["edge1"]
        assert not events(early, "edge_lost")
        waited = events(early, "peer_known")[0]["t"] - events(early, "registered")[0]["t"]
        assert waited > LATE_S


def test_customers_of_one_carrier_connect_if_its_nat_hairpins(punch: Punch) -> None:
    trial = punch("carrier", STRICT, STRICT, pair=("a", "b"), strategy="auto")
    assert_as_predicted(trial)
    assert trial.exchange.winner_nats == ("nat_a", "cgn1", "nat_b"), trial
    assert chosen(trial) == ["keep", "keep"]


@pytest.mark.parametrize("nat", [STRICT, "symmetric", "sym_sequential_home", "full_cone"])
@pytest.mark.parametrize("public", ["a", "b"])
def test_the_host_behind_a_nat_connects_to_a_public_host(public: str, nat: str, punch: Punch) -> None:
    """Connection reversal (RFC 5128 section 3.2): the host behind the NAT connects, whichever host sends the file."""
    trial = punch("ab", *(("none", nat) if public == "a" else (nat, "none")), strategy="auto")
    assert_as_predicted(trial)
    assert trial.exchange.winner_nats == (f"nat_{'b' if public == 'a' else 'a'}",), trial


KINDS = ["restricted_cone", STRICT, "symmetric", "sym_sequential_home"]
DEPENDENT = {"symmetric", "sym_sequential_home"}


def icmp_and_silence(rejecting: str, dropping: str) -> list[NatBehavior | None]:
    """Return a NAT that rejects SYNs with ICMP errors and one that drops them."""
    return [presets.behavior(rejecting, "host-prohibited"), presets.behavior(dropping, "drop")]


@pytest.mark.parametrize(
    ("rejecting", "dropping"), [pair for pair in itertools.product(KINDS, KINDS) if not set(pair) <= DEPENDENT]
)
def test_one_nat_rejects_with_icmp_and_the_other_drops(rejecting: str, dropping: str, punch: Punch) -> None:
    nats: Any = icmp_and_silence(rejecting, dropping)
    assert_as_predicted(punch("ab", *nats, strategy="auto", delay="20ms"))


@pytest.mark.parametrize("dropping", ["full_cone", "restricted_cone", STRICT])
@pytest.mark.parametrize("rejecting", ["restricted_cone", STRICT])
@pytest.mark.parametrize("rejecter", ["a", "b"])
def test_hosts_connect_in_spite_of_an_icmp_error(rejecter: str, rejecting: str, dropping: str, punch: Punch) -> None:
    """The host behind the dropping NAT sends first and is rejected. With `reuse` the hosts would hardly ever
    connect.
    """
    nats: Any = icmp_and_silence(rejecting, dropping)
    first = {"a": -0.1, "b": 0.1}[rejecter]
    trial = punch("ab", *(nats if rejecter == "a" else nats[::-1]), strategy="auto", delay="20ms", skew_s=first)
    assert_as_predicted(trial)
    assert trial.direct, trial
    assert chosen(trial) == ["lowttl", "lowttl"]


def assert_as_predicted(trial: Trial) -> None:
    """Assert that the outcome agrees with the prediction."""
    assert trial.agrees is not False, trial
    assert trial.direct or trial.prediction.probability < 1, trial
