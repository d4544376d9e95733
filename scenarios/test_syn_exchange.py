"""What happens to the SYNs themselves, asserted from the capture."""

from __future__ import annotations

import pytest

from scenarios.conftest import Punch

CONES = ("port_restricted_cone", "port_restricted_cone")
TOLERANCE_S = 0.025
"""Between the skew that was asked for and the one that was measured, on a busy machine."""


def test_syns_that_cross_open_the_connection_from_both_ends(punch: Punch, trials: int) -> None:
    for _ in range(trials):
        trial = punch("ab", *CONES, unsolicited="reset", delay="100ms", max_attempts=1, skew_s=0.03)
        assert trial.exchange.skew_s == pytest.approx(0.03, abs=TOLERANCE_S)
        assert trial.direct, trial
        assert trial.exchange.crossed, trial
        assert trial.exchange.simultaneous_open, trial
        assert trial.exchange.refused == (), trial


def test_a_syn_that_comes_too_early_is_reset_and_shuts_its_own_door(punch: Punch, trials: int) -> None:
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


def test_a_dropped_syn_only_has_to_be_followed_by_the_other_hosts(punch: Punch) -> None:
    trial = punch("ab", *CONES, unsolicited="drop", delay="0ms", max_attempts=1, skew_s=0.05)
    assert trial.direct, trial
    assert [syn.origin for syn in trial.exchange.dropped] == ["a"], trial
    assert trial.exchange.dropped_at(trial.exchange.dropped[0]) == "nat_b", trial
    assert trial.exchange.skew_s is not None
    assert trial.timings_s["connected"] >= trial.exchange.skew_s


def test_with_resets_a_client_that_dials_again_meets_its_peer(punch: Punch) -> None:
    trial = punch("ab", *CONES, unsolicited="reset", delay="20ms", skew_s=0.03)
    assert trial.direct, trial
    assert trial.exchange.refused, trial
