"""The lab's control attempt agrees with its prediction, with and without delays."""

from __future__ import annotations

import pytest

from punchlab import Lab
from punchlab.lab.nat.presets import CLASSICS
from punchlab.lab.trial import control
from punchlab.topologies import AB


@pytest.mark.parametrize("delay", ["0ms", "10ms"])
@pytest.mark.parametrize("nat_b", CLASSICS)
@pytest.mark.parametrize("nat_a", CLASSICS)
def test_a_control_attempt_agrees_with_its_prediction(nat_a: str, nat_b: str, delay: str) -> None:
    # Without delay, the first attempt is accepted before the second starts, which then finds its four-tuple in use.
    with Lab(AB(nat_a=nat_a, nat_b=nat_b, delay=delay, edge_delay="0ms")) as lab:
        dialled = control.attempt(lab, "a", "b")
    assert dialled.agrees, dialled


@pytest.mark.parametrize("code", ["host-prohibited", "port-unreachable", "admin-prohibited"])
def test_an_icmp_error_on_a_path_without_delay_is_no_disagreement(code: str) -> None:
    nats = {"nat_a": "port_restricted_cone", "nat_b": "port_restricted_cone", "unsolicited": code}
    with Lab(AB(**nats, delay="0ms", edge_delay="0ms")) as lab:
        assert control.attempt(lab, "a", "b").agrees is not False
