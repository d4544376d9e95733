"""The lab's verdict on foreign clients, honest or not, against an independent byte count with tshark.

A sample runs by default. `PUNCHLAB_VERDICTS=300` runs that many trials and prints them as a table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from punchlab.lab.trial.trial import Trial
from tests.lab.trial.verdicts.count import Counts
from tests.lab.trial.verdicts.expected import Facts, must_not_agree, outcomes
from tests.lab.trial.verdicts.generate import SAMPLE, Case, cases
from tests.lab.trial.verdicts.running import run

_CASES = cases(int(os.environ.get("PUNCHLAB_VERDICTS", str(SAMPLE))), int(os.environ.get("PUNCHLAB_SEED", "0")))
_OVERTIME_S = 15.0


def facts(case: Case, trial: Trial, counts: Counts, folder: Path) -> Facts:
    """Return the facts from which the verdict is derived."""
    one, other = trial.sides
    digests = {path.stem: json.loads(path.read_text()) for path in (folder / "log").glob("*/*.json")}
    return Facts(
        counts,
        (one.returncode, other.returncode),
        (one.events, other.events),
        "receive" in digests and digests["receive"] == digests["send"],
        case.size,
        (one.ended_s, other.ended_s),
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
