"""How a run looks while it runs: a progress bar on a terminal, and the matrix of pairs at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lab.results import Record


class RunProgress:
    """Give `update` to the campaign; after the `with`, `summary` prints the matrix."""

    def __init__(self, nats: tuple[Sequence[str], Sequence[str]]) -> None:
        self._nats = nats
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(file=sys.stderr))
        self._task = self._bar.add_task("trials", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, records: Sequence[Record], total: int) -> None:
        """Show how many trials are done, and how many of those were direct."""
        direct = sum(record["outcome"] == "direct" for record in records)
        self._bar.update(self._task, completed=len(records), total=total, description=f"{direct} direct")

    def summary(self, records: Sequence[Record]) -> None:
        """Print direct/trials for every pair, and what did not go as predicted."""
        table = Table(title="direct / trials (rows: NAT of the first host, columns: of the second)")
        table.add_column("")
        for other in self._nats[1]:
            table.add_column(other, justify="right")
        for one in self._nats[0]:
            cells = []
            for other in self._nats[1]:
                tried = [r for r in records if (r["nat_a"], r["nat_b"]) == (one, other)]
                here = [r for r in tried if r["outcome"] != "lab_error"]
                cells.append(f"{sum(r['outcome'] == 'direct' for r in here)}/{len(here)}" if tried else "")
            table.add_row(one, *cells)
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
        console.print(table)
        odd = [record for record in records if record["agrees"] is False]
        broken = [record for record in records if record["outcome"] == "lab_error"]
        console.print(f"{len(records)} trials, {len(odd)} disagree with the oracle, {len(broken)} lab errors")
        for record in odd:
            predicted = record["prediction"]
            console.print(
                f"disagreement: {record['id']}: {record['outcome']} ({record['reason']}); predicted "
                f"{predicted['outcome']}: {predicted['reason']}; control dial: {record['control']}",
                soft_wrap=True,
                markup=False,
            )
        for record in broken:
            console.print(f"lab error: {record['id']}: {record['reason']}", soft_wrap=True, markup=False)
