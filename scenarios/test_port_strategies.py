"""Symmetric NATs that can be traversed: by port prediction, port guessing, and port mapping."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import pytest

from punchlab import Lab
from punchlab.lab.nat import presets
from punchlab.lab.trial.trial import Trial
from punchlab.punch.nat.birthday import collision
from punchlab.punch.nat.port_prediction import probability
from punchlab.topologies import AB
from scenarios.conftest import Punch
from scenarios.requirements import needs

SEQUENTIAL = "sym_sequential_home"
KEEPS_THEN_COUNTS = "cisco_ios_pat"
CONE = "port_restricted_cone"
THREE_SIGMA = 0.0027
"""The probability that a normal deviate exceeds three standard deviations."""

BACKGROUND_PER_S = 100.0
WINDOW = 64
GAP_S = 0.01
"""Longer than the interval between two measurements on a machine that is not overloaded."""

OPENED, PROBES = 256, 1024


def assert_as_probable(trials: Sequence[Trial], p: float) -> None:
    """Assert that the number of successes is within three standard deviations, computed exactly."""
    n, successes = len(trials), sum(trial.direct for trial in trials)
    below = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(successes + 1))
    above = sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(successes, n + 1))
    failed = [str(trial) for trial in trials if not trial.direct]
    assert 2 * min(below, above) >= THREE_SIGMA, (successes, n, p, failed)


@pytest.mark.parametrize("unsolicited", ["drop", "reset"])
@pytest.mark.parametrize("nats", [(SEQUENTIAL, CONE), (CONE, SEQUENTIAL)])
def test_a_sequential_port_is_predicted(nats: tuple[str, str], unsolicited: str, punch: Punch, trials: int) -> None:
    for _ in range(trials):
        trial = punch("ab", *nats, strategy="predict", unsolicited=unsolicited, deadline_s=10)
        assert trial.direct, trial


@pytest.mark.parametrize(
    "nats", [(SEQUENTIAL, SEQUENTIAL), (KEEPS_THEN_COUNTS, CONE), (CONE, KEEPS_THEN_COUNTS)], ids=",".join
)
def test_two_sequences_are_predicted_but_not_one_that_starts_only_at_a_clash(
    nats: tuple[str, str], punch: Punch, trials: int
) -> None:
    for _ in range(trials):
        trial = punch("ab", *nats, strategy="predict", unsolicited="drop")
        assert trial.direct, trial


def test_ports_are_predicted_as_often_as_the_model_says_under_background_traffic(punch: Punch, trials: int) -> None:
    done = [
        punch("ab", SEQUENTIAL, CONE, strategy="predict", unsolicited="drop", background=BACKGROUND_PER_S)
        for _ in range(max(10, trials))
    ]
    assert_as_probable(done, probability(WINDOW, BACKGROUND_PER_S, GAP_S))


def test_random_probes_hit_a_port_as_often_as_the_model_says(punch: Punch, trials: int) -> None:
    done = [
        punch("ab", "symmetric", CONE, strategy="birthday", unsolicited="drop", deadline_s=10)
        for _ in range(max(6, trials))
    ]
    assert_as_probable(done, collision(OPENED, PROBES))


def test_the_host_behind_random_ports_can_send_or_receive(punch: Punch, trials: int) -> None:
    done = [
        punch("ab", CONE, "symmetric", strategy="birthday", unsolicited="drop", deadline_s=10)
        for _ in range(max(3, trials))
    ]
    assert_as_probable(done, collision(OPENED, PROBES))


@needs("miniupnpd", None, "apt-get install miniupnpd-nftables")
@pytest.mark.parametrize("spoken", ["upnp-igd", "pcp"])
@pytest.mark.parametrize("asking", ["nat_a", "nat_b"])
def test_two_symmetric_nats_are_traversed_if_one_supports_port_mapping(asking: str, spoken: str, trials: int) -> None:
    nats = {"nat_a": presets.behavior("symmetric"), "nat_b": presets.behavior("symmetric")}
    nats[asking] = presets.behavior("symmetric", port_mapping=spoken)
    for _ in range(trials):
        with Lab(AB(**nats)) as lab:
            trial = lab.punch("a", "b", strategy="portmap")
        assert trial.direct, trial
        mapped = trial.sides[["nat_a", "nat_b"].index(asking)].last("port_mapped")
        assert mapped is not None
        winner = trial.exchange.winner
        assert winner is not None
        assert mapped["external"] in {hop.destination for hop in winner.way} | {hop.source for hop in winner.way}


@pytest.mark.parametrize("nats", [(SEQUENTIAL, CONE), (CONE, "symmetric")])
def test_auto_uses_these_strategies_if_they_help(nats: tuple[str, str], punch: Punch, trials: int) -> None:
    chance = 1.0 if SEQUENTIAL in nats else collision(OPENED, PROBES)
    done = [punch("ab", *nats, strategy="auto", unsolicited="drop", deadline_s=10) for _ in range(max(3, trials))]
    assert_as_probable(done, chance)


@pytest.mark.parametrize("strategy", ["predict", "birthday", "portmap"])
@pytest.mark.parametrize("nats", [(CONE, CONE), ("full_cone", "symmetric")])
def test_if_they_cannot_help_they_behave_like_reuse(nats: tuple[str, str], strategy: str, punch: Punch) -> None:
    trial = punch("ab", *nats, strategy=strategy)
    assert trial.direct, trial
