"""The lab's own dial through its NATs says what the oracle says, with and without delays."""

from __future__ import annotations

import pytest

from lab import Lab, control
from lab.nat.presets import CLASSICS
from topologies import AB


@pytest.mark.parametrize("delay", ["0ms", "10ms"])
@pytest.mark.parametrize("nat_b", CLASSICS)
@pytest.mark.parametrize("nat_a", CLASSICS)
def test_a_control_dial_is_as_predicted(nat_a: str, nat_b: str, delay: str) -> None:
    # Without delay the first dial is accepted before the second is made, which then finds its four-tuple taken.
    with Lab(AB(nat_a=nat_a, nat_b=nat_b, delay=delay, edge_delay="0ms")) as lab:
        dialled = control.dial(lab, "a", "b")
    assert dialled.agrees, dialled
