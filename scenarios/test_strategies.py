"""Strategies with random outcomes, compared with the model: successes are within three standard deviations.

(For few trials with probabilities near 0 or 1, that interval is too narrow; so the exact probability is used.)

`--trials N` is the number of each. The acceptance criteria of the project need `--trials 200`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

import pytest

from punchlab.lab.campaign.exact import p_value
from punchlab.lab.client.description import PUNCH
from punchlab.lab.trial.trial import Trial
from scenarios.conftest import Punch

SEQUENTIAL, RANDOM, STRICT = "sym_sequential_home", "symmetric", "port_restricted_cone"
DEADLINE_S = 15.0
THREE_SIGMAS = 0.0027
"""The probability of a larger deviation."""


def offered(*names: str) -> list[str]:
    """Return those of the strategies that the client has."""
    return [name for name in names if name in PUNCH.strategies]


@pytest.mark.parametrize("strategy", offered("reuse", "keep", "sync", "lowttl", "auto"))
def test_port_restricted_cones_that_drop_always_connect(strategy: str, punch: Punch) -> None:
    trial = punch("ab", STRICT, STRICT, unsolicited="drop", delay="20ms", strategy=strategy)
    assert trial.direct, trial
    assert trial.agrees, trial


@pytest.mark.parametrize("background", [0.0, 100.0])
@pytest.mark.parametrize("nats", [(SEQUENTIAL, STRICT), (STRICT, SEQUENTIAL)])
@pytest.mark.parametrize("strategy", offered("predict"))
def test_sequential_ports_are_predicted(
    strategy: str, nats: tuple[str, str], background: float, punch: Punch, trials: int
) -> None:
    made = [
        punch(
            "ab", *nats, unsolicited="drop", delay="20ms", strategy=strategy, background=background,
            deadline_s=DEADLINE_S,
        )
        for _ in range(trials)
    ]  # fmt: skip
    as_predicted(made)


@pytest.mark.parametrize("strategy", offered("birthday"))
def test_one_of_many_probes_hits_one_of_many_ports(strategy: str, punch: Punch, trials: int) -> None:
    made = [
        punch("ab", RANDOM, STRICT, unsolicited="drop", delay="20ms", strategy=strategy, deadline_s=DEADLINE_S)
        for _ in range(trials)
    ]
    as_predicted(made)


def as_predicted(made: Sequence[Trial]) -> None:
    """Assert that the number of successes is within 3 sigma of the sum of the predictions, and that certain ones
    agree.
    """
    wrong = [trial for trial in made if trial.agrees is False]
    assert not wrong, wrong[0]
    chances = [trial.prediction.probability for trial in made]
    direct = sum(trial.direct for trial in made)
    if p_value(direct, chances) < THREE_SIGMAS:
        failed = next((trial for trial in made if not trial.direct), made[0])
        pytest.fail(f"{direct} of {len(made)} direct, predicted {fsum(chances):.2f}\n{failed}")
