"""The default strategy where hosts, their NATs or their arrival are not alike."""

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
"""Longer than anything that a client waits for by itself while it registers."""


@pytest.mark.parametrize("late", ["sender", "receiver"])
def test_who_comes_late_is_still_met(late: str, tmp_path: Path) -> None:
    with Lab(AB()) as lab, Pair(lab, tmp_path) as pair:
        early = pair.send("a") if late == "receiver" else pair.receive("b")
        pair.idle(LATE_S)
        other = pair.receive("b") if late == "receiver" else pair.send("a")
        pair.meet(*((early, other) if late == "receiver" else (other, early)))
        # In the session of old, and by its first registration.
        assert where(early) == ["edge1"]
        assert not events(early, "edge_lost")
        waited = events(early, "peer_known")[0]["t"] - events(early, "registered")[0]["t"]
        assert waited > LATE_S


def test_customers_of_one_carrier_meet_where_its_nat_turns_them_back(punch: Punch) -> None:
    trial = punch("carrier", STRICT, STRICT, pair=("a", "b"), strategy="auto")
    as_promised(trial)
    assert trial.exchange.winner_nats == ("nat_a", "cgn1", "nat_b"), trial
    assert chosen(trial) == ["keep", "keep"]


@pytest.mark.parametrize("nat", [STRICT, "symmetric", "sym_sequential_home", "full_cone"])
@pytest.mark.parametrize("public", ["a", "b"])
def test_a_public_host_is_dialled_from_behind_whatever_nat(public: str, nat: str, punch: Punch) -> None:
    """Connection reversal (RFC 5128 section 3.2): whoever of the two sends, it is the other that dials."""
    trial = punch("ab", *(("none", nat) if public == "a" else (nat, "none")), strategy="auto")
    as_promised(trial)
    assert trial.exchange.winner_nats == (f"nat_{'b' if public == 'a' else 'a'}",), trial


KINDS = ["restricted_cone", STRICT, "symmetric", "sym_sequential_home"]
DEPENDENT = {"symmetric", "sym_sequential_home"}


def icmp_and_silence(refusing: str, dropping: str) -> list[NatBehavior | None]:
    """One NAT that refuses SYNs by ICMP, and one that drops them."""
    return [presets.behavior(refusing, "host-prohibited"), presets.behavior(dropping, "drop")]


@pytest.mark.parametrize(
    ("refusing", "dropping"), [pair for pair in itertools.product(KINDS, KINDS) if not set(pair) <= DEPENDENT]
)
def test_one_nat_refuses_by_icmp_and_the_other_drops(refusing: str, dropping: str, punch: Punch) -> None:
    nats: Any = icmp_and_silence(refusing, dropping)
    as_promised(punch("ab", *nats, strategy="auto", delay="20ms"))


@pytest.mark.parametrize("dropping", ["full_cone", "restricted_cone", STRICT])
@pytest.mark.parametrize("refusing", ["restricted_cone", STRICT])
@pytest.mark.parametrize("refuser", ["a", "b"])
def test_an_icmp_error_is_no_trap(refuser: str, refusing: str, dropping: str, punch: Punch) -> None:
    """The other dials first, and is refused: plainly they would hardly ever meet, whoever dials again."""
    nats: Any = icmp_and_silence(refusing, dropping)
    first = {"a": -0.1, "b": 0.1}[refuser]
    trial = punch("ab", *(nats if refuser == "a" else nats[::-1]), strategy="auto", delay="20ms", skew_s=first)
    as_promised(trial)
    assert trial.direct, trial
    assert chosen(trial) == ["lowttl", "lowttl"]


def as_promised(trial: Trial) -> None:
    """It ends as the oracle says."""
    assert trial.agrees is not False, trial
    assert trial.direct or trial.prediction.probability < 1, trial
