"""`results.parquet`: the columns of results.csv with their types, for pandas, polars, DuckDB and the like."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import InputError, MissingCapabilityError
from lab.files import write_file
from reports.results import Trial, read_run
from reports.schema import Kind, as_text, columns, rows

if TYPE_CHECKING:
    import pyarrow

NAME = "results.parquet"
MISSING = f"{NAME} is left out, for pyarrow is not installed: pip install 'punchlab[parquet]'"


def write(run_dir: Path) -> Path:
    """Write the file beside the results of a run; it appears whole or not at all.

    Raises `MissingCapabilityError` without pyarrow, `InputError` for results that cannot be read or a folder that
    cannot be written, and `LabError` for a full disk.
    """
    path = run_dir / NAME
    write_file(path, results_parquet(read_run(run_dir).trials))
    return path


def results_parquet(trials: Sequence[Trial]) -> bytes:
    """One row a trial, columns as in `reports.schema`. Raises `MissingCapabilityError` without pyarrow, and
    `InputError` for a field that has not the kind of its column.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingCapabilityError(MISSING) from None
    types = _types(pyarrow)
    table = rows(trials)
    arrays = {}
    for name, kind in columns(table).items():
        try:
            cells = [_CELLS[kind](row[name]) if name in row else None for row in table]
            arrays[name] = pyarrow.array(cells, types[kind])
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise InputError("results", name, f"a field of one kind, {kind.name.lower()} ({error})") from None
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


def _as_it_is(value: Any) -> Any:
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):  # pyarrow would cut off the rest of a number
        raise ValueError(f"{value!r} is no whole number")
    return value


_CELLS: Mapping[Kind, Callable[[Any], object]] = {
    Kind.TEXT: as_text,
    Kind.TEXTS: _as_it_is,
    Kind.BOOL: _as_it_is,
    Kind.COUNT: _whole,
    Kind.NUMBER: float,
    Kind.TIME: datetime.datetime.fromisoformat,
}
