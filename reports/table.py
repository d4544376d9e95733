"""`results.csv`: a spreadsheet program evaluates nothing in it."""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO

from punchlab.lab.results.columns import columns, lines, row
from punchlab.punch.text import printable
from punchlab.reports.results import RunTrial

_NUMBER = r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_SKIPPED = r"[\s\"']*"
_FORMULA = re.compile(rf"((?:^|;){_SKIPPED})(?=[=+@\uff0b\uff0d\uff1d\uff20-])(?!{_NUMBER}{_SKIPPED}(?:;|$))")
"""The start of a formula: at the start of a cell or after `;`, which separates cells in many countries, also after
quotes; not before a number. From OWASP, "CSV Injection", which includes the fullwidth forms of the four signs."""
_NUMBERS = (int, float, bool)


def rows(trials: Iterable[RunTrial]) -> list[dict[str, object]]:
    """Return a row for each trial, in the order of their ids; null is left out. Of several runs, `run` is the name."""
    made = [row(trial.record) for trial in sorted(trials, key=RunTrial.order)]
    for each in made:
        if not each["run"]:
            del each["run"]
    return made


def table_csv(table: Sequence[Mapping[str, object]]) -> str:
    """Return `rows` as CSV, columns as in `lab.results.columns`; null is an empty cell.

    Numbers are unchanged. Text is printable, and gets a `'` where it would begin a formula.
    """
    names = list(columns(table))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_text, names))
    for cells in lines(table, names):
        writer.writerow([None if cell is None else _text(cell) if type(cell) is str else _cell(cell) for cell in cells])
    return out.getvalue()


def as_text(value: object) -> str:
    """Return a cell as text: booleans are `true` and `false`, lists are joined by `;`."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ";".join(as_text(item) for item in value)
    if type(value) is int or type(value) is float:  # json.dumps takes ten times as long
        return repr(value)
    return json.dumps(value)


def _cell(value: object) -> str:
    text = as_text(value)
    return text if type(value) in _NUMBERS else _text(text)


@functools.lru_cache(maxsize=4096)  # most cells of a long run have one of a few texts
def _text(text: str) -> str:
    return _FORMULA.sub(r"\1'", printable(text, None))
