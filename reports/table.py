"""`results.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import StringIO

from reports.results import Trial
from reports.schema import as_text, columns, lines, rows


def results_csv(trials: Sequence[Trial]) -> str:
    """One row a trial, columns as in `reports.schema`; null is an empty cell."""
    return table_csv(rows(trials))


def table_csv(table: Sequence[Mapping[str, object]]) -> str:
    """The `reports.schema.rows`."""
    names = list(columns(table))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for cells in lines(table, names):
        writer.writerow([cell if cell is None or type(cell) is str else as_text(cell) for cell in cells])
    return out.getvalue()
