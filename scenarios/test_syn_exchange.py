"""The SYN exchange as the capture shows it."""

from __future__ import annotations

import pytest

from scenarios.conftest import Punch

CONES = ("port_restricted_cone", "port_restricted_cone")
TOLERANCE_S = 0.025
"""Between the requested and the measured skew on a busy machine."""


def test_crossing_syns_are_a_simultaneous_open(punch: Punch, trials: int) -> None:
    for _ in range(trials):
        trial = punch("ab", *CONES, unsolicited="reset", delay="100ms", max_attempts=1, skew_s=0.03)
        assert trial.exchange.skew_s == pytest.approx(0.03, abs=TOLERANCE_S)
        assert trial.direct, trial
        assert trial.exchange.crossed, trial
        assert trial.exchange.simultaneous_open, trial
        assert trial.exchange.refused == (), trial


def test_an_early_syn_is_reset_which_closes_its_own_pinhole(punch: Punch, trials: int) -> None:
    for _ in range(trials):
        trial = punch("ab", *CONES, unsolicited="reset", delay="0ms", max_attempts=1, skew_s=0.05)
        assert trial.exchange.skew_s == pytest.approx(0.05, abs=TOLERANCE_S)
        assert trial.outcome == "refused", trial
        assert not trial.exchange.crossed, trial
        refused = trial.exchange.refused
        assert [syn.origin for syn in refused] == ["a", "b"], trial
        answers = [trial.exchange.answer(syn) for syn in refused]
        assert [answer.origin for answer in answers if answer is not None] == ["nat_b", "nat_a"], trial
        assert trial.agrees, trial


def test_after_a_dropped_syn_the_other_hosts_syn_is_admitted(punch: Punch) -> None:
    trial = punch("ab", *CONES, unsolicited="drop", delay="0ms", max_attempts=1, skew_s=0.05)
    assert trial.direct, trial
    assert [syn.origin for syn in trial.exchange.dropped] == ["a"], trial
    assert trial.exchange.dropped_at(trial.exchange.dropped[0]) == "nat_b", trial
    assert trial.exchange.skew_s is not None
    assert trial.timings_s["connected"] >= trial.exchange.skew_s


def test_with_resets_a_client_connects_by_repeated_attempts(punch: Punch) -> None:
    trial = punch("ab", *CONES, unsolicited="reset", delay="20ms", skew_s=0.03)
    assert trial.direct, trial
    assert trial.exchange.refused, trial
