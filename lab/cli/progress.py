"""Output of a running campaign: rate and remaining time, and on a terminal the matrix of NAT pairs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from punchlab.lab.campaign import Campaign
from punchlab.lab.campaign.results import Record
from punchlab.lab.cli.heartbeat import Heartbeat
from punchlab.lab.cli.screen import Screen, Wrapped, screen
from punchlab.punch.text import printable

_MATRICES = 6
"""The maximum number of matrices printed at the end. For more, only totals are printed; the report has all."""
_UNLIMITED = 10_000
"""The width of a terminal that is wide enough for everything."""
_ROWS = 8
"""The number of combinations that fit on the terminal during the run."""


@dataclass(slots=True)
class _Tally:
    direct: int = 0
    measured: int = 0
    disagreeing: int = 0
    broken: int = 0

    def add(self, record: Record) -> None:
        if record["outcome"] == "lab_error":
            self.broken += 1
            return
        self.measured += 1
        self.direct += record["outcome"] == "direct"
        self.disagreeing += record["agrees"] is False

    def text(self) -> Text:
        """Return `3/5`, with a mark for trials that contradict the prediction."""
        if not self.measured:
            return Text("·", style="dim")
        colour = "green" if self.direct == self.measured else "yellow" if self.direct else "red"
        text = Text(f"{self.direct}/{self.measured}", style=colour)
        return text.append(f" {self.disagreeing}!", style="bold red") if self.disagreeing else text


class RunProgress:
    """Pass `update` to the campaign. `summary` prints the matrices after the block."""

    def __init__(self, campaign: Campaign, budget_s: float | None = None) -> None:
        self._cells = {cell.id: (cell.combination, cell.nats) for cell in campaign.cells}
        self._nats: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        for combination, nats in self._cells.values():
            rows, columns = self._nats.setdefault(combination, ({}, {}))
            rows[nats[0]] = columns[nats[1]] = None
        self._pairs = {place: _Tally() for place in self._cells.values()}
        self._sums = {combination: _Tally() for combination in self._nats}
        self._total = _Tally()
        self._latest = next(iter(self._nats))
        self._odd: list[Record] = []
        self._broken: list[Record] = []
        self._done, self._here, self._expected = 0, 0, 0
        self._began: float | None = None
        self._budget_s = budget_s
        self._console = screen(sys.stderr)
        self._live = Live(console=self._console, get_renderable=self._picture, transient=True)
        self._heartbeat = Heartbeat(self._line)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._heartbeat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._heartbeat.__exit__(kind, error, trace)

    def update(self, records: Sequence[Record], expected: int) -> None:
        """Add new records; `expected` is the number of trials."""
        for record in records:
            place = self._cells.get(str(record["id"]).rpartition("-")[0])
            if place is None:
                continue
            self._latest = place[0]
            for tally in (self._pairs[place], self._sums[self._latest], self._total):
                tally.add(record)
            if record["outcome"] == "lab_error":
                self._broken.append(record)
            elif record["agrees"] is False:
                self._odd.append(record)
        self._done += len(records)
        if self._began is None:  # earlier records do not determine the rate
            self._began = time.monotonic()
        else:
            self._here += len(records)
        self._expected = max(expected, self._done)

    def summary(self) -> None:
        """Print direct/trials for every pair, and the trials that contradict the prediction."""
        console = screen(sys.stdout)
        several = len(self._nats) > 1
        if several:
            console.print(self._overview(list(self._nats)))
        if len(self._nats) <= _MATRICES:
            for combination in self._nats:
                console.print(self._matrix(combination, console))
        console.print(f"{self._done} trials, {len(self._odd)} disagree with the oracle, {len(self._broken)} lab errors")
        lines = [
            f"disagreement: {record['id']}: {record['outcome']} ({record['reason']}); predicted "
            f"{_predicted(record.get('outcome_prediction'))}; control attempt: {record.get('control')}"
            for record in self._odd
        ]
        lines += [f"lab error: {record['id']}: {record['reason']}" for record in self._broken]
        for line in lines:
            console.print(printable(line), soft_wrap=True)

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = []
        several = len(self._nats) > 1
        if several:
            names = list(self._nats)
            first = max(0, min(names.index(self._latest) - _ROWS // 2, len(names) - _ROWS))
            parts.append(self._overview(names[first : first + _ROWS]))
        matrix = self._matrix(self._latest, self._console)
        if self._console.measure(matrix).minimum <= self._console.width and self._fits(matrix):
            parts.append(matrix)
        return Group(*parts, self._bar())

    def _fits(self, matrix: RenderableType) -> bool:
        taken = min(_ROWS, len(self._nats)) + 4 if len(self._nats) > 1 else 0
        return len(self._console.render_lines(matrix)) + taken < self._console.height

    def _bar(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        grid.add_row(ProgressBar(max(1, self._expected), self._done, width=24), *self._words())
        return grid

    def _line(self) -> str:
        return ", ".join(word.plain for word in self._words())

    def _words(self) -> list[Text]:
        """Return the progress of the run."""
        if self._began is None:
            return [Text("waiting for the first trial")]
        elapsed_s = time.monotonic() - self._began
        words = [Text(f"{self._done}/{self._expected}"), Text(f"{self._total.direct} direct")]
        if self._total.disagreeing:
            words.append(Text(f"{self._total.disagreeing} disagree", "bold red"))
        if self._broken:
            words.append(Text(f"{len(self._broken)} lab errors", "red"))
        left_s = None if self._budget_s is None else max(0.0, self._budget_s - elapsed_s)
        if self._here and elapsed_s:
            words.append(Text(f"{self._here / elapsed_s:.1f}/s"))
            needed_s = (self._expected - self._done) * elapsed_s / self._here
            left_s = needed_s if left_s is None else min(left_s, needed_s)
        words.append(Text(f"{_clock(elapsed_s)} gone"))
        if left_s is not None:
            words.append(Text(f"{_clock(left_s)} left"))
        return words

    def _overview(self, combinations: Sequence[str]) -> Table:
        table = Table(title="direct / trials of every combination")
        for name in ("combination", "direct", "disagree", "lab errors"):
            first = name == "combination"
            table.add_column(name, justify="left" if first else "right", overflow="fold", no_wrap=not first)
        for combination in combinations:
            tally = self._sums[combination]
            numbers = (str(number) if number else "" for number in (tally.disagreeing, tally.broken))
            table.add_row(Wrapped(combination), tally.text(), *numbers)
        return table

    def _matrix(self, combination: str, console: Screen) -> RenderableType:
        # Not the table's own title, which would be as narrow as the table.
        title = Text(f"{combination}: direct / trials (rows: first NAT, columns: second)", style="italic")
        columns = list(self._nats[combination][1])
        named = self._table(combination, {name: name for name in columns})
        if _fits_in_width(named, console):
            return Group(title, named)
        # Numbers for names, in as many tables as it takes.
        numbers = {name: str(number) for number, name in enumerate(columns, 1)}
        parts: list[RenderableType] = []
        while columns:
            count = len(columns)
            while count > 1 and not _fits_in_width(self._table(combination, _first(columns, count, numbers)), console):
                count -= 1
            parts.append(self._table(combination, _first(columns, count, numbers)))
            del columns[:count]
        legend = ", ".join(f"{number}={name}" for name, number in numbers.items())
        return Group(title, *parts, Text(f"columns: {legend}"))

    def _table(self, combination: str, columns: Mapping[str, str]) -> Table:
        """The matrix of these columns, by NAT; the values are their headings."""
        table = Table()
        table.add_column("", no_wrap=True)
        for heading in columns.values():
            table.add_column(heading, justify="right", no_wrap=True)
        for one in self._nats[combination][0]:
            tallies = (self._pairs.get((combination, (one, other))) for other in columns)
            table.add_row(one, *(Text("") if tally is None else tally.text() for tally in tallies))
        return table


def _fits_in_width(table: Table, console: Screen) -> bool:
    unlimited = console.options.update(max_width=_UNLIMITED)
    return Measurement.get(console, unlimited, table).maximum <= console.width


def _first(columns: Sequence[str], count: int, headings: Mapping[str, str]) -> dict[str, str]:
    return {name: headings[name] for name in columns[:count]}


def _predicted(prediction: object) -> str:
    """Return the prediction as text. The record may come from a file of an unknown author."""
    if not isinstance(prediction, Mapping):
        return "nothing"
    return f"{prediction.get('outcome')}: {prediction.get('reason')}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
