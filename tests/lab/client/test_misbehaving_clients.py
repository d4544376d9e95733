"""A campaign of misbehaving clients ends with a verdict on each, leaves nothing behind, and has limited memory."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from punchlab.lab.campaign.cells import Cell, Job
from punchlab.lab.campaign.execute import run_job
from punchlab.lab.client.contract import Speaker
from punchlab.lab.client.description import Client
from punchlab.lab.client.output import Output
from punchlab.lab.confinement import sandbox
from punchlab.lab.confinement.pidspace import MOST_PROCESSES
from punchlab.lab.trial import trial, verdict
from punchlab.lab.trial.options import TrialOptions
from punchlab.reports.results import read_run
from punchlab.topologies import AB
from tests.commands import run
from tests.lab.client.misbehaving import CLIENTS, cells, odd_events
from tests.lab.client.odd_events import RECEIVED, STARTED, Case

EDGE = ("sh", "-c", """echo '{{"event": "listening"}}'; exec sleep 1000""")
PATIENCE_S = 600
PEAK_MIB = 300
"""A worker uses 100 MiB before its first trial, and the events of three commands use at most 48 MiB each."""


def expected(case: Case, name: str, record: Mapping[str, Any]) -> tuple[str, str]:
    """Return the outcome and the reason of a client that prints this and then fails with exit status 1."""
    output = Output(Speaker(name, case.role, "edge1"), STARTED)
    output.take(case.line + b"\n", RECEIVED)
    host = "b" if case.role == "receiver" else "a"
    if output.error is None and (failed := output.first("failed")) is not None and case.role != "edge":
        return failed["outcome"], record["reason"]
    return "client_error", output.error or f"{host}: exit status 1"


def test_a_campaign_of_misbehaving_clients_ends_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-m", "tests.lab.client.misbehaving", str(out)]
    done = run(sandbox.command_inside(words), timeout=PATIENCE_S)
    assert done.returncode == 0, done
    figures = json.loads(done.stdout)
    records = {record["client"]: record for record in map(json.loads, (out / "results.jsonl").read_text().splitlines())}
    assert figures["trials"] == len(list(cells())) == len(records)
    assert figures["files"] == figures["processes"] == []
    assert figures["peak_mib"] < PEAK_MIB

    for record in records.values():
        assert record["reason"].isprintable()
        assert len(json.dumps(record)) < 10_000
        assert (out / record["capture"]).stat().st_size
    wrong = {
        name: (records[name]["outcome"], records[name]["reason"])
        for name, hostile in CLIENTS.items()
        if records[name]["outcome"] != hostile.outcome or hostile.reason not in records[name]["reason"]
    }
    assert wrong == {}
    for name, case in odd_events():
        record = records[name]
        assert (record["outcome"], record["reason"]) == expected(case, name, record), name

    assert len(read_run(out).trials) == len(records)  # the input of reports


def test_a_mistake_in_the_lab_costs_one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(*_sides: object, **_evidence: object) -> None:
        raise ZeroDivisionError("x" * 10_000)

    monkeypatch.setattr(verdict, "judge", judge)
    record = run_job(Job(next(cells()), 1, "auto", 0)).record
    assert record["outcome"] == "lab_error"
    assert record["reason"].startswith("ZeroDivisionError at test_misbehaving_clients.py:")
    assert len(record["reason"]) < 3000


def test_a_client_that_sends_more_than_can_be_recorded_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "RECORDING_BYTES", 1000)
    cell = Cell("ab", AB, ("a", "b"), ("full_cone", "full_cone"), options=TrialOptions(file_size=1))
    record = run_job(Job(cell, 1, "auto", 0)).record
    assert (record["outcome"], record["agrees"]) == ("client_error", None)
    assert record["reason"] == "client punch: the recorded packets exceed 0 MiB of memory"


@pytest.mark.skipif(
    tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2]) < (6, 14),
    reason="before Linux 6.14 a PID namespace has no limit of its own",
)
def test_the_process_limit_of_a_client_does_not_affect_the_machine() -> None:
    limit = Path("/proc/sys/kernel/pid_max")
    before = limit.read_text()
    script = """
import os, sys, time
for number in range(10_000):
    try:
        if os.fork() == 0:
            time.sleep(1000)
    except BlockingIOError:
        sys.exit(f"{{number}} processes")
"""
    client = Client("many", EDGE, ("{python}", "-c", script), ("true",), ("x",), tells_code=False)
    cell = Cell("ab", AB, ("a", "b"), ("full_cone", "full_cone"), options=TrialOptions(client=client, strategy="x"))
    reason = run_job(Job(cell, 1, "auto", 0)).record["reason"]
    assert MOST_PROCESSES / 2 < int(reason.removeprefix("a: ").removesuffix(" processes")) < MOST_PROCESSES
    assert limit.read_text() == before
