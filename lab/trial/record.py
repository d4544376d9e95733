"""The result record of a trial, as `lab.results.schema` declares it."""

from __future__ import annotations

import datetime
import traceback
from pathlib import Path
from typing import Any, cast

import msgspec

from punchlab.lab.errors import PunchlabError
from punchlab.lab.graph import Path as LabPath
from punchlab.lab.kernel.pressure import SPARE
from punchlab.lab.oracle.outcome import Prediction
from punchlab.lab.results.outcomes import TrialOutcome
from punchlab.lab.results.schema import (
    SCHEMA,
    Bytes,
    Choice,
    Control,
    ExchangeCounts,
    OutcomePrediction,
    Timings,
    TrialResult,
    Versions,
    WinningPath,
)
from punchlab.lab.trial.options import TrialOptions
from punchlab.lab.trial.trial import Trial
from punchlab.lab.trial.verdict import chosen
from punchlab.lab.trial.versions import versions
from punchlab.punch.text import printable


def record(trial: Trial, **scenario: Any) -> dict[str, Any]:
    """Return the result record of a trial as plain data.

    `scenario` has the fields that only the caller knows: `id`, `topology`, `nat_a`, `nat_b`, and others of the schema.
    """
    winner, control, pressure = trial.exchange.winner, trial.control, trial.cpu_pressure
    found = TrialResult(
        **_requested(trial.options, trial.pair, trial.started, scenario),
        **_path(trial.path),
        skew_s=trial.exchange.skew_s,
        links=trial.links,
        background_per_s=trial.background_per_s,
        outcome=cast("TrialOutcome", trial.outcome),
        reason=trial.reason,
        connected=trial.connected,
        transferred=trial.transferred,
        bytes=Bytes(direct=trial.delivery.direct_bytes, edges=trial.delivery.edge_bytes),
        outcome_prediction=_prediction(trial.prediction),
        control=Control(
            direct=control.direct,
            reason=control.reason,
            skew_s=control.skew_s,
            outcome_prediction=None if control.prediction is None else _prediction(control.prediction),
        ),
        agrees=trial.agrees,
        timings_s=msgspec.convert(trial.timings_s, Timings),
        cpu_pressure=pressure,
        cpu_starved=None if pressure is None else pressure > SPARE,
        chosen=msgspec.convert(chosen(trial.sides), dict[str, Choice] | None),
        srflx_attempts={side.host: side.attempts for side in trial.sides},
        path=None if winner is None else WinningPath(nats=list(winner.nats), edge=winner.edge),
        exchange=msgspec.convert(trial.exchange.summary(), ExchangeCounts),
        capture_drops=sum(trial.recording.drops.values()),
    )
    return _plain(found)


def lab_error(
    options: TrialOptions,
    pair: tuple[str, str],
    started: datetime.datetime,
    error: Exception,
    *,
    path: LabPath | None = None,
    **scenario: Any,
) -> dict[str, Any]:
    """Return the record of a trial that the lab broke. `path` if the topology was read; `scenario` as of `record`."""
    return _plain(
        TrialResult(
            **_requested(options, pair, started, scenario),
            **({} if path is None else _path(path)),
            outcome="lab_error",
            reason=_words(error),
        )
    )


def _plain(found: TrialResult) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain


def _words(error: Exception) -> str:
    """Return the message of an error; for an unexpected one also its type and the line of code."""
    text = str(error)
    if not isinstance(error, PunchlabError | OSError):
        at = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {text}"
    return printable(text)


def _requested(
    options: TrialOptions, pair: tuple[str, str], started: datetime.datetime, scenario: dict[str, Any]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **scenario,
        "started": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "pair": pair,
        "client": options.client.name,
        "strategy": options.strategy,
        "max_attempts": options.max_attempts,
        "deadline_s": options.deadline_s,
        "skew_wanted_s": options.skew_s,
        "versions": msgspec.convert(versions(), Versions),
    }


def _path(path: LabPath) -> dict[str, Any]:
    return {
        "delay_s": path.delay_s,
        "jitter_s": path.jitter_s,
        "loss": path.loss,
        "bw_mbit_s": None if path.bandwidth is None else path.bandwidth / 1e6,
    }


def _prediction(prediction: Prediction) -> OutcomePrediction:
    return OutcomePrediction(
        outcome=prediction.outcome.value,
        probability=prediction.probability,
        reason=prediction.reason,
        floor_s=prediction.floor_s,
        agreed_floor_s=prediction.agreed_floor_s,
    )
