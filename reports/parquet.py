"""`results.parquet`: the columns of results.csv with their types, for pandas, polars, DuckDB and similar programs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from punchlab.lab.campaign.files import write_file
from punchlab.lab.errors import InputError, MissingCapabilityError
from punchlab.lab.results.columns import Kind, columns, lines
from punchlab.reports.results import read_run
from punchlab.reports.table import as_text, rows

if TYPE_CHECKING:
    import pyarrow

NAME = "results.parquet"
MISSING = f"{NAME} is not written, because pyarrow is not installed: pip install 'punchlab[parquet]'"


def write(run_dir: Path) -> Path:
    """Write `results.parquet` of a run, atomically, and return its path.

    Raises `MissingCapabilityError` without pyarrow, `InputError` for results that cannot be read or a folder that
    cannot be written, and `LabError` for a full disk.
    """
    path = run_dir / NAME
    write_file(path, table_parquet(rows(read_run(run_dir).trials)))
    return path


def table_parquet(table: Sequence[Mapping[str, object]]) -> bytes:
    """Return `reports.table.rows` as Parquet, columns as in `lab.results.columns`.

    Raises `MissingCapabilityError` without pyarrow, and `InputError` for a field that has not the type of its column.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingCapabilityError(MISSING) from None
    types = _types(pyarrow)
    arrays = {}
    kinds = columns(table)
    for (name, kind), values in zip(kinds.items(), zip(*lines(table, list(kinds)), strict=True), strict=True):
        try:
            arrays[name] = pyarrow.array(_cells(kind, values), types[kind])
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise InputError("results", name, f"a field of one type, {kind.name.lower()} ({error})") from None
    out = BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), out, compression="zstd")
    return out.getvalue()


def _types(arrow: Any) -> Mapping[Kind, pyarrow.DataType]:
    return {
        Kind.TEXT: arrow.string(),
        Kind.TEXTS: arrow.list_(arrow.string()),
        Kind.BOOL: arrow.bool_(),
        Kind.COUNT: arrow.int64(),
        Kind.NUMBER: arrow.float64(),
        Kind.TIME: arrow.timestamp("ms", "UTC"),
    }


def _cells(kind: Kind, values: Sequence[Any]) -> Sequence[Any]:
    """Return the values as pyarrow takes them for that kind. Raises `ValueError`, `TypeError` or `OverflowError`."""
    if kind is Kind.TEXT:
        return [value if value is None or type(value) is str else as_text(value) for value in values]
    if kind is Kind.TIME:
        return [None if value is None else datetime.datetime.fromisoformat(value) for value in values]
    if kind is Kind.NUMBER:
        return [value if value is None or type(value) is float else float(value) for value in values]
    if kind is Kind.COUNT:  # pyarrow would truncate a number
        for value in values:
            if value is not None and type(value) is not int:
                raise ValueError(f"{value!r} is not a whole number")
    return values
