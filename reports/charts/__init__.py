"""The charts of a report, by matplotlib's object-oriented API: no global state, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.charts.comparison import latency_by_topology, success_by_topology
from reports.charts.figure import Chart, style
from reports.charts.heatmap import success_heatmap
from reports.charts.latency import latency_charts
from reports.charts.outcomes import outcome_bars
from reports.groups import Group


@dataclass(frozen=True, slots=True)
class Charts:
    """Every chart of a report; `per_group` follows the order of the groups."""

    outcomes: Chart
    comparison: tuple[Chart, ...]
    per_group: tuple[tuple[Chart, ...], ...]

    @property
    def all(self) -> tuple[Chart, ...]:
        """All of them, in the order of the page."""
        return (self.outcomes, *self.comparison, *(chart for charts in self.per_group for chart in charts))


def draw(groups: Sequence[Group]) -> Charts:
    """Draw everything that the trials can show; the comparison is empty where there is nothing to compare."""
    with style():
        compared = (success_by_topology(groups), latency_by_topology(groups)) if len(groups) > 1 else ()
        return Charts(
            outcomes=outcome_bars(groups),
            comparison=tuple(chart for chart in compared if chart),
            per_group=tuple((success_heatmap(group), *latency_charts(group)) for group in groups),
        )
