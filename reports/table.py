"""`results.csv`: a spreadsheet that opens it evaluates nothing in it."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Mapping, Sequence
from io import StringIO

from punchlab.punch.text import printable
from punchlab.reports.results import Trial
from punchlab.reports.schema import as_text, columns, lines, rows

_NUMBER = r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_SKIPPED = r"[\s\"']*"
_FORMULA = re.compile(rf"((?:^|;){_SKIPPED})(?=[=+@\uff0b\uff0d\uff1d\uff20-])(?!{_NUMBER}{_SKIPPED}(?:;|$))")
"""Where a spreadsheet would see a formula begin: at the start of a cell, or after `;`, which separates cells in many
countries; quotes there may be taken for those of a cell; not before a number. After OWASP, "CSV Injection", which also
names the fullwidth forms of the four signs."""
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
        writer.writerow([None if cell is None else _text(cell) if type(cell) is str else _cell(cell) for cell in cells])
    return out.getvalue()


def _cell(value: object) -> str:
    text = as_text(value)
    return text if type(value) in _NUMBERS else _text(text)


@functools.lru_cache(maxsize=4096)  # most cells of a long run are the same few texts
def _text(text: str) -> str:
    return _FORMULA.sub(r"\1'", printable(text, None))
