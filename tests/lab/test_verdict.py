"""What a trial is called."""

from __future__ import annotations

import pytest

from lab.exchange import Exchange
from lab.verdict import Side, judge
from tests.lab.handmade import PAIR


@pytest.mark.parametrize(("statuses", "reason"), [((None, -9), "b: exit status -9"), ((-9, None), "a: exit status -9")])
def test_of_two_that_broke_the_one_that_ended_is_to_blame(statuses: tuple[int | None, int | None], reason: str) -> None:
    sides = [Side(host, [], status, "") for host, status in zip("ab", statuses, strict=True)]
    found = judge(sides, arrived=False, exchange=Exchange([], PAIR), nats=["nat_a", "nat_b"])
    assert found == ("client_error", reason)
