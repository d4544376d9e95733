"""`results.csv`: one row a trial, nested fields flattened to `outer.inner` columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO

from reports.results import Trial

_PREDICTION = ("outcome", "probability", "reason", "floor_s")
_COLUMNS = (
    *("id", "started", "topology", "pair", "nat_a", "nat_b", "unsolicited", "client", "strategy", "max_attempts"),
    *("deadline_s", "skew_wanted_s", "skew_s", "delay_s", "jitter_s", "loss", "links", "outcome", "reason"),
    *(f"prediction.{name}" for name in _PREDICTION),
    *("control.direct", "control.skew_s", *(f"control.prediction.{name}" for name in _PREDICTION)),
    "agrees",
    *(f"timings_s.{name}" for name in ("rendezvous", "connected", "agreed", "transferred")),
    *("path.nats", "path.edge"),
    *(f"exchange.{name}" for name in ("crossed", "simultaneous_open", "syns", "resets", "icmp", "dropped")),
    *(f"versions.{name}" for name in ("punchlab", "kernel", "iptables", "nft", "python")),
    "capture",
)
"""The columns that every table has, also where no trial fills them."""


def results_csv(trials: Sequence[Trial]) -> str:
    """The table, in the order of the trials' ids; unknown fields of the records follow the known columns.

    Null is an empty cell, booleans are `true` and `false`, lists are joined by `;`. With several runs, the first column
    names the run.
    """
    rows = [_flat(trial.record) for trial in sorted(trials, key=Trial.order)]
    more = sorted({column for row in rows for column in row} - set(_COLUMNS))
    runs = [trial.run for trial in sorted(trials, key=Trial.order)]
    named = len(set(runs)) > 1
    if named:
        rows = [{"run": run} | row for run, row in zip(runs, rows, strict=True)]
    out = StringIO()
    writer = csv.DictWriter(out, [*(["run"] if named else []), *_COLUMNS, *more], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(record: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    row: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            row |= _flat(value, f"{prefix}{name}.")
        elif value is not None and name != "schema":
            row[prefix + name] = _cell(value)
    return row


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ";".join(_cell(item) for item in value)
    return json.dumps(value)
