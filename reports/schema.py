"""The columns of `results.csv` and `results.parquet`: one row a trial, nested fields flattened to `outer.inner`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto

from punchlab.reports.results import Trial


class Kind(Enum):
    """What the cells of a column are."""

    TEXT = auto()
    TEXTS = auto()
    BOOL = auto()
    COUNT = auto()
    NUMBER = auto()
    TIME = auto()
    """A moment, in ISO 8601."""


def _columns(kind: Kind, names: str, prefix: str = "") -> dict[str, Kind]:
    return {prefix + name: kind for name in names.split()}


def _prediction(prefix: str) -> dict[str, Kind]:
    return {
        f"{prefix}outcome": Kind.TEXT,
        f"{prefix}probability": Kind.NUMBER,
        f"{prefix}reason": Kind.TEXT,
        f"{prefix}floor_s": Kind.NUMBER,
        f"{prefix}agreed_floor_s": Kind.NUMBER,
    }


COLUMNS: Mapping[str, Kind] = {
    "id": Kind.TEXT,
    "started": Kind.TIME,
    "seed": Kind.COUNT,
    "topology": Kind.TEXT,
    "pair": Kind.TEXTS,
    **_columns(Kind.TEXT, "nat_a nat_b cgn port_mapping unsolicited client strategy"),
    "max_attempts": Kind.COUNT,
    **_columns(Kind.NUMBER, "deadline_s skew_wanted_s skew_s delay_s jitter_s loss bw_mbit_s background_per_s"),
    **_columns(Kind.TEXT, "links outcome reason"),
    **_columns(Kind.BOOL, "connected transferred"),
    **_columns(Kind.COUNT, "direct edges", "bytes."),
    **_prediction("prediction."),
    "control.direct": Kind.BOOL,
    "control.reason": Kind.TEXT,
    "control.skew_s": Kind.NUMBER,
    **_prediction("control.prediction."),
    "agrees": Kind.BOOL,
    **_columns(Kind.BOOL, "connected transferred"),
    **_columns(
        Kind.NUMBER,
        "rendezvous first_syn connected agreed transferred known_to_connected known_to_agreed",
        "timings_s.",
    ),
    "cpu_pressure": Kind.NUMBER,
    "path.nats": Kind.TEXTS,
    "path.edge": Kind.BOOL,
    **_columns(Kind.BOOL, "crossed simultaneous_open", "exchange."),
    **_columns(Kind.COUNT, "syns resets icmp dropped", "exchange."),
    "capture": Kind.TEXT,
    "capture_drops": Kind.COUNT,
    **_columns(Kind.TEXT, "punchlab kernel iptables nft python", "versions."),
}
"""Those that every table has, also where no trial fills them."""


def rows(trials: Iterable[Trial]) -> list[dict[str, object]]:
    """A row for each trial, in the order of their ids; null is left out. With several runs, `run` names the run."""
    made = []
    for trial in sorted(trials, key=Trial.order):
        row: dict[str, object] = {}
        _flatten(trial.record, "", row)
        if trial.run:
            row["run"] = trial.run
        made.append(row)
    return made


def columns(table: Sequence[Mapping[str, object]]) -> dict[str, Kind]:
    """The columns of these rows: the known ones, then the others in the order of their names."""
    more: dict[str, list[object]] = {}
    known = COLUMNS.keys()
    for row in table:
        if not row.keys() <= known:
            for name in row.keys() - known:
                more.setdefault(name, []).append(row[name])
    first = {"run": Kind.TEXT} if more.pop("run", None) else {}
    return first | dict(COLUMNS) | {name: _kind(values) for name, values in sorted(more.items())}


def lines(table: Iterable[Mapping[str, object]], names: Sequence[str]) -> list[tuple[object, ...]]:
    """The cells of each row, in the order of the names; None where it has none."""
    return [tuple(map(row.get, names)) for row in table]


def as_text(value: object) -> str:
    """A cell in words: booleans are `true` and `false`, lists are joined by `;`."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ";".join(as_text(item) for item in value)
    if type(value) is int or type(value) is float:  # most cells of a big table; json.dumps takes ten times as long
        return repr(value)
    return json.dumps(value)


def _flatten(record: Mapping[str, object], prefix: str, row: dict[str, object]) -> None:
    for name, value in record.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{name}.", row)
        elif value is not None:
            row[prefix + name] = value
    if not prefix:
        row.pop("schema", None)


def _kind(values: Sequence[object]) -> Kind:
    """The kind of an unknown column by what is in it; text unless all agree."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return Kind.BOOL
    if kinds == {int}:
        return Kind.COUNT
    if kinds <= {int, float}:
        return Kind.NUMBER
    if kinds == {list} and all(isinstance(item, str) for value in values if isinstance(value, list) for item in value):
        return Kind.TEXTS
    return Kind.TEXT
