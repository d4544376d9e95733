"""The outcome prediction agrees with the kernel in cells in which a rule determines the outcome."""

from __future__ import annotations

import itertools

import pytest

from punchlab.lab.campaign.exact import p_value
from punchlab.lab.nat import presets
from punchlab.lab.oracle.outcome import Outcome
from punchlab.punch.nat.behavior import (
    FilteringBehavior,
    IcmpErrors,
    MappingBehavior,
    NatBehavior,
    PortAllocation,
    Unsolicited,
)
from tests.lab.nat.dials import LATE_S, Cell, Dialled, dial_cells

ANSWERS = [Unsolicited.DROP, Unsolicited.RESET, Unsolicited.PORT_UNREACHABLE]
CONE = MappingBehavior.ENDPOINT_INDEPENDENT, FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT, PortAllocation.PRESERVING
IMPROBABLE = 1e-6
DIALS = 20
"""The number of attempts in each cell, started one after the other, so that a short pause of the machine does not
affect all.
"""

pytestmark = pytest.mark.alone


def cone(
    answer: Unsolicited, filtering: FilteringBehavior = FilteringBehavior.ADDRESS_AND_PORT_DEPENDENT
) -> NatBehavior:
    return NatBehavior(MappingBehavior.ENDPOINT_INDEPENDENT, filtering, PortAllocation.PRESERVING, answer)


@pytest.mark.usefixtures("many_sockets")
def test_rejections_decide_if_syns_do_not_cross() -> None:
    # The later SYN arrives a third of a second after the rejection: smaller delays of links do not matter.
    cells = [
        Cell(cone(early, filtering), cone(late), delay_ms=10, skew_ms=360)
        for filtering, early, late in itertools.product(FilteringBehavior, ANSWERS, ANSWERS)
    ]
    for result in dial_cells(cells):
        assert result.cell.prediction.outcome is not Outcome.DEPENDS
        assert result.cell.prediction.agrees(result.direct == 1), result


def within_the_pause(dialled: Dialled, delay_s: float) -> bool:
    """Return whether the second host's SYN arrived between the first host's error and next attempt, as they really
    happened.

    A process that is not scheduled sends late, and its SYN may miss the pause.
    """
    first, second = dialled.moments_s
    return first[0] + 2 * delay_s + LATE_S < second[0] + delay_s < first[1] - LATE_S


@pytest.mark.usefixtures("many_sockets")
def test_an_icmp_error_leaves_a_pinhole_that_does_not_help() -> None:
    """Further attempts do not help: the peer's SYN finds no active attempt behind the pinhole, and the hosts stay in
    this state.
    """
    rejecting = [cone(answer) for answer in (Unsolicited.PORT_UNREACHABLE, Unsolicited.ADMIN_PROHIBITED)]
    # The error arrives after 40 ms, the next attempt starts at least 50 ms later, and the peer's SYN arrives between.
    cells = [Cell(nat, nat, delay_ms=20, skew_ms=45, attempts=None) for nat in rejecting]
    for result in dial_cells(cells, DIALS):
        assert result.cell.prediction.outcome is Outcome.FAILS
        assert not [dialled for dialled in result.dials if result.contradicts(dialled)], result
        trapped = [dialled for dialled in result.dials if within_the_pause(dialled, result.cell.dial.delay_s)]
        assert len(trapped) >= DIALS // 4, "this machine is too busy: the SYNs did not arrive when they were meant to"
        assert not [dialled for dialled in trapped if dialled.direct], result
    # If the error is swallowed, no attempt ends.
    swallowing = NatBehavior(*CONE, Unsolicited.PORT_UNREACHABLE, icmp_errors=IcmpErrors.SWALLOWED)
    (result,) = dial_cells([Cell(swallowing, swallowing, delay_ms=20, skew_ms=65)], 10)
    assert result.direct == 10, result


@pytest.mark.usefixtures("many_sockets")
@pytest.mark.parametrize(
    ("one", "other"), [("port_restricted_cone", "port_restricted_cone"), ("symmetric", "full_cone")]
)
def test_losses_prevent_as_many_connections_as_predicted(one: str, other: str) -> None:
    a, b = presets.behavior(one), presets.behavior(other)
    (result,) = dial_cells([Cell(a, b, delay_ms=20, skew_ms=0, loss=10, deadline_s=1.6)], 60)
    prediction = result.cell.prediction
    assert prediction.outcome is Outcome.DEPENDS
    assert p_value(result.direct, [prediction.probability] * 60) > IMPROBABLE, (result.direct, prediction)
