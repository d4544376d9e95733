"""The progress of a transfer: at most one event per second, and a bar on a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from punchlab.punch.events import Reporter
from punchlab.punch.stdio import unguarded

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

INTERVAL_S = 1.0


class Progress:
    """Counts the bytes of a transfer of `total` (None: unknown). A context manager; `bar` shows it on a terminal."""

    def __init__(self, total: int | None, report: Reporter, *, bar: bool) -> None:
        self._bytes = 0
        self._total = total
        self._report = report
        self._due = time.monotonic() + INTERVAL_S
        self._bar: Bar | None = None
        if bar and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(file=unguarded(sys.stderr)), transient=True)
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def resume(self, name: str, start: int, size: int) -> None:
        """Report that a file of `size` bytes resumes at byte `start`; the bytes before it count as transferred."""
        self._report("resumed", name=name, bytes=start, size=size)
        self.advance(start)

    def advance(self, count: int) -> None:
        """Add `count` bytes."""
        self._bytes += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count)
        now = time.monotonic()
        if now >= self._due:
            self._due = now + INTERVAL_S
            self._report("progress", bytes=self._bytes, total=self._total)
