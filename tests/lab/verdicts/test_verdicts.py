"""The lab's verdict on clients of other people, honest or not, against a byte count of tshark in another capture.

A sample runs by default. `PUNCHLAB_VERDICTS=300` runs that many trials, and prints them as a table.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab.client import Client
from lab.lab import Lab
from lab.trial import Trial
from tests.commands import ROOT
from tests.lab.verdicts.capture import Wiretap
from tests.lab.verdicts.count import Counts, count
from tests.lab.verdicts.expected import Facts, must_not_agree, outcomes
from tests.lab.verdicts.generate import SAMPLE, Case, cases
from tests.lab.verdicts.plan import Plan
from tests.lab.verdicts.worlds import places, topology

_CASES = cases(int(os.environ.get("PUNCHLAB_VERDICTS", str(SAMPLE))), int(os.environ.get("PUNCHLAB_SEED", "0")))
_OVERTIME_S = 15.0
_TOY = ("env", f"PYTHONPATH={ROOT}", "{python}", "-S", "-m", "tests.lab.verdicts.toy")
_FAST_OPEN = "net.ipv4.tcp_fastopen=519"
"""Client and server, neither with a cookie: data in the first SYN already."""


def toy(plan: Plan, log: Path) -> Client:
    """The toy with that plan."""
    words = ("code={code}", "edge={edge}", "deadline={deadline_s}", f"plan={plan}", f"log={log}")
    return Client(
        name="toy",
        edge=(*_TOY, "edge", "{listen}"),
        sender=(*_TOY, "send", "file={file}", *words),
        receiver=(*_TOY, "receive", "file={directory}", *words),
        strategies=("toy",),
        tells_code=False,
    )


def run(case: Case, folder: Path) -> tuple[Trial, Counts, float]:
    """The trial, what tshark counted meanwhile, and how long it took."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(topology(case)))
        plan = case.plan
        if plan.path == "third":
            plan = _with_third_host(plan, lab)
        if plan.fast:
            for host in "ab":
                lab[host].run(["sysctl", "-qw", _FAST_OPEN])
        where = places(lab)
        with Wiretap(lab, ["a", "b", *dict.fromkeys(where.nats.values())], folder) as wiretap:
            begun = time.monotonic()
            options = {**case.trial, "file_size": case.size}
            trial = lab.punch("a", "b", client=toy(plan, folder / "log"), strategy="toy", **options)
            took = time.monotonic() - begun
        assert not _left_behind(folder), "processes outlive the trial"
        return trial, count(wiretap.packets(), where), took


def _with_third_host(plan: Plan, lab: Lab) -> Plan:
    """The plan, with an edge of the toy's running in the third host."""
    command = ["env", f"PYTHONPATH={ROOT}", "python3", "-S", "-m", "tests.lab.verdicts.toy", "edge", "0.0.0.0:9000"]
    third = lab["c"].popen(command, stdout=subprocess.PIPE, text=True)
    assert third.stdout is not None
    assert "listening" in third.stdout.readline()
    return Plan.parse(f"{plan},third={lab['c'].address}")


def _left_behind(folder: Path) -> list[str]:
    """Command lines of toys that still run; the name of the folder tells those of this trial."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        if f"log={folder}".encode() in words:
            found.append(words.decode(errors="replace"))
    return found


def facts(case: Case, trial: Trial, counts: Counts, folder: Path) -> Facts:
    """What the verdict is to be derived from."""
    one, other = trial.sides
    digests = {path.stem: json.loads(path.read_text()) for path in (folder / "log").glob("*/*.json")}
    return Facts(
        counts,
        (one.returncode, other.returncode),
        (one.events, other.events),
        "receive" in digests and digests["receive"] == digests["send"],
        case.size,
    )


@pytest.mark.parametrize("case", _CASES, ids=[f"{number}-{case}" for number, case in enumerate(_CASES)])
def test_the_verdict_matches_an_independent_count(
    case: Case, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    trial, counts, took = run(case, tmp_path)
    known = facts(case, trial, counts, tmp_path)
    wanted = outcomes(known)
    record_property("verdict", _row(case, trial, known, wanted, took))
    assert trial.outcome in wanted, f"{trial.reason}; counted {counts}, statuses {known.statuses}"
    assert trial.transferred == known.arrived
    assert trial.connected == counts.connected
    why = must_not_agree(known, trial.outcome)
    if why is not None:
        assert trial.agrees is (None if trial.control.agrees is not False else False), why
    elif trial.agrees is not None and trial.prediction.outcome != "depends":
        punched = trial.outcome in ("direct", "client_error")
        assert not punched or counts.connected
        assert trial.agrees is (trial.prediction.agrees(punched) and trial.control.agrees is not False)
    if None not in known.statuses and not case.options.keys() & {"bw", "loss"}:
        assert took < trial.options.deadline_s + _OVERTIME_S, "the trial waits for what is left behind"


def _row(case: Case, trial: Trial, known: Facts, wanted: frozenset[str], took: float) -> dict[str, Any]:
    return {
        "behavior": case.name,
        "NATs": " x ".join(case.nats) + ("" if case.topology == "pair" else f" ({case.topology})"),
        "size": case.size,
        "status": known.statuses,
        "direct": known.counts.direct,
        "edges": known.counts.relayed,
        "arrived": known.arrived,
        "expected": "/".join(sorted(wanted)),
        "verdict": trial.outcome,
        "predicted": str(trial.prediction.outcome),
        "agrees": trial.agrees,
        "seconds": round(took, 1),
    }
