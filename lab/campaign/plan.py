"""The choice of the next trial.

The trials of a cell start in the order of their numbers. A cell stops at the first number at which its interval is
narrow enough, independent of when and where trials ran: a trial starts only if it is certainly needed, that is, if the
interval would be too wide even if all trials before it had the same outcome. Therefore a campaign that was stopped and
resumed ends with the same trials as one that was not stopped.

The next trial is of a cell without trials, or else of the cell with the widest interval. A cell in which a trial
contradicts the oracle counts as undecided, as if half of its trials were direct. `lab.campaign.order` decides between
equal cells, so that the first trials cover every axis evenly.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from punchlab.lab.campaign.cells import Campaign, Cell, Job
from punchlab.lab.campaign.order import balanced
from punchlab.lab.campaign.results import Record
from punchlab.lab.campaign.statistics import half_width, trials_still_needed

_MOST_DIGITS = 9
"""Maximum length of the number of a trial."""


@dataclass(slots=True)
class _State:
    """The state of a cell. The trials 1 to `target` are certainly needed; the trials 1 to `complete` have ended."""

    cell: Cell
    index: int
    target: int
    outcomes: dict[int, bool | None] = field(default_factory=dict)
    """Number of a trial -> whether it was direct; None if the lab broke."""
    running: set[int] = field(default_factory=set)
    complete: int = 0
    measured: int = 0
    direct: int = 0
    disagrees: bool = False
    closed: bool = False
    seconds: float = 0.0
    timed: int = 0
    version: int = 0
    """Entries of the queue with another version are obsolete."""

    def next_number(self) -> int | None:
        """Return the lowest number that is needed and not yet started."""
        numbers = range(self.complete + 1, self.target + 1)
        return next((n for n in numbers if n not in self.outcomes and n not in self.running), None)

    def width(self) -> float:
        """Return the half-width of the interval if the running trials end like the others; 1 if there is no trial."""
        tried = len(self.outcomes) + len(self.running)
        if not tried:
            return 1.0
        return half_width(0.5 if self.disagrees or not self.measured else self.direct / self.measured, tried)


class Plan:
    """The trials that a campaign still needs, given the records that exist."""

    def __init__(self, campaign: Campaign, records: Iterable[Record] = ()) -> None:
        self._campaign = campaign
        first = campaign.most
        if campaign.until_ci is not None:
            first = min(first, max(campaign.min_trials, trials_still_needed(0, 0, campaign.until_ci)))
        self._all = [_State(cell, index, first) for index, cell in enumerate(balanced(campaign.cells))]
        self._states = {state.cell.id: state for state in self._all}
        self._queue: list[tuple[float, int, int, int]] = []
        self._seconds, self._timed = 0.0, 0
        for record in records:
            self._take(record)
        for state in self._states.values():
            self._judge(state)
            self._enqueue(state)
        self.expected = sum(self._expected(state) for state in self._states.values())
        """The total number of trials; if intervals decide, an estimate from the rates so far."""

    def next(self, within_s: float | None = None) -> Job | None:
        """Return the trial to start next; None if there is none, or none before a running trial ends.

        With `within_s`, cells whose trials have taken longer than that are skipped.
        """
        while self._queue:
            _width, _tried, index, version = heapq.heappop(self._queue)
            state = self._all[index]
            number = state.next_number()
            if version != state.version or number is None:
                continue
            if within_s is not None and self._takes_s(state) > within_s:
                continue
            state.running.add(number)
            self._enqueue(state)
            return self._campaign.job(state.cell, number)
        return None

    def finished(self, record: Record, seconds: float) -> None:
        """Add the record and the duration of a trial that `next` returned."""
        state = self._take(record)
        if state is None:
            return
        self._seconds, self._timed = self._seconds + seconds, self._timed + 1
        state.seconds, state.timed = state.seconds + seconds, state.timed + 1
        before = self._expected(state)
        self._judge(state)
        self.expected += self._expected(state) - before
        self._enqueue(state)

    def _take(self, record: Record) -> _State | None:
        cell, _, number = str(record["id"]).rpartition("-")
        state = self._states.get(cell)
        if state is None or not number.isdecimal() or len(number) > _MOST_DIGITS:
            return None
        state.running.discard(int(number))
        state.outcomes[int(number)] = None if record["outcome"] == "lab_error" else record["outcome"] == "direct"
        state.disagrees |= record["agrees"] is False
        return state

    def _judge(self, state: _State) -> None:
        """Close the cell or raise its target if all trials up to the target have ended."""
        campaign = self._campaign
        while not state.closed:
            while state.complete < state.target and state.complete + 1 in state.outcomes:
                state.complete += 1
                outcome = state.outcomes[state.complete]
                state.measured += outcome is not None
                state.direct += outcome is True
            if state.complete < state.target:
                return
            more = campaign.most - state.target
            if campaign.until_ci is not None and more > 0:
                more = min(more, trials_still_needed(state.direct, state.measured, campaign.until_ci))
            state.target += more
            state.closed = more == 0

    def _enqueue(self, state: _State) -> None:
        state.version += 1
        if state.next_number() is not None:
            tried = len(state.outcomes) + len(state.running)
            heapq.heappush(self._queue, (-state.width(), tried, state.index, state.version))

    def _expected(self, state: _State) -> int:
        wanted = self._campaign.until_ci
        if state.closed or wanted is None:
            return state.target
        rate = state.direct / state.measured if state.measured else 1.0
        # bisect needs an ascending key; the interval gets narrower with every trial.
        return bisect_left(range(self._campaign.most), -wanted, lo=state.target, key=lambda n: -half_width(rate, n))

    def _takes_s(self, state: _State) -> float:
        if state.timed:
            return state.seconds / state.timed
        return self._seconds / self._timed if self._timed else 0.0
