"""`results.csv`: a spreadsheet that opens it evaluates nothing in it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from io import StringIO

from punch.text import printable
from reports.results import Trial
from reports.schema import as_text, columns, lines, rows

_NUMBER = r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_FORMULA = re.compile(rf"((?:^|;)\s*)(?=[=+@\uff0b\uff0d\uff1d\uff20-])(?!{_NUMBER}\s*(?:;|$))")
"""Where a spreadsheet would see a formula begin: at the start of a cell, or after `;`, which separates cells in many
countries; not before a number. After OWASP, "CSV Injection", which also names the fullwidth forms of the four signs."""


_NUMBERS = (int, float, bool)


def results_csv(trials: Sequence[Trial]) -> str:
    """One row a trial, columns as in `reports.schema`; null is an empty cell.

    Numbers are as they are. Text is printable, and gets a `'` where it would begin a formula.
    """
    return table_csv(rows(trials))


def table_csv(table: Sequence[Mapping[str, object]]) -> str:
    """The `reports.schema.rows`."""
    names = list(columns(table))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_text, names))
    for cells in lines(table, names):
        writer.writerow(map(_cell, cells))
    return out.getvalue()


def _cell(value: object) -> str | None:
    if value is None or type(value) in _NUMBERS:
        return None if value is None else as_text(value)
    return _text(value if type(value) is str else as_text(value))


def _text(text: str) -> str:
    return _FORMULA.sub(r"\1'", printable(text, None))
