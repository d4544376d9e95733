"""The charts of a report, drawn without global state: the same trials give the same bytes."""

from __future__ import annotations

from punchlab.reports.charts import library

library.load()

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
    """Every chart of a report. `per_group` has the order of the groups, `per_setting` that of the settings."""

    outcomes: Chart
    comparison: tuple[Chart, ...]
    strategies: Chart | None
    per_setting: tuple[Chart, ...]
    per_group: tuple[tuple[Chart, ...], ...]

    @property
    def all(self) -> tuple[Chart, ...]:
        """All charts, in the order of the page."""
        compared = (*self.comparison, *([self.strategies] if self.strategies else []), *self.per_setting)
        return (self.outcomes, *compared, *(chart for charts in self.per_group for chart in charts))


def draw(groups: Sequence[Group], settings: Sequence[StrategyComparison], comparisons: Sequence[Comparison]) -> Charts:
    """Draw all charts; the comparison is empty if there is nothing to compare."""
    with style():
        compared = (success_by_topology(groups), latency_by_topology(groups)) if len(groups) > 1 else ()
        return Charts(
            outcomes=outcome_bars(groups),
            comparison=tuple(chart for chart in compared if chart),
            strategies=strategies_overview(settings, comparisons),
            per_setting=tuple(strategy_chart(setting, comparisons) for setting in settings),
            per_group=tuple((success_heatmap(group), *latency_charts(group)) for group in groups),
        )
