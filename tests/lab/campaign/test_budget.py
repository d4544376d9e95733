"""Budgets: a campaign starts only trials that probably end in time, also on a busy machine."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from punchlab.lab.campaign import Campaign, Cell, Finished, Job, run
from punchlab.lab.errors import InputError
from punchlab.topologies import AB


class Busy:
    """An executor that runs jobs sequentially, but offers several slots, so concurrent jobs take longer."""

    slots = 12

    def __init__(self, each_s: float) -> None:
        self._each_s = each_s
        self._jobs: deque[Job] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def next(self) -> Finished:
        job = self._jobs.popleft()
        until = time.monotonic() + self._each_s
        while time.monotonic() < until:
            pass
        record = {"id": job.id, "nat_a": "", "nat_b": "", "outcome": "direct", "reason": None, "agrees": True}
        return Finished(record, None, self._each_s)


CAMPAIGN = Campaign([Cell("ab", AB, ("a", "b"), ("none", "none"))], trials=1000)


@pytest.mark.parametrize("each_s", [0.02, 0.05, 0.1])
def test_slots_that_share_a_busy_machine_overrun_by_little(tmp_path: Path, each_s: float) -> None:
    begun = time.monotonic()
    records = run(CAMPAIGN, tmp_path / "out", Busy(each_s), progress=lambda *_: None, budget_s=0.6)
    taken_s = time.monotonic() - begun
    assert len(records) >= 3
    assert taken_s < 0.6 + 4 * each_s + 0.3  # 12 if all slots were used until the end


@pytest.mark.parametrize("budget_s", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_budget_that_is_none_runs_nothing(tmp_path: Path, budget_s: float) -> None:
    with pytest.raises(InputError, match=r"^budget: .*a number of seconds from 0.001"):
        run(CAMPAIGN, tmp_path / "out", Busy(0.01), progress=lambda *_: None, budget_s=budget_s)
    assert not (tmp_path / "out").exists()
