"""Output of `punchlab nat check`: a progress bar on a terminal, then a table with a column per NAT."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from punchlab.lab.check.check import Check, Row
from punchlab.lab.check.requirements import Verdict
from punchlab.lab.cli.heartbeat import Heartbeat
from punchlab.lab.cli.screen import Wrapped, screen

_STYLES = {
    Verdict.PASSED: "green",
    Verdict.EXPECTED: "yellow",
    Verdict.FAILED: "bold red",
    Verdict.NOT_TESTED: "magenta",
    Verdict.NOT_APPLICABLE: "dim",
}


class CheckProgress:
    """Pass `update` to the check. `summary` prints the table after the block."""

    def __init__(self) -> None:
        columns = (TextColumn("probing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = screen(sys.stderr)
        self._bar = Progress(*columns, console=console)
        self._task = self._bar.add_task("probing", total=None)
        self._done = "probing"
        self._shown = self._bar if console.is_terminal else Heartbeat(lambda: self._done)

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.__exit__(kind, error, trace)

    def update(self, done: int, total: int) -> None:
        """Show how many NATs have been probed."""
        self._done = f"probing, {done} of {total} NATs done"
        self._bar.update(self._task, completed=done, total=total)

    def summary(self, checks: Mapping[str, Check]) -> None:
        """Print every claim and its observation, or the common value of both."""
        table = Table(title="observed values, with the claimed value where it differs")
        for column in ("NAT", "", "field", "found"):
            table.add_column(column, overflow="fold", no_wrap=column != "found")
        for name, check in checks.items():
            for number, row in enumerate(check.rows):
                table.add_row(
                    name if number == 0 else "", row.transport, row.field.replace("_", " "), Wrapped(_cell(row))
                )
            table.add_section()
        console = screen(sys.stdout)
        console.print(table)
        for name, check in checks.items():
            if check.requirements:
                console.print(_requirements(name, check))
        wrong = [name for name, check in checks.items() if check.agrees is False]
        untested = [f"{name} ({check.untested})" for name, check in checks.items() if check.untested]
        fields = sum(len(check.rows) for check in checks.values())
        console.print(
            f"{len(checks)} NATs, {fields} claims; different from the claim: {', '.join(wrong) or 'none'}; "
            f"not tested: {', '.join(untested) or 'none'}"
        )


def _requirements(name: str, check: Check) -> Table:
    """Return a table with a row for every requirement of the RFCs. The NAT is in the title, to save space."""
    table = Table(title=f"{name}: RFC 4787 (UDP) and RFC 5382 (TCP)")
    for column in ("RFC", "", "level"):
        table.add_column(column, overflow="fold", no_wrap=True)
    for column in ("requirement", "verdict"):
        table.add_column(column, overflow="fold")
    for row in check.requirements:
        about, style = row.requirement, _STYLES[row.verdict]
        verdict = Text.assemble((str(row.verdict), style), f": {row.note}" if row.note else "")
        table.add_row(str(about.rfc), about.name, about.level, Wrapped(about.text), Wrapped(verdict))
    return table


def _cell(row: Row) -> Text:
    if row.agrees:
        return Text(row.found)
    style = "magenta" if row.agrees is None else "bold red"
    return Text.assemble((row.found, style), f" (claimed: {row.claimed})")
