"""Trials grouped by the conditions under which they ran, and counted per pair of NATs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from statistics import median
from typing import Any

from punchlab.lab.campaign.statistics import Interval, wilson_interval
from punchlab.lab.results.axes import AXES
from punchlab.lab.results.outcomes import OUTCOMES
from punchlab.reports.results import TIMES, RunTrial

SEPARATOR = " · "
"""Separates the conditions of a label."""
_LONGEST_SLUG = 100
"""Characters; a file name has at most 255 bytes."""
_PERMISSIVE_FIRST = ("none", "full_cone", "restricted_cone", "port_restricted_cone", "symmetric")


def nat_order(name: str) -> tuple[int, str]:
    """Return the sort key of a NAT: the classic ones from the most permissive to the strictest, then others by name."""
    known = name in _PERMISSIVE_FIRST
    return (_PERMISSIVE_FIRST.index(name) if known else len(_PERMISSIVE_FIRST), name)


_AXES = [axis for axis in AXES.values() if axis.name not in ("nat_a", "nat_b")]
_KEY = attrgetter(*(axis.field for axis in _AXES))
_PLACES = {axis.field: place for place, axis in enumerate(_AXES)}


@dataclass(frozen=True, slots=True)
class Condition:
    """The values of all axes but the two NATs; trials of different conditions are never pooled.

    `values` are in the order of the axes. `run` is the name of the run folder where several folders have trials of the
    same pair of NATs under otherwise the same condition; else it is None.
    """

    values: tuple[Any, ...]
    run: str | None = None

    @classmethod
    def of(cls, trial: RunTrial) -> Condition:
        """Return the condition that a trial ran under, without the run."""
        # Sums over the links of a path differ in their last bits with the order of the links.
        return cls(tuple(round(value, 9) if isinstance(value, float) else value for value in _KEY(trial)))

    def __getitem__(self, field: str) -> Any:
        return self.values[_PLACES[field]]

    @property
    def topology(self) -> str:
        """The topology."""
        return str(self["topology"])

    @property
    def pair(self) -> tuple[str, str]:
        """The two hosts."""
        one, other = self["pair"]
        return one, other

    @property
    def strategy(self) -> str | None:
        """The strategy."""
        found: str | None = self["strategy"]
        return found

    @property
    def setting(self) -> Condition:
        """The same without the strategy."""
        place = _PLACES["strategy"]
        return Condition((*self.values[:place], None, *self.values[place + 1 :]), self.run)

    def may_be(self, other: Condition) -> bool:
        """Return whether the two are the same wherever both are known."""
        pairs = zip(self._all, other._all, strict=True)
        return all(one == two or one is None or two is None for one, two in pairs)

    def words(self) -> dict[str, str]:
        """Return each known condition in words, by field name."""
        words = {
            axis.field: axis.null if value is None else axis.label(value)
            for axis, value in zip(_AXES, self.values, strict=True)
        }
        words["run"] = None if self.run is None else f"run {self.run}"
        return {name: text for name, text in words.items() if text is not None}

    def order(self) -> tuple[tuple[bool, object], ...]:
        """Return the sort key; unset fields come first."""
        return tuple((value is not None, "" if value is None else value) for value in self._all)

    @property
    def _all(self) -> tuple[Any, ...]:
        return (*self.values, self.run)


class Trials:
    """Several trials and their counts. `n` is the number of measurements; a `lab_error` is not a measurement."""

    def __init__(self, trials: Iterable[RunTrial]) -> None:
        self.all = tuple(sorted(trials, key=RunTrial.order))
        self.measured = tuple(trial for trial in self.all if not trial.lab_error)
        self.lab_errors = tuple(trial for trial in self.all if trial.lab_error)
        self.direct = tuple(trial for trial in self.measured if trial.direct)
        self.disagreements = tuple(trial for trial in self.measured if trial.disagrees)
        self._timings: dict[str, list[float]] = {}

    @property
    def n(self) -> int:
        """Number of measured trials."""
        return len(self.measured)

    @property
    def k(self) -> int:
        """Number of trials that ended in a direct tunnel."""
        return len(self.direct)

    @property
    def rate(self) -> float | None:
        """The success rate; None without a measurement."""
        return self.k / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's 95 % interval of the success rate; None without a measurement."""
        return wilson_interval(self.k, self.n) if self.n else None

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """Number of trials by outcome, from the best to the worst."""
        counts = Counter(trial.outcome for trial in self.measured)
        return {outcome: counts[outcome] for outcome in OUTCOMES if counts[outcome]}

    @cached_property
    def expected_rate(self) -> float | None:
        """The success rate that the oracle expects of the measured trials; None without a prediction for each."""
        rates: list[float] = []
        for trial in self.measured:
            predicted = trial.outcome_prediction
            rate = {"direct": 1.0, "fails": 0.0}.get(predicted.outcome, predicted.probability) if predicted else None
            if rate is None:
                return None
            rates.append(rate)
        return sum(rates) / len(rates) if rates else None

    @cached_property
    def timed(self) -> tuple[RunTrial, ...]:
        """The direct trials with a latency that were not CPU-starved; all latencies and the floor are of these."""
        unstarved = (trial for trial in self.direct if not trial.cpu_starved)
        return tuple(
            trial for trial in unstarved if any(trial.timing(name) is not None for name in ("connected", "agreed"))
        )

    def timings(self, name: str) -> Sequence[float]:
        """Return the seconds to `connected` or `agreed` of the `timed` trials that have it, ascending."""
        if name not in self._timings:
            found = (trial.timing(name) for trial in self.timed)
            self._timings[name] = sorted(seconds for seconds in found if seconds is not None)
        return self._timings[name]

    @property
    def cpu_starved(self) -> int:
        """Number of direct trials whose latency does not count because they were CPU-starved."""
        return sum(trial.cpu_starved is True for trial in self.direct)

    def median(self, name: str) -> float | None:
        """Return the median of `timings`; None without any."""
        timings = self.timings(name)
        return median(timings) if timings else None

    @cached_property
    def floor_s(self) -> float | None:
        """The least time that the oracle allows any of the `timed` trials to connect.

        It is a lower bound of all their latencies; None if the oracle has no floor for one of them.
        """
        floors = [trial.outcome_prediction.floor_s if trial.outcome_prediction else None for trial in self.timed]
        known = [floor for floor in floors if floor is not None]
        return min(known) if known and len(known) == len(floors) else None


