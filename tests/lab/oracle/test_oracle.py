"""Outcome prediction for pairs with a known outcome, from theory or from cited measurements."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.lab.nat import presets
from punchlab.lab.oracle.outcome import Dial, Outcome, predict_outcome
from punchlab.punch.nat.behavior import (
    BehaviorError,
    FilteringBehavior,
    IcmpErrors,
    MappingBehavior,
    NatBehavior,
    Pooling,
    PortAllocation,
    Unsolicited,
)

KINDS = presets.CLASSICS
HOPELESS = {
    frozenset({"port_restricted_cone", "symmetric"}),
    frozenset({"symmetric"}),
}


def nat(name: str, unsolicited: Unsolicited = Unsolicited.DROP) -> NatBehavior | None:
    return presets.behavior(name, unsolicited)


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_dropping_nats_fail_only_with_a_symmetric_nat_and_port_filtering(one: str, other: str) -> None:
    prediction = predict_outcome(nat(one), nat(other), Dial(delay_s=0.02))
    assert (prediction.outcome is Outcome.FAILS) == (frozenset({one, other}) in HOPELESS)


def test_the_reason_names_the_side_whose_mapping_is_the_cause() -> None:
    prediction = predict_outcome(nat("port_restricted_cone"), nat("symmetric"), Dial(delay_s=0.02))
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
def test_with_resets_and_one_attempt_port_restricted_cones_connect_iff_the_syns_cross(
    delay_s: float, skew_s: float, outcome: Outcome
) -> None:
    cone = nat("port_restricted_cone", Unsolicited.RESET)
    assert predict_outcome(cone, cone, Dial(delay_s, skew_s, attempts=1)).outcome is outcome


def test_crossing_syns_take_a_round_trip_and_the_skew() -> None:
    cone = nat("port_restricted_cone")
    assert predict_outcome(cone, cone, Dial(delay_s=0.05, skew_s=0.02)).floor_s == pytest.approx(0.12)


@pytest.mark.parametrize(
    ("skew_s", "flights"),
    # The receiver, B, is connected after 2 delays, or one skew later if it connects later; its hello is the first
    # message.
    [(0.0, 5.0), (0.02, 5.4), (-0.02, 5.0)],
)
def test_agreement_on_crossing_syns_takes_three_delays_after_the_receiver_is_connected(
    skew_s: float, flights: float
) -> None:
    cone = nat("port_restricted_cone")
    prediction = predict_outcome(cone, cone, Dial(delay_s=0.05, skew_s=skew_s))
    assert prediction.agreed_floor_s == pytest.approx(flights * 0.05)


def test_agreement_takes_one_delay_less_if_the_receiver_connects() -> None:
    sender_dials, receiver_dials = ("symmetric", "full_cone"), ("full_cone", "symmetric")
    floors = [
        predict_outcome(nat(a), nat(b), Dial(delay_s=0.05)).agreed_floor_s for a, b in (sender_dials, receiver_dials)
    ]
    assert floors == [pytest.approx(0.30), pytest.approx(0.25)]


def test_an_accepted_syn_takes_three_delays() -> None:
    assert predict_outcome(nat("symmetric"), nat("full_cone"), Dial(delay_s=0.05)).floor_s == pytest.approx(0.15)


@pytest.mark.parametrize("name", ["port_restricted_cone", "symmetric"])
def test_port_allocation_does_not_matter_for_the_registered_port(name: str) -> None:
    cone, other = nat("port_restricted_cone"), nat(name)
    assert other is not None
    allocations = [replace(other, port_allocation=each) for each in PortAllocation]
    assert len({predict_outcome(cone, each, Dial(0.02)).outcome for each in allocations}) == 1


@pytest.mark.parametrize("mapping", [MappingBehavior.ADDRESS_DEPENDENT, MappingBehavior.ADDRESS_AND_PORT_DEPENDENT])
@pytest.mark.parametrize(
    ("filtering", "other", "outcome"),
    [
        # The registered port is valid only for the edge, and the source port of the SYN is unknown.
        (FilteringBehavior.ADDRESS_DEPENDENT, "port_restricted_cone", Outcome.FAILS),
        (FilteringBehavior.ADDRESS_DEPENDENT, "restricted_cone", Outcome.DIRECT),
        # Two hosts with destination-dependent mappings connect through a registered port with endpoint-independent
        # filtering.
        (FilteringBehavior.ENDPOINT_INDEPENDENT, "symmetric", Outcome.DIRECT),
        # Its own SYN blocks the SYN from the endpoint to which it connects.
        (FilteringBehavior.ENDPOINT_INDEPENDENT, "port_restricted_cone", Outcome.FAILS),
        (FilteringBehavior.ENDPOINT_INDEPENDENT, "restricted_cone", Outcome.DIRECT),
    ],
)
def test_a_mapping_that_depends_on_the_destination_with_wider_filtering(
    mapping: MappingBehavior, filtering: FilteringBehavior, other: str, outcome: Outcome
) -> None:
    a = NatBehavior(mapping, filtering, PortAllocation.RANDOM)
    assert predict_outcome(a, nat(other), Dial(0.02)).outcome is outcome


def test_a_registered_port_of_a_full_cone_admits_a_syn_before_its_owner_connects() -> None:
    a = NatBehavior(
        MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, FilteringBehavior.ENDPOINT_INDEPENDENT, PortAllocation.RANDOM
    )
    cone = nat("port_restricted_cone")
    assert predict_outcome(a, cone, Dial(0.02, skew_s=-0.03)).outcome is Outcome.DIRECT
    assert predict_outcome(a, cone, Dial(0.02, skew_s=-0.01)).outcome is Outcome.FAILS
    # A RST ends the owner's attempts; then the port admits the kernel's retransmissions again.
    resetting = nat("port_restricted_cone", Unsolicited.RESET)
    assert predict_outcome(a, resetting, Dial(0.02, attempts=1)).outcome is Outcome.DIRECT
    assert predict_outcome(a, resetting, Dial(0.02, deadline_s=2)).outcome is Outcome.DEPENDS


@pytest.mark.parametrize(
    "answer", [Unsolicited.PORT_UNREACHABLE, Unsolicited.HOST_PROHIBITED, Unsolicited.ADMIN_PROHIBITED]
)
def test_a_pinhole_left_by_an_icmp_error_needs_an_active_attempt(answer: Unsolicited) -> None:
    cone = nat("port_restricted_cone", answer)
    assert cone is not None
    apart = Dial(delay_s=0.02, skew_s=0.05, attempts=1)
    assert predict_outcome(cone, cone, replace(apart, skew_s=0.01)).outcome is Outcome.DIRECT
    assert predict_outcome(cone, cone, apart).outcome is Outcome.FAILS
    # The next attempt starts 90 ms after the first at the earliest: too late for the only chance.
    assert predict_outcome(cone, cone, replace(apart, attempts=None)).outcome is Outcome.FAILS
    # A swallowed error ends no attempt.
    swallowing = replace(cone, icmp_errors=IcmpErrors.SWALLOWED)
    assert predict_outcome(swallowing, swallowing, apart).outcome is Outcome.DIRECT
    # If the later SYN comes from another port, it finds no such pinhole, and wide filtering admits it.
    symmetric = nat("symmetric", answer)
    assert predict_outcome(nat("full_cone"), symmetric, apart).outcome is Outcome.DIRECT


@pytest.mark.parametrize(("skew_s", "chance"), [(0.1, 0.3), (0.12, 0.4), (0.2, 0.1), (0.05, 0.0)])
def test_a_repeated_attempt_crosses_as_often_as_its_pause_allows(skew_s: float, chance: float) -> None:
    # Rejected after 40 ms, A connects again 90 to 190 ms after its first attempt, uniformly; 20 ms around B's SYN
    # count.
    cone = nat("port_restricted_cone", Unsolicited.PORT_UNREACHABLE)
    prediction = predict_outcome(cone, cone, Dial(delay_s=0.02, skew_s=skew_s, attempts=2))
    expected = (min(skew_s + 0.02, 0.19) - max(skew_s - 0.02, 0.09)) / 0.1
    assert expected == pytest.approx(chance) or (chance == 0 and expected < 0)
    assert prediction.probability == pytest.approx(chance, abs=0.075)  # three standard errors of 400 runs


@pytest.mark.parametrize(("loss", "syns"), [(0.1, 1), (0.3, 1), (0.3, 3)])
def test_a_lost_syn_is_retransmitted_until_the_deadline(loss: float, syns: int) -> None:
    # Only A's SYN can be admitted, and no NAT rejects. Each lost packet of its handshake costs a second.
    dial = Dial(delay_s=0.02, attempts=1, deadline_s=syns - 0.5, loss=loss)
    ways = {1: (1 - loss) ** 3, 3: sum((1 - loss) ** 3 * loss**k * (k + 1) * (k + 2) / 2 for k in range(3))}
    prediction = predict_outcome(nat("symmetric"), nat("full_cone"), dial)
    assert prediction.probability == pytest.approx(ways[syns], abs=0.075)


def test_attempts_before_the_peers_first_syn_do_not_help() -> None:
    # A's first pinhole is closed when B connects, and no further SYN is sent.
    cone, early = nat("port_restricted_cone", Unsolicited.RESET), Dial(delay_s=0.02, skew_s=1.0)
    assert predict_outcome(cone, cone, replace(early, attempts=3)).outcome is Outcome.FAILS
    assert predict_outcome(cone, cone, replace(early, attempts=None)).outcome is Outcome.DIRECT
    # If B's SYN comes from a port that A does not know, only A's can be admitted, and only after B's first SYN.
    symmetric = nat("symmetric", Unsolicited.RESET)
    restricted = nat("restricted_cone", Unsolicited.RESET)
    assert predict_outcome(symmetric, restricted, replace(early, attempts=2)).outcome is Outcome.FAILS
    assert predict_outcome(symmetric, restricted, replace(early, attempts=None)).outcome is Outcome.DIRECT


def test_without_resets_a_retransmission_passes_a_pinhole_opened_later() -> None:
    prediction = predict_outcome(nat("symmetric"), nat("restricted_cone"), Dial(delay_s=0.02, skew_s=0.3))
    assert prediction.outcome is Outcome.DIRECT
    assert prediction.reason == "B's pinhole admits A's retransmitted SYN"
    assert prediction.floor_s == pytest.approx(1.06)
    late = Dial(delay_s=0.02, skew_s=0.3, deadline_s=1.0)
    assert predict_outcome(nat("symmetric"), nat("restricted_cone"), late).outcome is Outcome.FAILS


def test_arbitrary_pooling_makes_address_dependent_filtering_random() -> None:
    a = NatBehavior(
        MappingBehavior.ADDRESS_DEPENDENT,
        FilteringBehavior.ADDRESS_DEPENDENT,
        PortAllocation.RANDOM,
        pool_size=4,
        pooling=Pooling.ARBITRARY,
    )
    prediction = predict_outcome(a, nat("restricted_cone"), Dial(0.02))
    assert prediction.probability == pytest.approx(1 / 4, abs=0.065)
    assert prediction.reason.endswith("otherwise A's SYN comes from another address of its NAT's pool")
    assert (
        predict_outcome(replace(a, pooling=Pooling.PAIRED), nat("restricted_cone"), Dial(0.02)).outcome
        is Outcome.DIRECT
    )
    assert predict_outcome(a, nat("full_cone"), Dial(0.02)).outcome is Outcome.DIRECT


def test_jitter_makes_a_certain_outcome_random() -> None:
    cone = nat("port_restricted_cone", Unsolicited.RESET)
    dial = Dial(delay_s=0.02, skew_s=0.018, attempts=1)
    assert predict_outcome(cone, cone, dial).outcome is Outcome.DIRECT
    assert predict_outcome(cone, cone, replace(dial, jitter_s=0.01)).outcome is Outcome.DEPENDS


classics = st.builds(nat, st.sampled_from(KINDS), st.sampled_from(Unsolicited))
behaviors = st.none() | st.builds(
    NatBehavior,
    mapping=st.sampled_from(MappingBehavior),
    filtering=st.sampled_from(FilteringBehavior),
    port_allocation=st.sampled_from(PortAllocation),
    unsolicited=st.sampled_from(Unsolicited),
    icmp_errors=st.sampled_from(IcmpErrors),
)
dials = st.builds(
    Dial,
    delay_s=st.floats(0, 0.3),
    skew_s=st.floats(-0.5, 0.5),
    attempts=st.one_of(st.none(), st.integers(1, 5)),
    deadline_s=st.floats(1.5, 10),
    loss=st.sampled_from([0.0, 0.05]),
    jitter_s=st.sampled_from([0.0, 0.005]),
)


@given(behaviors, behaviors, dials)
def test_swapping_the_hosts_changes_nothing_but_names(a: NatBehavior | None, b: NatBehavior | None, dial: Dial) -> None:
    mirrored = replace(dial, skew_s=-dial.skew_s)
    here, there = predict_outcome(a, b, dial), predict_outcome(b, a, mirrored)
    if dial.skew_s != 0:
        assert (here.outcome, here.probability, here.floor_s) == (there.outcome, there.probability, there.floor_s)


@given(behaviors, behaviors, dials)
def test_a_floor_is_returned_iff_success_is_possible(a: NatBehavior | None, b: NatBehavior | None, dial: Dial) -> None:
    prediction = predict_outcome(a, b, dial)
    assert 0 <= prediction.probability <= 1
    assert (prediction.floor_s is None) == (prediction.outcome is Outcome.FAILS)
    assert prediction.floor_s is None or prediction.floor_s >= 2 * (dial.delay_s - dial.jitter_s)


@given(classics, classics, dials)
def test_dropping_is_never_worse_than_resetting(a: NatBehavior | None, b: NatBehavior | None, dial: Dial) -> None:
    # Without loss, and with time for a retransmission.
    dial = replace(dial, loss=0.0, deadline_s=dial.deadline_s + 1)
    silent = [each and replace(each, unsolicited=Unsolicited.DROP) for each in (a, b)]
    assert predict_outcome(silent[0], silent[1], dial).probability >= predict_outcome(a, b, dial).probability


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"delay_s": math.nan}, "delay_s: nan"),
        ({"delay_s": -1}, "delay_s: -1 .*from 0"),
        ({"delay_s": "1"}, "delay_s: '1'"),
        ({"skew_s": math.inf}, "skew_s: inf"),
        ({"deadline_s": math.nan}, "deadline_s: nan"),
        ({"loss": 1.5}, "loss: 1.5 .*from 0 to 1"),
        ({"attempts": 0}, "attempts: 0"),
        ({"attempts": 1.5}, "attempts: 1.5"),
    ],
)
def test_invalid_dial_parameters_are_rejected(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BehaviorError, match=words):
        Dial(**{"delay_s": 0.0} | fields)


@pytest.mark.parametrize(
    "code", [Unsolicited.HOST_PROHIBITED, Unsolicited.PORT_UNREACHABLE, Unsolicited.ADMIN_PROHIBITED]
)
def test_without_delay_it_is_random_whether_an_icmp_error_ends_an_attempt(code: Unsolicited) -> None:
    rejecting = nat("port_restricted_cone", code)
    assert predict_outcome(rejecting, rejecting, Dial(0.0, skew_s=0.001, attempts=1)).outcome is Outcome.DEPENDS
    assert predict_outcome(rejecting, rejecting, Dial(0.0005, skew_s=0.001, attempts=1)).outcome is Outcome.FAILS
