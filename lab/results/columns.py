"""The columns of `results.csv` and `results.parquet`: one row per trial, nested fields flattened to `outer.inner`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto

from msgspec import inspect

from punchlab.lab.results.fields import Field, fields
from punchlab.lab.results.schema import TrialResult


class Kind(Enum):
    """Type of the cells of a column."""

    TEXT = auto()
    TEXTS = auto()
    BOOL = auto()
    COUNT = auto()
    NUMBER = auto()
    TIME = auto()
    """A time, in ISO 8601."""


def _kind_of(field: Field) -> Kind:
    match field.type:
        case inspect.BoolType():
            return Kind.BOOL
        case inspect.IntType():
            return Kind.COUNT
        case inspect.FloatType():
            return Kind.NUMBER
        case inspect.ListType() | inspect.TupleType():
            return Kind.TEXTS
    return Kind.TIME if field.format == "date-time" else Kind.TEXT


COLUMNS: Mapping[str, Kind] = {
    name: _kind_of(field)
    for name, field in fields(TrialResult).items()
    if name != "schema" and not isinstance(field.type, inspect.StructType | inspect.DictType)
}
"""The columns of every table, also where no trial fills them."""


def columns(table: Sequence[Mapping[str, object]]) -> dict[str, Kind]:
    """Return the columns of the rows: those of the schema, then others by name; first `run` if the rows have it."""
    more: dict[str, list[object]] = {}
    known = COLUMNS.keys()
    for row in table:
        if not row.keys() <= known:
            for name in row.keys() - known:
                more.setdefault(name, []).append(row[name])
    first = {"run": Kind.TEXT} if more.pop("run", None) else {}
    return first | dict(COLUMNS) | {name: _kind(values) for name, values in sorted(more.items())}


def row(record: Mapping[str, object]) -> dict[str, object]:
    """Return a record as a row; null is left out."""
    cells: dict[str, object] = {}
    _flatten(record, "", cells)
    cells.pop("schema", None)
    return cells


def lines(table: Iterable[Mapping[str, object]], names: Sequence[str]) -> list[tuple[object, ...]]:
    """Return the cells of each row, in the order of the names; None for a cell that the row does not have."""
    return [tuple(map(row.get, names)) for row in table]


def _flatten(record: Mapping[str, object], prefix: str, cells: dict[str, object]) -> None:
    for name, value in record.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{name}.", cells)
        elif value is not None:
            cells[prefix + name] = value


def _kind(values: Sequence[object]) -> Kind:
    """Return the kind of a column that the schema does not have, from its values; text unless all agree."""
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
