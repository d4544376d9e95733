"""A trial that only waits for its deadline frees its slot, except with one job at a time."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from tests.commands import punchlab, run

DEADLINE_S = 8


def starts(out: Path, jobs: int, trials: int) -> list[float]:
    """Run trials that fail; return the seconds from the first start to each start."""
    words = ["run", "ab", "--nat-a", "symmetric", "--nat-b", "symmetric", "--delay", "0ms", "--out", str(out)]
    words += ["--jobs", str(jobs), "--trials", str(trials), "--deadline", str(DEADLINE_S)]
    done = run(punchlab(*words))
    assert done.returncode == 0, done
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {record["outcome"] for record in records} == {"punch_timeout"}
    instants = sorted(datetime.datetime.fromisoformat(record["started"]) for record in records)
    return [(instant - instants[0]).total_seconds() for instant in instants]


def test_waiting_trials_free_their_slots(tmp_path: Path) -> None:
    assert starts(tmp_path / "run", jobs=2, trials=5)[-1] < DEADLINE_S


def test_one_job_is_one_trial_at_a_time(tmp_path: Path) -> None:
    assert starts(tmp_path / "run", jobs=1, trials=2)[-1] >= DEADLINE_S
