"""From observations to the terms of the RFCs: every mapping and filtering behavior; the unknown is not guessed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, PortAllocation
from punchlab.punch.nat.probe import SEQUENTIAL, Address, NotTested, filtering, mapping, port_allocation

P, Q, R, S = (("11.16.1.2", port) for port in (40001, 40002, 40003, 40004))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ((P, P, P, P), MappingBehavior.ENDPOINT_INDEPENDENT),
        ((P, None, P, P), MappingBehavior.ENDPOINT_INDEPENDENT),
        ((P, P, Q, Q), MappingBehavior.ADDRESS_DEPENDENT),
        ((P, None, Q, Q), MappingBehavior.ADDRESS_DEPENDENT),
        ((P, Q, R, S), MappingBehavior.ADDRESS_AND_PORT_DEPENDENT),
        ((P, Q, R, R), MappingBehavior.ADDRESS_AND_PORT_DEPENDENT),
        ((P, Q, None, None), MappingBehavior.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_mapping(
    seen: tuple[Address, Address | None, Address | None, Address | None], expected: MappingBehavior
) -> None:
    assert mapping(*seen) is expected


@pytest.mark.parametrize("seen", [(P, P, None, None), (P, None, None, None), (P, Q, P, Q)])
def test_an_unknown_mapping_behavior_is_not_guessed(seen: tuple[Address, Address, Address, Address]) -> None:
    assert isinstance(mapping(*seen), NotTested)


@pytest.mark.parametrize(
    ("from_other_port", "from_other_address", "expected"),
    [
        (True, True, FilteringBehavior.ENDPOINT_INDEPENDENT),
        (None, True, FilteringBehavior.ENDPOINT_INDEPENDENT),
        (True, False, FilteringBehavior.ADDRESS_DEPENDENT),
        (False, False, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT),
        (False, None, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_filtering(from_other_port: bool | None, from_other_address: bool | None, expected: FilteringBehavior) -> None:
    assert filtering(from_other_port, from_other_address) is expected


@pytest.mark.parametrize("admitted", [(True, None), (None, False), (None, None)])
def test_an_unknown_filtering_behavior_is_not_guessed(admitted: tuple[bool | None, bool | None]) -> None:
    assert isinstance(filtering(*admitted), NotTested)


locals_drawn = st.lists(st.integers(16384, 60999), min_size=8, max_size=8, unique=True)


@given(locals_drawn)
def test_port_preservation_is_detected_despite_one_collision(local: list[int]) -> None:
    ports = [(port, port) for port in local]
    ports[3] = (ports[3][0], 1025)
    assert port_allocation(ports) == (PortAllocation.PRESERVING, None)


@given(locals_drawn, st.integers(-300, 300).filter(bool), st.integers(0, 6))
def test_a_sequence_and_its_delta_are_detected_despite_another_host(local: list[int], delta: int, where: int) -> None:
    external = [30_000 + delta * (step + (step > where)) for step in range(len(local))]
    assert port_allocation(list(zip(local, external, strict=True))) == (SEQUENTIAL, delta)


@pytest.mark.parametrize("seed", range(50))
def test_random_ports_are_detected(seed: int) -> None:
    draw = random.Random(seed)
    ports = [(draw.randrange(16384, 61000), draw.randrange(1024, 65536)) for _ in range(8)]
    assert port_allocation(ports) == (PortAllocation.RANDOM, None)


def test_three_ports_are_too_few() -> None:
    with pytest.raises(ValueError, match="3 mappings"):
        port_allocation([(1, 1), (2, 2), (3, 3)])
