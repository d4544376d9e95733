"""A trial as plain data: one line of results.jsonl. README lists the fields."""

from __future__ import annotations

import datetime
import traceback
from pathlib import Path
from typing import Any

from punchlab.lab.errors import PunchlabError
from punchlab.lab.graph import Path as LabPath
from punchlab.lab.oracle.outcome import Prediction
from punchlab.lab.trial.control import Control
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.trial import Trial
from punchlab.lab.trial.verdict import chosen
from punchlab.lab.trial.versions import versions
from punchlab.punch.text import printable

SCHEMA = 1


def record(trial: Trial, **more: Any) -> dict[str, Any]:
    """The record of a trial; `more` are the fields that only the run knows (id, seed, topology, names of the NATs)."""
    winner = trial.exchange.winner
    return {
        **_asked(trial.options, trial.pair, trial.started, more),
        "skew_s": trial.exchange.skew_s,
        **_path(trial.path),
        "links": trial.links,
        "background_per_s": trial.background_per_s,
        "outcome": trial.outcome,
        "reason": trial.reason,
        "connected": trial.connected,
        "transferred": trial.transferred,
        "bytes": {"direct": trial.delivery.direct_bytes, "edges": trial.delivery.edge_bytes},
        "prediction": _prediction(trial.prediction),
        "control": _control(trial.control),
        "agrees": trial.agrees,
        "timings_s": dict(trial.timings_s),
        "cpu_pressure": trial.cpu_pressure,
        "chosen": chosen(trial.sides),
        "attempts": {side.host: side.attempts for side in trial.sides},
        "path": None if winner is None else {"nats": list(winner.nats), "edge": winner.edge},
        "exchange": trial.exchange.summary(),
        "capture_drops": sum(trial.recording.drops.values()),
        "versions": dict(versions()),
    }


def lab_error(
    options: TrialOptions,
    pair: tuple[str, str],
    started: datetime.datetime,
    error: Exception,
    *,
    path: LabPath | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The record of a trial in which the lab itself broke: nothing was measured. `path` if the topology was read."""
    return {
        **_asked(options, pair, started, more),
        **({} if path is None else _path(path)),
        "outcome": "lab_error",
        "reason": _words(error),
        "agrees": None,
        "versions": dict(versions()),
    }


def _words(error: Exception) -> str:
    """What the error says; of one that nobody raised on purpose also its type and the line of code."""
    text = str(error)
    if not isinstance(error, PunchlabError | OSError):
        at = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {text}"
    return printable(text)


def _asked(
    options: TrialOptions, pair: tuple[str, str], started: datetime.datetime, more: dict[str, Any]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **more,
        "started": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "pair": list(pair),
        "client": options.client.name,
        "strategy": options.strategy,
        "max_attempts": options.max_attempts,
        "deadline_s": options.deadline_s,
        "skew_wanted_s": options.skew_s,
    }


def _path(path: LabPath) -> dict[str, Any]:
    return {
        "delay_s": path.delay_s,
        "jitter_s": path.jitter_s,
        "loss": path.loss,
        "bw_mbit_s": None if path.bandwidth is None else path.bandwidth / 1e6,
    }


def _control(control: Control) -> dict[str, Any]:
    return {
        "direct": control.direct,
        "reason": control.reason,
        "skew_s": control.skew_s,
        "prediction": None if control.prediction is None else _prediction(control.prediction),
    }


def _prediction(prediction: Prediction) -> dict[str, Any]:
    return {
        "outcome": str(prediction.outcome),
        "probability": prediction.probability,
        "reason": prediction.reason,
        "floor_s": prediction.floor_s,
        "agreed_floor_s": prediction.agreed_floor_s,
    }
