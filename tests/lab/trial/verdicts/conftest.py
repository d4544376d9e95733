"""Print the trials of `PUNCHLAB_VERDICTS` as a table."""

from __future__ import annotations

import os

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Runs in the controller of pytest-xdist, which receives every report."""
    if "PUNCHLAB_VERDICTS" not in os.environ:
        return
    rows = [
        ({**value, "test": outcome})
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == "verdict"
    ]
    if not rows:
        return
    terminalreporter.section(f"{len(rows)} verdicts")
    columns = list(rows[0])
    lines = [[str(row[column]) for column in columns] for row in [dict(zip(columns, columns, strict=True)), *rows]]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in [lines[0], *sorted(lines[1:])]:
        terminalreporter.write_line("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)))
