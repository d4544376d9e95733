"""The choice of `auto`, given what two clients know of their NATs."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import replace

import pytest

from punchlab.lab.oracle.outcome import Dial, Outcome, predict_outcome
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior, NatBehavior, PortAllocation, Unsolicited
from punchlab.punch.strategy import traits
from punchlab.punch.strategy.auto import SideTraits, choose
from punchlab.punch.strategy.catalog import STRATEGIES
from punchlab.punch.strategy.traits import Traits
from tests.punch.edges import running

PLAIN = ("keep", "lowttl", "wait")
EVERY = [
    Traits(
        mapping is not None,
        mapping or MappingBehavior.ENDPOINT_INDEPENDENT,
        filtering,
        PortAllocation.PRESERVING if mapping in (None, MappingBehavior.ENDPOINT_INDEPENDENT) else PortAllocation.RANDOM,
        None,
        41000,
        unsolicited,
    )
    for mapping, filtering, unsolicited in itertools.product(
        (None, *MappingBehavior), FilteringBehavior, (Unsolicited.DROP, Unsolicited.RESET, Unsolicited.HOST_PROHIBITED)
    )
]
CONE = Traits(
    True, MappingBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.PRESERVING
)
REFUSES = replace(CONE, unsolicited=Unsolicited.RESET)
DRAWS = Traits(
    True,
    MappingBehavior.ADDRESS_AND_PORT_DEPENDENT,
    FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
    PortAllocation.RANDOM,
)
PUBLIC = Traits(False, MappingBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ENDPOINT_INDEPENDENT)
COUNTS = Traits(
    True,
    MappingBehavior.ADDRESS_AND_PORT_DEPENDENT,
    FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT,
    PortAllocation.SEQUENTIAL,
    1,
)


def test_the_plan_is_to_dial_wherever_the_oracle_lets_a_dial_through_and_nowhere_else() -> None:
    for one, other in itertools.product(EVERY, repeat=2):
        # Each starts first once, and the SYNs cross: this gives every possible chance.
        a, b = one.behavior, other.behavior
        dials = [Dial(0.1, skew, attempts=1) for skew in (0.05, -0.05, 1, -1)]
        able = any(predict_outcome(a, b, dial).outcome is not Outcome.FAILS for dial in dials)
        assert (choose(SideTraits(one), SideTraits(other)).name in PLAIN) == able, (one, other)


def test_the_plan_does_not_depend_on_the_roles() -> None:
    for one, other in itertools.product([*EVERY, Traits()], repeat=2):
        there, back = choose(SideTraits(one), SideTraits(other)), choose(SideTraits(other), SideTraits(one))
        assert there.name == back.name
        if there.dialler is not None:
            assert {there.dialler, back.dialler} == {"sender", "receiver"} or one == other


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (CONE, CONE, "keep"),
        (CONE, DRAWS, "birthday"),
        (COUNTS, CONE, "predict"),
        (DRAWS, DRAWS, "hopeless"),
        (COUNTS, DRAWS, "hopeless"),
        (COUNTS, COUNTS, "predict"),
        (DRAWS, REFUSES, "birthday"),
        (Traits(), DRAWS, "keep"),
        (replace(CONE, unsolicited=Unsolicited.RESET), CONE, "keep"),
        (replace(CONE, unsolicited=Unsolicited.RESET), replace(CONE, unsolicited=Unsolicited.RESET), "lowttl"),
        (replace(CONE, unsolicited=Unsolicited.HOST_PROHIBITED), CONE, "lowttl"),
        (replace(CONE, unsolicited=Unsolicited.HOST_PROHIBITED), PUBLIC, "keep"),
    ],
)
def test_each_kind_of_nat_has_its_strategy(one: Traits, other: Traits, name: str) -> None:
    assert choose(SideTraits(one), SideTraits(other)).name == name
    assert choose(SideTraits(other), SideTraits(one)).name == name


def test_what_is_unlikely_is_given_up_soon() -> None:
    pairs = [(one, other) for one in (CONE, REFUSES, DRAWS, COUNTS) for other in (CONE, REFUSES, DRAWS, COUNTS)]
    forlorn = {frozenset((one, other)) for one, other in pairs if choose(SideTraits(one), SideTraits(other)).give_up}
    assert forlorn == {frozenset((DRAWS, REFUSES)), frozenset((DRAWS,)), frozenset((DRAWS, COUNTS))}


def test_a_port_that_a_nat_lends_comes_first_where_dialling_is_of_no_use() -> None:
    lent = frozenset({"portmap"})
    assert choose(SideTraits(DRAWS, lent), SideTraits(DRAWS)).name == "portmap"
    assert choose(SideTraits(CONE, lent), SideTraits(CONE)).name == "keep"


def test_hosts_behind_one_address_dial_at_once() -> None:
    assert choose(SideTraits(DRAWS), SideTraits(DRAWS), neighbors=True).name == "keep"


@pytest.mark.parametrize("told", [*EVERY, COUNTS, Traits()])
def test_the_peer_reads_the_sent_traits(told: Traits) -> None:
    assert Traits.of_json(told.to_json()) == told


@pytest.mark.parametrize("value", [None, 3, [], {"mapping": 1, "port": "x", "delta": 0, "filtering": "none"}])
def test_what_makes_no_sense_is_not_known(value: object) -> None:
    assert Traits.of_json(value) == Traits()
    for text in (None, "", "{", "[]", "[" * 100_000):
        assert traits.read(text) == {}


def test_without_stun_no_trait_is_known_and_nothing_waits() -> None:
    async def test() -> None:
        async with running() as edge:
            begun = time.monotonic()
            assert await traits.measure(edge.url) == Traits()
            assert time.monotonic() - begun < traits.LIMIT_S

    asyncio.run(test())


def test_every_strategy_of_the_catalog_is_there() -> None:
    assert {name: STRATEGIES[name].__name__.lower() for name in STRATEGIES} == {name: name for name in STRATEGIES}
    assert len(STRATEGIES) == 8


def test_a_public_host_has_no_nat() -> None:
    public = Traits(False, MappingBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ENDPOINT_INDEPENDENT)
    assert public.behavior is None
    assert isinstance(CONE.behavior, NatBehavior)
