"""NATs in series, and a shared NAT: the equivalent single NAT. (tests/lab/nat compares it with the kernel.)"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.lab.oracle import nesting, outcome
from punchlab.lab.oracle.outcome import Dial, Outcome
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    Hairpinning,
    IcmpErrors,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    Unsolicited,
)

CONE = NatBehavior(
    MappingBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.PRESERVING
)
OPEN = replace(CONE, filtering=FilteringBehavior.ENDPOINT_INDEPENDENT)
BY_ADDRESS = replace(CONE, filtering=FilteringBehavior.ADDRESS_DEPENDENT)
SYMMETRIC = replace(CONE, mapping=MappingBehavior.ADDRESS_AND_PORT_DEPENDENT, port_allocation=PortAllocation.RANDOM)
HAIRPIN = replace(OPEN, hairpinning=Hairpinning.EXTERNAL_SOURCE)
DIAL = Dial(delay_s=0.01)

behaviors = st.builds(
    NatBehavior,
    st.sampled_from(MappingBehavior),
    st.sampled_from(FilteringBehavior),
    st.just(PortAllocation.PRESERVING),
    st.sampled_from(Unsolicited),
    icmp_errors=st.sampled_from(IcmpErrors),
)


def connects(*arguments: object, shared: NatBehavior | None = None) -> bool:
    a, b = arguments
    assert isinstance(a, list)
    assert isinstance(b, list)
    return nesting.predict_outcome(a, b, DIAL, shared).outcome is Outcome.DIRECT


@given(behaviors, behaviors)
def test_one_nat_each_is_predicted_by_the_basic_model(a: NatBehavior, b: NatBehavior) -> None:
    once = replace(DIAL, attempts=1)  # further ones are random, which takes time
    assert nesting.predict_outcome([a], [b], once) == outcome.predict_outcome(a, b, once)
    assert nesting.predict_outcome([], [b], once) == outcome.predict_outcome(None, b, once)


@given(behaviors)
def test_a_full_cone_in_series_changes_nothing(nat: NatBehavior) -> None:
    for row in ([OPEN, nat], [nat, OPEN]):
        made = nesting.in_series(row)
        assert made is not None
        assert (made.mapping, made.filtering, made.icmp_errors) == (nat.mapping, nat.filtering, nat.icmp_errors)
        if nat.filtering is not FilteringBehavior.ENDPOINT_INDEPENDENT:
            assert made.unsolicited is nat.unsolicited


def test_pinholes_of_nats_in_series_survive_resets_only_if_those_of_all_strictest_nats_do() -> None:
    keeping = replace(CONE, reset_closes=False)
    for row, closes in (([keeping, CONE], True), ([CONE, keeping], True), ([keeping, keeping], False)):
        made = nesting.in_series(row)
        assert made is not None
        assert made.reset_closes is closes
    made = nesting.in_series([keeping, BY_ADDRESS, OPEN])
    assert made is not None
    assert not made.reset_closes


def test_nats_in_series_delay_answers_like_the_one_that_answers() -> None:
    silent = replace(CONE, unsolicited=Unsolicited.SILENT_THEN_ICMP, silence_s=2)
    for row, silence_s in (([CONE, silent], 2), ([silent, CONE], 6), ([silent, OPEN], 2)):
        made = nesting.in_series(row)
        assert made is not None
        assert made.silence_s == silence_s


@given(st.lists(behaviors, min_size=2, max_size=4))
def test_nats_in_series_have_the_strictest_filtering_and_the_most_dependent_mapping(row: list[NatBehavior]) -> None:
    made = nesting.in_series(row)
    assert made is not None
    assert made.filtering is max((nat.filtering for nat in row), key=tuple(FilteringBehavior).index)
    assert made.mapping is max((nat.mapping for nat in row), key=tuple(MappingBehavior).index)


@pytest.mark.parametrize(
    ("row", "place"),
    [([CONE], 0), ([CONE, OPEN], 0), ([OPEN, CONE], 1), ([CONE, CONE], 1), ([OPEN, OPEN], 1), ([CONE, OPEN, OPEN], 0)],
)
def test_the_outermost_filtering_nat_is_found(row: list[NatBehavior], place: int) -> None:
    assert nesting.outermost_filtering(row) == place


@pytest.mark.parametrize("hairpinning", [Hairpinning.NONE, Hairpinning.INTERNAL_SOURCE])
def test_without_hairpinning_hosts_behind_one_nat_do_not_connect(hairpinning: Hairpinning) -> None:
    found = nesting.predict_outcome([], [], DIAL, replace(OPEN, hairpinning=hairpinning))
    assert (found.outcome, found.floor_s) == (Outcome.FAILS, None)
    assert "hairpin" in found.reason or "internal source" in found.reason


def test_hosts_of_one_home_connect_by_hairpinning_for_every_mapping_and_filtering() -> None:
    for nat in (CONE, BY_ADDRESS, OPEN, SYMMETRIC):
        assert connects([], [], shared=replace(nat, hairpinning=Hairpinning.EXTERNAL_SOURCE))


def test_a_carrier_with_independent_mapping_does_not_change_the_prediction() -> None:
    assert connects([CONE], [CONE], shared=HAIRPIN)
    assert connects([CONE], [CONE], shared=replace(CONE, hairpinning=Hairpinning.EXTERNAL_SOURCE))
    assert not connects([CONE], [SYMMETRIC], shared=HAIRPIN)
    assert connects([BY_ADDRESS], [SYMMETRIC], shared=HAIRPIN)


def test_behind_a_symmetric_carrier_homes_that_filter_by_address_still_connect() -> None:
    carrier = replace(SYMMETRIC, hairpinning=Hairpinning.EXTERNAL_SOURCE)
    assert connects([BY_ADDRESS], [BY_ADDRESS], shared=carrier)
    assert connects([CONE], [BY_ADDRESS], shared=carrier)
    assert connects([CONE], [OPEN], shared=carrier)
    assert not connects([CONE], [CONE], shared=carrier)
    assert not connects([replace(BY_ADDRESS, mapping=MappingBehavior.ADDRESS_DEPENDENT)], [CONE], shared=carrier)


def test_behind_a_symmetric_carrier_a_cone_at_home_does_not_help() -> None:
    assert not connects([CONE, SYMMETRIC], [CONE])
    assert connects([CONE, SYMMETRIC], [BY_ADDRESS])
