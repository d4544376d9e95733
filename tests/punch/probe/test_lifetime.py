"""The search for the lifetime of a mapping, with mappings of known lifetimes."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from punchlab.punch.nat.probe import Lifetime, NotTested
from punchlab.punch.probe.lifetime import Lives, search


def living(lifetime_s: float) -> Lives:
    async def lives(idle_s: float) -> bool:
        return idle_s < lifetime_s

    return lives


@given(st.floats(1, 600), st.sampled_from([1.0, 10.0]))
def test_a_lifetime_is_found_within_five_percent(lifetime_s: float, time_scale: float) -> None:
    found = asyncio.run(search(living(lifetime_s / time_scale), 600, time_scale))
    assert isinstance(found, Lifetime)
    assert found.below_s is not None
    assert found.above_s - 0.001 <= lifetime_s <= found.below_s + 0.001
    assert found.below_s - found.above_s <= 0.05 * found.below_s + 0.001


def test_a_longer_lifetime_has_no_upper_bound() -> None:
    assert asyncio.run(search(living(1000), 600, 1)) == Lifetime(600, None)


def test_a_server_without_response_port_does_not_cause_a_short_lifetime() -> None:
    assert isinstance(asyncio.run(search(living(-1), 600, 1)), NotTested)


@pytest.mark.parametrize("when", [0, 1])
def test_a_test_that_cannot_run_is_reported(when: float) -> None:
    async def lives(idle_s: float) -> bool | NotTested:
        return NotTested("no socket") if idle_s >= when else True

    assert asyncio.run(search(lives, 600, 1)) == NotTested("no socket")
