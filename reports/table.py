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
    out = StringIO()
    writer = csv.DictWriter(out, list(columns(table)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: as_text(value) for name, value in row.items()} for row in table)
    return out.getvalue()
