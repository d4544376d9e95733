"""The outcome of a trial."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from punchlab.lab.exchange import Exchange
from punchlab.lab.trial.verdict import ClientRun, judge, timings
from tests.lab.exchange.handmade import PAIR
from tests.lab.exchange.story import OUT_A, OUT_B, B, Story


def side(host: str, status: int | None, outcome: str | None = None, t: float = 1.0, **more: Any) -> ClientRun:
    """Return the run of a client with this exit status. With an `outcome`, it reported that at `t`."""
    events: list[dict[str, Any]] = [{"event": name, "t": moment} for name, moment in more.pop("seen", {}).items()]
    if outcome is not None:
        events.append({"event": "failed", "t": t, "outcome": outcome, "reason": f"{host} says {outcome}"})
    return ClientRun(host, events, status, more.pop("errors", ""), **more)


def outcome_of(one: ClientRun, other: ClientRun, exchange: Exchange | None = None) -> tuple[str, str | None]:
    found = judge([one, other], arrived=False, exchange=exchange or Exchange([], PAIR), nats=["nat_a", "nat_b"])
    mirrored = judge([other, one], arrived=False, exchange=exchange or Exchange([], PAIR), nats=["nat_a", "nat_b"])
    assert found == mirrored, "the outcome depends on which host is the sender"
    return found


@pytest.mark.parametrize(("statuses", "reason"), [((None, -9), "b: exit status -9"), ((-9, None), "a: exit status -9")])
def test_of_two_failed_clients_the_exited_one_is_the_cause(
    statuses: tuple[int | None, int | None], reason: str
) -> None:
    a, b = (side(host, status) for host, status in zip("ab", statuses, strict=True))
    assert outcome_of(a, b) == ("client_error", reason)


@pytest.mark.parametrize(
    "outcome", ["no_rendezvous", "punch_timeout", "refused", "hopeless", "wrong_peer", "client_error"]
)
def test_a_client_that_still_waits_is_not_the_cause(outcome: str) -> None:
    assert outcome_of(side("a", None), side("b", 1, outcome)) == (outcome, f"b: b says {outcome}")


def test_wrong_peer_takes_precedence_over_other_outcomes() -> None:
    for other in ("no_rendezvous", "punch_timeout", "refused", "hopeless", "client_error"):
        assert outcome_of(side("a", 1, other, t=1), side("b", 1, "wrong_peer", t=2))[0] == "wrong_peer"


@pytest.mark.parametrize("answered", [True, False])
def test_the_capture_decides_between_refused_and_timeout(answered: bool) -> None:
    story = Story()
    story.tcp(0, "S", 100, until=4)
    if answered:
        story.tcp(30, "RA", 0, 101, forth=False, source=(B, OUT_B, OUT_B), destination=(OUT_A, OUT_A, OUT_A), after=2)
    exchange = story.told()
    assert bool(exchange.refused) is answered
    found, _reason = outcome_of(side("a", 1, "refused"), side("b", 1, "punch_timeout"), exchange)
    assert found == ("refused" if answered else "punch_timeout")


@pytest.mark.parametrize("other", ["punch_timeout", "refused", "hopeless"])
def test_without_a_rendezvous_there_is_no_punch(other: str) -> None:
    assert outcome_of(side("a", 1, "no_rendezvous", t=9), side("b", 1, other, t=5))[0] == "no_rendezvous"


def test_a_client_that_knew_its_peer_had_a_rendezvous() -> None:
    known = side("a", 1, "no_rendezvous", t=9, seen={"peer_known": 2.0})
    assert outcome_of(known, side("b", 1, "punch_timeout", t=5))[0] == "punch_timeout"


def test_a_client_that_failed_because_of_its_peer_is_not_the_cause() -> None:
    late = side("b", 1, "client_error", t=3)
    assert outcome_of(side("a", 1, "no_rendezvous", t=2), late)[0] == "no_rendezvous"
    assert outcome_of(side("a", 1, "refused", t=4), late)[0] == "client_error"
    assert outcome_of(side("a", 1, "refused", t=4), side("b", -11, ended_s=4.5))[0] == "refused"


def test_a_crash_is_the_cause_if_its_time_is_not_known() -> None:
    for outcome in ("no_rendezvous", "punch_timeout", "refused", "hopeless"):
        assert outcome_of(side("a", 1, outcome), side("b", -11))[0] == "client_error"


def test_a_contract_violation_takes_precedence() -> None:
    for status, outcome in itertools.product((0, 1, None), ("refused", "wrong_peer")):
        found = outcome_of(side("a", 1, outcome), side("b", status, broken="event 'agreed': local: 1"))
        assert found == ("client_error", "event 'agreed': local: 1")


def test_the_last_line_of_standard_error_is_the_reason_of_a_crash() -> None:
    found = outcome_of(side("a", 0), side("b", 1, errors="Traceback\nKeyError: 'x'"))
    assert found == ("client_error", "b: KeyError: 'x'")


def test_durations_start_at_the_first_syn_and_when_both_know_each_other() -> None:
    def at(host: str, **moments: float) -> ClientRun:
        return side(host, 0, seen=moments)

    one = at("a", peer_known=10.000, first_syn=10.001, connected=10.050, agreed=10.100)
    other = at("b", peer_known=10.004, first_syn=10.006, connected=10.045, agreed=10.090, done=10.5)
    assert timings([one, other], 9.0) == pytest.approx(
        {
            "rendezvous": 1.004,
            "first_syn": 0.002,
            "connected": 0.049,
            "agreed": 0.099,
            "known_to_connected": 0.046,
            "known_to_agreed": 0.096,
        }
    )


@pytest.mark.parametrize(("sent", "outcome"), [(0, "client_error"), (500, "direct")])
def test_an_unfinished_transfer_is_direct_only_if_bytes_passed_directly(sent: int, outcome: str) -> None:
    story = Story()
    story.handshake(0)
    story.tcp(60, "FA", 101 + sent, 5101)
    agreed = [{"event": "agreed", "t": 1.0, "local": "192.168.1.2:41000", "remote": OUT_B}]
    sides = [ClientRun(host, agreed, None, "") for host in "ab"]
    found, _reason = judge(sides, arrived=False, exchange=story.told(), nats=["nat_a", "nat_b"], file_size=1000)
    assert found == outcome
