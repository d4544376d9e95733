"""All pairs of the classic NATs, near (AB) and far (CD): which connect, and which cannot."""

from __future__ import annotations

import pytest

from punchlab.lab.nat.presets import CLASSICS
from scenarios.conftest import Punch

DEADLINE_S = 3.0
"""For pairs that cannot connect: three SYNs of each host."""

HOPELESS = {
    ("port_restricted_cone", "symmetric"),
    ("symmetric", "port_restricted_cone"),
    ("symmetric", "symmetric"),
}


@pytest.mark.parametrize("nat_b", CLASSICS)
@pytest.mark.parametrize("nat_a", CLASSICS)
@pytest.mark.parametrize("topology", ["ab", "cd"])
def test_pair(topology: str, nat_a: str, nat_b: str, punch: Punch, trials: int) -> None:
    for _ in range(trials):
        trial = punch(topology, nat_a, nat_b, deadline_s=DEADLINE_S)
        assert trial.agrees, trial
        assert trial.direct == ((nat_a, nat_b) not in HOPELESS), trial
