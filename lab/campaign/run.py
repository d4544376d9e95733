"""A campaign from its plan through an executor into a run folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.campaign.cells import Campaign
from lab.campaign.execute import Executor
from lab.campaign.plan import Plan
from lab.errors import InputError
from lab.results import Record, RunFolder

Progress = Callable[[Sequence[Record], int], None]
"""Told the records that are new, first those that were there already, and how many there will be (a guess)."""


def run(
    campaign: Campaign, folder: Path, executor: Executor, *, progress: Progress, budget_s: float | None = None
) -> Sequence[Record]:
    """Run what is not yet in the folder, and return all records.

    With `budget_s` no trial is started that is not likely to end within so many seconds from now. Raises `InputError`
    before anything runs, for a folder that cannot be used.
    """
    if budget_s is not None and budget_s <= 0:
        raise InputError("budget", budget_s, "a duration above 0")
    end = None if budget_s is None else time.monotonic() + budget_s
    with executor, contextlib.closing(RunFolder(folder, campaign.description())) as out:
        plan = Plan(campaign, out.records)
        progress(out.records, plan.expected)
        running = 0
        while True:
            while running < executor.slots:
                left = None if end is None else end - time.monotonic()
                job = plan.next(left) if left is None or left > 0 else None
                if job is None:
                    break
                executor.submit(job)
                running += 1
            if not running:
                return out.records
            finished = executor.next()
            running -= 1
            record = out.append(finished.record, finished.capture)
            plan.finished(record, finished.seconds)
            progress([record], plan.expected)
