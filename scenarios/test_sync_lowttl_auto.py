"""The strategies without guesses, and `auto`, which selects a strategy."""

from __future__ import annotations

import pytest

from punchlab.lab.trial.trial import Trial
from scenarios.conftest import Punch

CONES = ("port_restricted_cone", "port_restricted_cone")


def chosen(trial: Trial) -> list[str]:
    """Return the selections that both clients report."""
    return [
        str(event["name"])
        for side in trial.sides
        for event in side.events
        if event["event"] == "strategy" and "name" in event
    ]


@pytest.mark.parametrize("skew_s", [-0.3, 0.0, 0.3])
@pytest.mark.parametrize("topology", ["ab", "cd"])
def test_lowttl_opens_a_pinhole_that_no_reset_closes(topology: str, skew_s: float, punch: Punch) -> None:
    trial = punch(topology, *CONES, strategy="lowttl", unsolicited="reset", skew_s=skew_s)
    assert trial.direct, trial
    assert trial.exchange.simultaneous_open, trial
    # A router answers where the SYN expires, but no NAT does.
    answers = [trial.exchange.answer(syn) for syn in trial.exchange.refused]
    assert {answer.origin for answer in answers if answer is not None} <= {"core1", "core2"}, trial


def test_lowttl_needs_no_delay_between_the_nats(punch: Punch) -> None:
    trial = punch("ab", *CONES, strategy="lowttl", unsolicited="reset", delay="0ms")
    assert trial.direct, trial


@pytest.mark.parametrize("topology", ["ab", "cd"])
def test_sync_makes_the_syns_cross_whenever_the_hosts_start(topology: str, punch: Punch) -> None:
    trial = punch(topology, *CONES, strategy="sync", unsolicited="reset", skew_s=0.3)
    assert trial.direct, trial
    assert trial.exchange.simultaneous_open, trial


def test_auto_connects_at_once_if_that_suffices(punch: Punch) -> None:
    trial = punch("ab", *CONES, strategy="auto")
    assert trial.direct, trial
    assert chosen(trial) == ["keep", "keep"]


def test_auto_selects_lowttl_if_early_syns_are_rejected(punch: Punch) -> None:
    trial = punch("ab", *CONES, strategy="auto", unsolicited="reset", delay="0ms")
    assert trial.direct, trial
    assert chosen(trial) == ["lowttl", "lowttl"]


def test_auto_reports_a_hopeless_pair_at_once(punch: Punch) -> None:
    trial = punch("ab", "symmetric", "symmetric", strategy="auto")
    assert trial.outcome == "hopeless", trial
    assert chosen(trial) == ["hopeless", "hopeless"]
    for side in trial.sides:
        known, failed = side.time("peer_known"), side.time("failed")
        assert known is not None
        assert failed is not None
        assert failed - known < 2


@pytest.mark.parametrize("delay", ["10ms", "80ms"])
@pytest.mark.parametrize(
    ("nats", "expected"),
    [
        (("symmetric", "port_restricted_cone"), "birthday"),
        (("sym_sequential_home", "port_restricted_cone"), "predict"),
        (("sym_sequential_home", "sym_sequential_home"), "predict"),
        (("full_cone", "port_restricted_cone"), "keep"),
    ],
)
def test_auto_selects_the_strategy_that_a_pair_of_nats_needs(
    nats: tuple[str, str], expected: str, delay: str, punch: Punch
) -> None:
    """The farther the edge, the longer the client needs to examine its NAT."""
    trial = punch("ab", *nats, strategy="auto", unsolicited="drop", delay=delay)
    assert chosen(trial) == [expected, expected], trial
    if expected != "birthday":  # which is random
        assert trial.direct, trial


def test_auto_probes_briefly_if_a_nat_rejects_probes(punch: Punch) -> None:
    trial = punch("ab", "symmetric", "port_restricted_cone", strategy="auto", unsolicited="reset", delay="80ms")
    assert chosen(trial)[0] == "birthday", trial
    assert trial.outcome in ("direct", "hopeless"), trial