class PairTrials(Trials):
    """The trials of one pair of NATs under one condition."""

    def __init__(self, nat_a: str, nat_b: str, trials: Iterable[RunTrial]) -> None:
        super().__init__(trials)
        self.nat_a, self.nat_b = nat_a, nat_b

    @property
    def name(self) -> str:
        """Both NATs."""
        return f"{self.nat_a} {TIMES} {self.nat_b}"

    @cached_property
    def predictions(self) -> dict[str, int]:
        """Number of trials by predicted outcome."""
        found = (trial.outcome_prediction for trial in self.measured or self.all)
        counts = Counter(prediction.outcome for prediction in found if prediction)
        return dict(sorted(counts.items()))

    @property
    def predicted(self) -> str | None:
        """The prediction if all trials have the same one, else `depends`; None without any."""
        found = self.predictions
        return next(iter(found)) if len(found) == 1 else "depends" if found else None

    @property
    def agrees(self) -> bool | None:
        """Whether every judged trial is as predicted; None if none was judged."""
        judged = [trial.agrees for trial in self.measured if trial.agrees is not None]
        return all(judged) if judged else None

    @property
    def rate_fits(self) -> bool | None:
        """If chance decides, whether Wilson's interval of the measured rate contains the expected rate; else None."""
        expected, interval = self.expected_rate, self.interval
        if self.predicted != "depends" or expected is None or interval is None:
            return None
        return interval.low <= expected <= interval.high

    @cached_property
    def reason(self) -> str | None:
        """The most frequent reason of failures, or else of predictions."""
        failed = [trial.reason for trial in self.measured if not trial.direct and trial.reason]
        predictions = (trial.outcome_prediction for trial in self.measured)
        reasons = [prediction.reason for prediction in predictions if prediction and prediction.reason]
        counts = Counter(failed or reasons)
        return min(counts, key=lambda reason: (-counts[reason], reason)) if counts else None


class Group(Trials):
    """The trials of one condition, also per pair of NATs. `label` is unique in the report."""

    def __init__(self, condition: Condition, label: str, slug: str, trials: Iterable[RunTrial]) -> None:
        super().__init__(trials)
        self.condition, self.label, self.slug = condition, label, slug

    @cached_property
    def pairs(self) -> tuple[PairTrials, ...]:
        """The trials per pair of NATs, from the most permissive to the strictest."""
        found: dict[tuple[str, str], list[RunTrial]] = {}
        for trial in self.all:
            found.setdefault((trial.nat_a, trial.nat_b), []).append(trial)
        order = sorted(found, key=lambda nats: (nat_order(nats[0]), nat_order(nats[1])))
        return tuple(PairTrials(*nats, found[nats]) for nats in order)

    def pair(self, nat_a: str, nat_b: str) -> PairTrials | None:
        """Return the trials of a pair of NATs; None if it was not run."""
        return self._by_nats.get((nat_a, nat_b))

    @cached_property
    def _by_nats(self) -> dict[tuple[str, str], PairTrials]:
        return {(pair.nat_a, pair.nat_b): pair for pair in self.pairs}

    @cached_property
    def nats_a(self) -> list[str]:
        """The NATs of the first host."""
        return sorted({pair.nat_a for pair in self.pairs}, key=nat_order)

    @cached_property
    def nats_b(self) -> list[str]:
        """The NATs of the second host."""
        return sorted({pair.nat_b for pair in self.pairs}, key=nat_order)

    @property
    def series(self) -> str:
        """The label without the topology; empty if the label is the topology."""
        return self.label.removeprefix(self.condition.topology).removeprefix(SEPARATOR)


