"""`results.csv`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO

from reports.results import Trial
from reports.schema import as_text, columns, rows


def results_csv(trials: Sequence[Trial]) -> str:
    """One row a trial, columns as in `reports.schema`; null is an empty cell."""
    table = rows(trials)
    names = list(columns(table))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([as_text(row[name]) if name in row else "" for name in names] for row in table)
    return out.getvalue()
