"""What the oracle says of pairs whose outcome is known: from theory, and from measurements that are cited."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.nat import presets
from punch.nat.behavior import NatBehavior, Unsolicited
from punch.nat.oracle import Dial, Outcome, predict

KINDS = presets.CLASSICS
HOPELESS = {
    frozenset({"port_restricted_cone", "symmetric"}),
    frozenset({"symmetric"}),
}


def nat(name: str, unsolicited: Unsolicited = Unsolicited.DROP) -> NatBehavior | None:
    return presets.behavior(name, unsolicited)


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_dropping_nats_fail_only_where_a_symmetric_one_meets_port_filtering(one: str, other: str) -> None:
    prediction = predict(nat(one), nat(other), Dial(delay_s=0.02))
    assert (prediction.outcome is Outcome.FAILS) == (frozenset({one, other}) in HOPELESS)


def test_the_reason_names_the_side_whose_mapping_is_at_fault() -> None:
    prediction = predict(nat("port_restricted_cone"), nat("symmetric"), Dial(delay_s=0.02))
    assert prediction.reason.startswith("B's mapping depends on the destination")


@pytest.mark.parametrize(
    ("delay_s", "skew_s", "outcome"),
    [
        (0.1, 0.03, Outcome.DIRECT),
        (0.1, -0.03, Outcome.DIRECT),
        (0.0, 0.05, Outcome.FAILS),
        (0.02, 0.03, Outcome.FAILS),
    ],
)
def test_with_resets_and_one_attempt_port_restricted_cones_meet_iff_the_syns_cross(
    delay_s: float, skew_s: float, outcome: Outcome
) -> None:
    cone = nat("port_restricted_cone", Unsolicited.RESET)
    assert predict(cone, cone, Dial(delay_s, skew_s, attempts=1)).outcome is outcome


def test_crossing_syns_take_a_round_trip_and_the_skew() -> None:
    cone = nat("port_restricted_cone")
    assert predict(cone, cone, Dial(delay_s=0.05, skew_s=0.02)).floor_s == pytest.approx(0.12)


def test_an_accepted_syn_takes_three_flights() -> None:
    assert predict(nat("symmetric"), nat("full_cone"), Dial(delay_s=0.05)).floor_s == pytest.approx(0.15)


behaviors = st.builds(
    lambda name, unsolicited: nat(name, unsolicited), st.sampled_from(KINDS), st.sampled_from(list(Unsolicited))
)
dials = st.builds(
    Dial,
    delay_s=st.floats(0, 0.3),
    skew_s=st.floats(-0.5, 0.5),
    attempts=st.one_of(st.none(), st.integers(1, 5)),
    deadline_s=st.floats(1.5, 10),
    loss=st.sampled_from([0.0, 0.05]),
)


@given(behaviors, behaviors, dials)
def test_swapping_the_hosts_changes_nothing_but_names(a: NatBehavior | None, b: NatBehavior | None, dial: Dial) -> None:
    mirrored = Dial(dial.delay_s, -dial.skew_s, dial.attempts, dial.deadline_s, dial.loss)
    here, there = predict(a, b, dial), predict(b, a, mirrored)
    if dial.skew_s != 0:
        assert (here.outcome, here.probability, here.floor_s) == (there.outcome, there.probability, there.floor_s)


@given(behaviors, behaviors, dials)
def test_a_floor_is_given_exactly_where_success_is_possible(
    a: NatBehavior | None, b: NatBehavior | None, dial: Dial
) -> None:
    prediction = predict(a, b, dial)
    assert 0 <= prediction.probability <= 1
    assert (prediction.floor_s is None) == (prediction.outcome is Outcome.FAILS)
    assert prediction.floor_s is None or prediction.floor_s >= 2 * dial.delay_s


@given(behaviors, behaviors, dials)
def test_dropping_is_never_worse_than_resetting(a: NatBehavior | None, b: NatBehavior | None, dial: Dial) -> None:
    dial = replace(dial, loss=0.0)
    silent = [each and replace(each, unsolicited=Unsolicited.DROP) for each in (a, b)]
    assert predict(silent[0], silent[1], dial).probability >= predict(a, b, dial).probability
