"""Measure trials per second and CPU time per trial, and compare outcomes with those of sequential trials."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_SKEWS_MS = (5.0, 20.0)
_SKEW_TOLERANCE_S = 0.001
_UNDECIDED = "depends"


def campaign(trials: int, delay: str, tell: Callable[[str], None], *options: str) -> dict[str, Any]:
    """Run `trials` trials of each of the 25 pairs of the default matrix on AB, with captures."""
    began, cpu, idle = time.monotonic(), _cpu_s(), _idle_s()
    records = run("--delay", delay, "--trials", str(trials), *options)
    taken, cpu, idle = time.monotonic() - began, _cpu_s() - cpu, _idle_s() - idle
    broken = sum(each["outcome"] == "lab_error" for each in records)
    first, last = min(each["started"] for each in records), max(each["started"] for each in records)
    found = {
        "trials": len(records),
        "seconds": taken,
        "per_second": len(records) / taken,
        "cpu_s_per_trial": cpu / len(records),
        "cores": os.cpu_count(),
        "machine_busy": 1 - idle / (taken * (os.cpu_count() or 1)),
        "started": [first, last],
        "capture_drops": sum(each.get("capture_drops", 0) for each in records),
        "lab_errors": broken,
        "disagreements": sum(each["agrees"] is False for each in records),
        "outcomes": outcomes(records),
    }
    tell(
        f"{found['trials']} trials, {delay}: {found['per_second']:.1f} per second, "
        f"{found['cpu_s_per_trial']:.3f} CPU s each (machine busy {found['machine_busy']:.0%}), "
        f"{found['capture_drops']} packets lost by captures, {found['disagreements']} disagreements, "
        f"{broken} lab errors"
    )
    return found


def run(*words: str) -> list[dict[str, Any]]:
    """Return the records of `punchlab run ab WORDS`, including lab errors. Raises `RuntimeError` without any."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/run") as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-P", "-m", "punchlab.lab.cli", "run", "ab", "--out", str(out), *words]
        # It prints its progress to our standard error. Status 1: some records are lab errors.
        status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
        if status not in (0, 1):
            raise RuntimeError(f"punchlab run: exit status {status}, see above")
        try:
            lines = (out / "results.jsonl").read_text().splitlines()
        except FileNotFoundError:
            lines = []
        records = [json.loads(line) for line in lines]
        if all(each["outcome"] == "lab_error" for each in records):
            raise RuntimeError(f"punchlab run: all {len(records)} trials are lab errors, see above")
        return records


def outcomes(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return pair of NATs -> outcome -> count, for trials with a certain prediction."""
    counted: dict[str, Counter[str]] = {}
    for record in records:
        if record["outcome"] != "lab_error" and record["outcome_prediction"]["outcome"] != _UNDECIDED:
            counted.setdefault(f"{record['nat_a']}, {record['nat_b']}", Counter())[record["outcome"]] += 1
    return {pair: dict(counter) for pair, counter in sorted(counted.items())}


def same_outcomes(one: Mapping[str, Mapping[str, int]], other: Mapping[str, Mapping[str, int]]) -> bool:
    """Return whether each pair had the same kinds of outcomes."""
    return {pair: set(found) for pair, found in one.items()} == {pair: set(found) for pair, found in other.items()}


def skew(trials: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the difference between the measured and the configured start skew, one trial at a time."""
    words = ("--nat-a", "port_restricted_cone", "--nat-b", "port_restricted_cone", "--jobs", "1", "--delay", "0ms")
    errors = [
        record["skew_s"] - wanted / 1000
        for wanted in _SKEWS_MS
        for record in run(*words, "--skew-ms", str(wanted), "--trials", str(trials))
        if record.get("skew_s") is not None
    ]
    within = sum(abs(error) <= _SKEW_TOLERANCE_S for error in errors) / len(errors)
    tell(
        f"start skew: within 1 ms in {within:.0%} of {len(errors)} trials, "
        f"{statistics.median(errors) * 1e6:.0f} us median error"
    )
    return {"errors_s": errors, "within_1_ms": within}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _idle_s() -> float:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