def group_trials(trials: Iterable[RunTrial]) -> list[Group]:
    """Return one group per condition, ordered by topology and then by the other conditions.

    A label contains the topology and the conditions that differ between groups of one topology. A `lab_error` with
    unknown conditions is added to a possible group, first to one of its run. Run folders with trials of the same pair
    of NATs under one condition have separate groups.
    """
    found = _apart_by_run(_by_condition(trials))
    conditions = sorted(found, key=Condition.order)
    differing = {"topology"}
    for place, field in enumerate((*_PLACES, "run")):
        seen: dict[str, set[object]] = {}
        for condition in conditions:
            seen.setdefault(condition.topology, set()).add((*condition.values, condition.run)[place])
        if any(len(values) > 1 for values in seen.values()):
            differing.add(field)
    groups: list[Group] = []
    slugs: set[str] = set()
    for condition in conditions:
        label = SEPARATOR.join(words for name, words in condition.words().items() if name in differing)
        slug = base = slug_of(label)
        while slug in slugs:
            slug = f"{base}-{len(slugs)}"
        slugs.add(slug)
        groups.append(Group(condition, label, slug, found[condition]))
    return groups


def totals(groups: Sequence[Group], everything: Trials) -> list[tuple[str, Trials]]:
    """Return the trials of each total: all under the name "", or per run folder if folders have common cells."""
    if all(group.condition.run is None for group in groups):
        return [("", everything)]
    runs: dict[str, list[RunTrial]] = {}
    for trial in everything.all:
        runs.setdefault(trial.run, []).append(trial)
    return [(run, Trials(trials)) for run, trials in runs.items()]


def slug_of(label: str) -> str:
    """Return the label as a part of a file name."""
    return re.sub(r"[^a-z0-9._]+", "-", label.lower()).strip("-.")[:_LONGEST_SLUG] or "group"


def _by_condition(trials: Iterable[RunTrial]) -> dict[Condition, list[RunTrial]]:
    alike: dict[tuple[object, ...], list[RunTrial]] = {}
    broken = []
    for trial in trials:
        if trial.lab_error:
            broken.append(trial)
        else:
            alike.setdefault(_KEY(trial), []).append(trial)
    found: dict[Condition, list[RunTrial]] = {}
    for some in alike.values():
        found.setdefault(Condition.of(some[0]), []).extend(some)
    runs = {condition: {trial.run for trial in some} for condition, some in found.items()}
    measured = sorted(found, key=Condition.order)
    places: dict[tuple[Condition, str], Condition] = {}
    for trial in broken:
        condition = Condition.of(trial)
        if (condition, trial.run) not in places:
            possible = [other for other in measured if condition.may_be(other)]
            own = [other for other in possible if trial.run in runs[other]]
            places[condition, trial.run] = (own or possible or [condition])[0]
        found.setdefault(places[condition, trial.run], []).append(trial)
    return found


def _apart_by_run(found: Mapping[Condition, list[RunTrial]]) -> dict[Condition, list[RunTrial]]:
    """Return the same, with a condition per run folder if two folders have the same pair of NATs."""
    shared = set()
    for condition, trials in found.items():
        runs: dict[tuple[str, str], str] = {}
        if any(runs.setdefault((trial.nat_a, trial.nat_b), trial.run) != trial.run for trial in trials):
            shared.add(condition.setting)  # strategies are compared within one run
    apart: dict[Condition, list[RunTrial]] = {}
    for condition, trials in found.items():
        if condition.setting not in shared:
            apart[condition] = trials
            continue
        for trial in trials:
            apart.setdefault(replace(condition, run=trial.run), []).append(trial)
    return apart


def common_pairs(groups: Sequence[Group], measured: Callable[[PairTrials], bool]) -> list[Trials]:
    """Return, per group, the trials of the NAT pairs that are `measured` in every group."""
    kept = [{(pair.nat_a, pair.nat_b) for pair in group.pairs if measured(pair)} for group in groups]
    common = set.intersection(*kept) if kept else set()
    return [Trials(t for t in group.all if (t.nat_a, t.nat_b) in common) for group in groups]
