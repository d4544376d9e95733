"""The charts of a report, by matplotlib's object-oriented API: no global state, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from punchlab.reports.charts.comparison import latency_by_topology, success_by_topology
from punchlab.reports.charts.figure import Chart, style
from punchlab.reports.charts.heatmap import success_heatmap
from punchlab.reports.charts.latency import latency_charts
from punchlab.reports.charts.outcomes import outcome_bars
from punchlab.reports.charts.strategies import strategies_overview, strategy_chart
from punchlab.reports.groups import Group
from punchlab.reports.strategy_comparison import Comparison, StrategyComparison


@dataclass(frozen=True, slots=True)
class Charts:
    """Every chart of a report; `per_group` follows the order of the groups, `per_contest` that of the contests."""

    outcomes: Chart
    comparison: tuple[Chart, ...]
    strategies: Chart | None
    per_contest: tuple[Chart, ...]
    per_group: tuple[tuple[Chart, ...], ...]

    @property
    def all(self) -> tuple[Chart, ...]:
        """All of them, in the order of the page."""
        compared = (*self.comparison, *([self.strategies] if self.strategies else []), *self.per_contest)
        return (self.outcomes, *compared, *(chart for charts in self.per_group for chart in charts))


def draw(groups: Sequence[Group], contests: Sequence[StrategyComparison], comparisons: Sequence[Comparison]) -> Charts:
    """Draw everything that the trials can show; the comparison is empty where there is nothing to compare."""
    with style():
        compared = (success_by_topology(groups), latency_by_topology(groups)) if len(groups) > 1 else ()
        return Charts(
            outcomes=outcome_bars(groups),
            comparison=tuple(chart for chart in compared if chart),
            strategies=strategies_overview(contests, comparisons),
            per_contest=tuple(strategy_chart(contest, comparisons) for contest in contests),
            per_group=tuple((success_heatmap(group), *latency_charts(group)) for group in groups),
        )
