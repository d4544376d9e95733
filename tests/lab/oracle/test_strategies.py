"""Outcome prediction of each strategy for pairs whose outcome is known from theory."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from punchlab.lab.client.description import CLIENTS
from punchlab.lab.nat import presets
from punchlab.lab.oracle import nesting
from punchlab.lab.oracle.outcome import Dial, Outcome
from punchlab.lab.oracle.strategies import STRATEGIES, Dialling, Guessing, predict_outcome
from punchlab.punch.nat import birthday
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    Hairpinning,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    PortMapping,
    Unsolicited,
)

DIAL = Dial(0.02)
CONES = ("full_cone", "restricted_cone", "port_restricted_cone")
SEQUENTIAL = NatBehavior(
    MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.SEQUENTIAL
)


def pair(a: str | NatBehavior, b: str | NatBehavior, dial: Dial = DIAL, guessing: Guessing | None = None) -> Dialling:
    sides = [[each] if isinstance(each, NatBehavior) else _row(each) for each in (a, b)]
    return Dialling(sides[0], sides[1], dial, guessing=guessing or Guessing())


def _row(name: str) -> list[NatBehavior]:
    behavior = presets.behavior(name, "preset")
    return [] if behavior is None else [behavior]


def refusing(name: str) -> NatBehavior:
    return replace(_row(name)[0], unsolicited=Unsolicited.RESET)


def test_every_strategy_of_every_client_is_predicted() -> None:
    assert {name for client in CLIENTS.values() for name in client.strategies} <= STRATEGIES.keys()
    with pytest.raises(ValueError, match="hope: unknown strategy"):
        predict_outcome("hope", pair("full_cone", "full_cone"))


@pytest.mark.parametrize("strategy", ["reuse", "keep"])
@pytest.mark.parametrize("a", presets.CLASSICS)
@pytest.mark.parametrize("b", presets.CLASSICS)
def test_reuse_and_keep_are_predicted_as_plain(strategy: str, a: str, b: str) -> None:
    assert predict_outcome(strategy, pair(a, b)) == nesting.predict_outcome(_row(a), _row(b), DIAL)


def test_sync_has_three_additional_attempts() -> None:
    cone = refusing("port_restricted_cone")
    apart = pair(cone, cone, Dial(0.02, skew_s=0.03))
    assert predict_outcome("sync", apart) == predict_outcome("reuse", apart)
    once, four = (replace(apart, dial=replace(apart.dial, attempts=attempts)) for attempts in (1, 4))
    assert predict_outcome("reuse", once).outcome is Outcome.FAILS
    assert predict_outcome("sync", once) == predict_outcome("reuse", four)


def test_auto_lets_only_the_peer_connect_if_own_syns_would_block_it() -> None:
    open_but_moving = NatBehavior(
        MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, FilteringBehavior.ENDPOINT_INDEPENDENT, PortAllocation.RANDOM
    )
    here = pair(open_but_moving, "port_restricted_cone")
    assert predict_outcome("reuse", here).outcome is Outcome.FAILS
    prediction = predict_outcome("auto", here)
    assert prediction.outcome is Outcome.DIRECT


@pytest.mark.parametrize("skew_s", [0.0, 0.03, -0.5])
def test_lowttl_makes_rejecting_cones_connect_at_any_skew(skew_s: float) -> None:
    cone = refusing("port_restricted_cone")
    here = pair(cone, cone, Dial(0.02, skew_s, attempts=1))
    assert predict_outcome("lowttl", here).outcome is Outcome.DIRECT
    assert (predict_outcome("reuse", here).outcome is Outcome.DIRECT) == (abs(skew_s) < 0.02)


def test_lowttl_does_not_help_destination_dependent_mappings() -> None:
    assert predict_outcome("lowttl", pair("symmetric", "port_restricted_cone")).outcome is Outcome.FAILS


@pytest.mark.parametrize("filtering", FilteringBehavior)
def test_the_next_port_of_a_sequence_is_predicted(filtering: FilteringBehavior) -> None:
    cone = NatBehavior(MappingBehavior.ENDPOINT_INDEPENDENT, filtering, PortAllocation.PRESERVING)
    for one, other in ((SEQUENTIAL, cone), (cone, SEQUENTIAL)):
        prediction = predict_outcome("predict", pair(one, other))
        assert (prediction.outcome, prediction.probability) == (Outcome.DIRECT, 1.0)


def test_background_traffic_makes_a_prediction_miss_with_poisson_probability() -> None:
    busy = Guessing(background_per_s=100, measured_s=(0.02, None), window=3)
    prediction = predict_outcome("predict", pair(SEQUENTIAL, "port_restricted_cone", guessing=busy))
    assert prediction.outcome is Outcome.DEPENDS
    assert prediction.probability == pytest.approx(exp(-2) * (1 + 2 + 2))
    # Only the sequential NAT's own traffic counts, on either side.
    mirrored = replace(busy, measured_s=(9.0, 0.02))
    assert predict_outcome("predict", pair("port_restricted_cone", SEQUENTIAL, guessing=mirrored)).probability == (
        pytest.approx(prediction.probability)
    )


@pytest.mark.parametrize("strategy", ["predict", "birthday"])
def test_two_dependent_mappings_are_not_predicted_if_one_allocates_randomly(strategy: str) -> None:
    for other in (SEQUENTIAL, "symmetric"):
        assert predict_outcome(strategy, pair("symmetric", other)).outcome is Outcome.FAILS


def test_two_sequences_are_predicted() -> None:
    assert predict_outcome("predict", pair(SEQUENTIAL, SEQUENTIAL)).outcome is Outcome.DIRECT
    assert predict_outcome("birthday", pair(SEQUENTIAL, SEQUENTIAL)).outcome is Outcome.FAILS
    # One connection of another host behind either NAT is too many, in each of four rounds.
    busy = Guessing(background_per_s=10, measured_s=(0.02, 0.05))
    prediction = predict_outcome("predict", pair(SEQUENTIAL, SEQUENTIAL, guessing=busy))
    assert prediction.probability == pytest.approx(1 - (1 - exp(-0.2) * exp(-0.5)) ** 4)
    refusing_sequence = replace(SEQUENTIAL, unsolicited=Unsolicited.RESET)
    assert predict_outcome("predict", pair(refusing_sequence, refusing_sequence)).outcome is Outcome.DEPENDS
    assert (
        predict_outcome("predict", pair(refusing_sequence, refusing_sequence, Dial(0.0, 0.001))).outcome
        is Outcome.FAILS
    )


def test_sequential_ports_are_also_hit_by_random_probes() -> None:
    prediction = predict_outcome("birthday", pair(SEQUENTIAL, "port_restricted_cone"))
    assert prediction.probability == pytest.approx(birthday.collision(256, 1024))


def test_random_ports_are_not_predicted() -> None:
    assert predict_outcome("predict", pair("symmetric", "port_restricted_cone")).outcome is Outcome.FAILS


def test_a_predicted_port_does_not_help_after_a_reset_has_closed_its_pinhole() -> None:
    cone, refusing_sequence = refusing("port_restricted_cone"), replace(SEQUENTIAL, unsolicited=Unsolicited.RESET)
    once = Dial(0.02, attempts=1)
    assert predict_outcome("predict", pair(refusing_sequence, cone, once)).outcome is Outcome.FAILS
    assert predict_outcome("predict", pair(refusing_sequence, "port_restricted_cone", once)).outcome is Outcome.DIRECT
    for delay_s in (0.0, 0.02):
        assert predict_outcome("predict", pair(refusing_sequence, cone, Dial(delay_s))).outcome is Outcome.DEPENDS


def test_birthday_has_the_probability_of_the_table() -> None:
    prediction = predict_outcome("birthday", pair("symmetric", "port_restricted_cone"))
    assert prediction.outcome is Outcome.DEPENDS
    assert prediction.probability == pytest.approx(birthday.collision(256, 1024))
    assert 0.98 < prediction.probability < 0.99
    assert predict_outcome("birthday", pair("symmetric", "symmetric")).outcome is Outcome.FAILS


def test_pinholes_that_resets_close_are_hit_by_probes_of_one_round_trip() -> None:
    symmetric, cone = refusing("symmetric"), refusing("port_restricted_cone")
    prediction = predict_outcome("birthday", pair(symmetric, cone, Dial(0.02)))
    assert prediction.probability == pytest.approx(birthday.collision(256, 40))
    assert predict_outcome("birthday", pair(symmetric, cone, Dial(0.0))).outcome is Outcome.FAILS
    for delay_s, probes in ((0.0, 128), (0.02, 148)):
        prediction = predict_outcome("birthday", pair("symmetric", cone, Dial(delay_s)))
        assert prediction.probability == pytest.approx(birthday.collision(256, probes))


@pytest.mark.parametrize("hard", ["symmetric", "port_restricted_cone"])
def test_an_explicit_mapping_admits_all(hard: str) -> None:
    asked = replace(_row("port_restricted_cone")[0], port_mapping=PortMapping.PCP)
    symmetric = replace(_row("symmetric")[0], port_mapping=PortMapping.UPNP_IGD)
    for nat in (asked, symmetric):
        for sides in ((nat, hard), (hard, nat)):
            assert predict_outcome("portmap", pair(*sides)).outcome is Outcome.DIRECT
    # Not behind a second NAT.
    nested = Dialling([symmetric, *_row("symmetric")], _row(hard), DIAL)
    assert predict_outcome("portmap", nested).outcome is Outcome.FAILS


def test_behind_one_nat_port_prediction_does_not_matter() -> None:
    shared = replace(_row("symmetric")[0], hairpinning=Hairpinning.NONE)
    assert {predict_outcome(name, Dialling([], [], DIAL, shared)).outcome for name in STRATEGIES} == {Outcome.FAILS}


nats = st.sampled_from([*presets.CLASSICS, "linux_masq"]) | st.sampled_from(
    [
        SEQUENTIAL,
        refusing("port_restricted_cone"),
        refusing("symmetric"),
        replace(SEQUENTIAL, port_mapping=PortMapping.ALL),
    ]
)


@settings(max_examples=40, deadline=None)
@given(nats, nats, st.sampled_from([0.0, 0.02, 0.08]), st.sampled_from([0.0, 0.01, -0.05]))
def test_no_strategy_is_better_than_auto_and_none_worse_than_plain(
    a: str | NatBehavior, b: str | NatBehavior, delay_s: float, skew_s: float
) -> None:
    here = pair(a, b, Dial(delay_s, skew_s, deadline_s=2.0))
    prediction = {name: predict_outcome(name, here) for name in STRATEGIES}
    assert all(prediction["auto"].probability >= each.probability for each in prediction.values())
    assert all(prediction[name].probability >= prediction["reuse"].probability for name in prediction)
    for each in prediction.values():
        assert (each.outcome is Outcome.DEPENDS) == (0 < each.probability < 1)
        assert (each.floor_s is None) == (each.agreed_floor_s is None) == (each.outcome is Outcome.FAILS)
        if each.floor_s is not None and each.agreed_floor_s is not None:
            assert each.agreed_floor_s >= each.floor_s + 2 * delay_s - 1e-9
