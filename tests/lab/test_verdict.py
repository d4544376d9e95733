"""What a trial is called."""

from __future__ import annotations

import pytest

from lab.exchange import Exchange
from lab.verdict import Side, judge, timings
from tests.lab.handmade import PAIR


@pytest.mark.parametrize(("statuses", "reason"), [((None, -9), "b: exit status -9"), ((-9, None), "a: exit status -9")])
def test_of_two_that_broke_the_one_that_ended_is_to_blame(statuses: tuple[int | None, int | None], reason: str) -> None:
    sides = [Side(host, [], status, "") for host, status in zip("ab", statuses, strict=True)]
    found = judge(sides, arrived=False, exchange=Exchange([], PAIR), nats=["nat_a", "nat_b"])
    assert found == ("client_error", reason)


def test_times_count_from_the_first_syn_and_from_when_both_know_each_other() -> None:
    def side(host: str, **moments: float) -> Side:
        return Side(host, [{"event": name, "t": moment} for name, moment in moments.items()], 0, "")

    one = side("a", peer_known=10.000, first_syn=10.001, connected=10.050, agreed=10.100)
    other = side("b", peer_known=10.004, first_syn=10.006, connected=10.045, agreed=10.090, done=10.5)
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
