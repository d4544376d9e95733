"""Run a campaign: from its plan through an executor into a run folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from punchlab.lab.campaign.cells import Campaign
from punchlab.lab.campaign.execute import Executor
from punchlab.lab.campaign.plan import Plan
from punchlab.lab.campaign.results import Record, RunFolder
from punchlab.lab.inputs import numbers

Progress = Callable[[Sequence[Record], int], None]
"""Called with new records, first with the existing ones, and with the estimated total number."""

_FIRST = 3
"""Before the first trial has ended, one slot in this many is used."""


def run(
    campaign: Campaign, folder: Path, executor: Executor, *, progress: Progress, budget_s: float | None = None
) -> Sequence[Record]:
    """Run the trials that are not yet in the folder, and return all records.

    With `budget_s`, a trial starts only if it is likely to end within this number of seconds from now; started trials
    are finished. Raises `InputError`, before anything runs, for a folder that cannot be used.
    """
    if budget_s is not None:
        numbers.seconds("budget", budget_s, least=numbers.SHORTEST_BUDGET_S, most=numbers.LONGEST_BUDGET_S)
    begun, ended = time.monotonic(), 0
    end = None if budget_s is None else begun + budget_s
    with executor, contextlib.closing(RunFolder(folder, campaign.description())) as out:
        plan = Plan(campaign, out.records)
        progress(out.records, plan.expected)
        running = 0
        while True:
            while running < executor.slots:
                left = None if end is None else end - time.monotonic()
                fits = left is None or _fits(left, time.monotonic() - begun, ended, running, executor.slots)
                job = plan.next(left) if fits else None
                if job is None:
                    break
                executor.submit(job)
                running += 1
            if not running:
                return out.records
            finished = executor.next()
            running, ended = running - 1, ended + 1
            record = out.append(finished.record, finished.capture)
            plan.finished(record, finished.seconds)
            progress([record], plan.expected)


def _fits(left_s: float, elapsed_s: float, ended: int, running: int, slots: int) -> bool:
    """Return whether one more trial is likely to end in the remaining time, at the rate so far.

    Before the first trial has ended there is no rate, so most slots stay empty: on a busy machine, trials that start
    together are slow.
    """
    if not ended:
        return left_s > 0 and running < max(1, slots // _FIRST)
    return elapsed_s * (running + 1) / ended <= left_s
