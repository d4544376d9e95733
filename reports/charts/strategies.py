"""Direct trials by strategy and pair of NATs: one chart per setting, and one over all settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from punchlab.reports.charts.figure import ALARM, ORANGE, WIDTH_IN, Chart, finish, new_figure, set_title
from punchlab.reports.groups import SEPARATOR, nat_order
from punchlab.reports.strategy_comparison import CHOOSER, Comparison, Nats, StrategyComparison, strategy_order
from punchlab.reports.words import count

_CELL_IN, _TIGHT_CELL_IN, _ROW_IN = 0.64, 0.52, 0.27
_NAMES_IN = 2.5  # the names of both NATs
_GAP = 0.3  # of a row, between two NATs of the first host
_RATES = colormaps["cividis"]
_DARK_BELOW = 0.55  # rates whose colour needs white text

Count = tuple[int, int]
"""Direct trials, and all measured trials."""
Counts = Callable[[str, Nats], Count | None]
"""Strategy and pair of NATs -> its trials; None without any."""


def strategy_chart(setting: StrategyComparison, comparisons: Sequence[Comparison]) -> Chart:
    """Draw one setting: a row per NAT pair, a column per strategy, `direct/trials` in each cell."""

    def counts(strategy: str, nats: Nats) -> Count | None:
        trials = setting.trials(strategy, nats)
        return None if trials is None else (trials.k, trials.n)

    rejected = {(each.strategy, each.nats) for each in comparisons if each.rejected and each.setting is setting}
    figure = _drawn({"": counts}, setting.strategies, setting.pairs, {"": rejected}, setting.groups[0].condition.pair)
    set_title(figure, f"Success by strategy (n = {sum(group.n for group in setting.groups):,})", setting.label)
    return finish(
        figure,
        f"strategies-{setting.slug}",
        f"Direct connections per strategy and pair of NATs, {setting.label}: {_totals([setting])}.",
        "Each cell: direct/trials.",
    )


def strategies_overview(settings: Sequence[StrategyComparison], comparisons: Sequence[Comparison]) -> Chart | None:
    """Draw the sum of all settings of one topology; None for a single setting.

    There is a panel for each answer to unsolicited SYNs, and for each run folder if folders have common cells.
    """
    if len(settings) < 2 or len({setting.groups[0].condition.topology for setting in settings}) > 1:
        return None
    panels = {title: list(alike) for title, alike in groupby(sorted(settings, key=_title), key=_title)}
    strategies = sorted({name for setting in settings for name in setting.strategies}, key=strategy_order)
    pairs = sorted({nats for setting in settings for nats in setting.pairs}, key=lambda nats: [*map(nat_order, nats)])
    figure = _drawn(
        {title: _pooled(alike) for title, alike in panels.items()},
        strategies,
        pairs,
        {
            title: {(each.strategy, each.nats) for each in comparisons if each.rejected and each.setting in alike}
            for title, alike in panels.items()
        },
        settings[0].groups[0].condition.pair,
    )
    condition = settings[0].groups[0].condition
    total = sum(group.n for setting in settings for group in setting.groups)
    delays = sorted({group.condition["delay_s"] or 0.0 for setting in settings for group in setting.groups})
    over = f"delays of {', '.join(f'{delay * 1000:g}' for delay in delays)} ms one way, added up"
    set_title(figure, f"Success by strategy (n = {total:,})", SEPARATOR.join((condition.topology, over)))
    return finish(
        figure,
        "strategies",
        f"Direct connections per strategy and pair of NATs, over {count(len(settings), 'condition')}: "
        f"{_totals_by_run(settings)}.",
        "Each cell: direct/trials, over all conditions of its panel.",
    )


def _title(setting: StrategyComparison) -> str:
    condition = setting.groups[0].condition
    answer = f"unsolicited SYNs: {condition['unsolicited'] or 'as the NATs do'}"
    return answer if condition.run is None else f"{answer}\nrun {condition.run}"


def _pooled(settings: Sequence[StrategyComparison]) -> Counts:
    def counts(strategy: str, nats: Nats) -> Count | None:
        found = [trials for setting in settings if (trials := setting.trials(strategy, nats)) is not None]
        return (sum(trials.k for trials in found), sum(trials.n for trials in found)) if found else None

    return counts


def _totals_by_run(settings: Sequence[StrategyComparison]) -> str:
    runs = list(dict.fromkeys(setting.groups[0].condition.run for setting in settings))
    alike = {run: [setting for setting in settings if setting.groups[0].condition.run == run] for run in runs}
    return "; ".join(f"run {run}: {_totals(some)}" if run else _totals(some) for run, some in alike.items())


def _totals(settings: Sequence[StrategyComparison]) -> str:
    names = sorted({name for setting in settings for name in setting.strategies}, key=strategy_order)
    parts = []
    for name in names:
        groups = [group for setting in settings for group in setting.groups if group.condition.strategy == name]
        parts.append(f"{name} {sum(group.k for group in groups)}/{sum(group.n for group in groups)}")
    return ", ".join(parts)


def _drawn(
    panels: Mapping[str, Counts],
    strategies: Sequence[str],
    pairs: Sequence[Nats],
    rejected: Mapping[str, set[tuple[str, Nats]]],
    hosts: tuple[str, str],
) -> Figure:
    tops = _tops(pairs)
    height = tops[-1] + 1
    cell_in = _CELL_IN if len(panels) == 1 else _TIGHT_CELL_IN
    width_in = max(WIDTH_IN, _NAMES_IN + cell_in * len(strategies) * len(panels) + 0.9)
    figure = new_figure(width_in, 1.75 + _ROW_IN * height + (0.2 if len(panels) > 1 else 0.0))
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, (axes, (title, counts)) in enumerate(zip(every, panels.items(), strict=True)):
        for x, strategy in enumerate(strategies):
            for top, nats in zip(tops, pairs, strict=True):
                _cell(axes, x, top, counts(strategy, nats), rejected=(strategy, nats) in rejected[title])
        if CHOOSER in strategies:
            x = strategies.index(CHOOSER)
            frame = Rectangle((x, -0.08), 1, height + 0.16, fill=False, edgecolor=ORANGE, linewidth=2.2, clip_on=False)
            axes.add_patch(frame)
        axes.set_xlim(0, len(strategies))
        axes.set_ylim(height + 0.1, -0.1)
        axes.set_xticks(
            [x + 0.5 for x in range(len(strategies))], strategies, fontsize=8.5 if len(panels) == 1 else 7.5
        )
        axes.xaxis.tick_top()
        for label in axes.get_xticklabels():
            label.set_fontweight("bold" if label.get_text() == CHOOSER else "normal")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_yticks([])
        if title:
            axes.set_title(title, fontsize=9.5, pad=8)
        if place == 0:
            _name_pairs(axes, pairs, tops, hosts)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), _RATES),
        ax=list(every),
        format=PercentFormatter(1),
        fraction=0.03,
        shrink=min(1.0, 10 / height),
        pad=0.02,
        aspect=24,
    )
    bar.set_label("direct connections, % of trials")
    bar.outline.set_visible(False)
    handles = []
    if CHOOSER in strategies:
        handles.append(
            Patch(facecolor="none", edgecolor=ORANGE, linewidth=2.2, label=f"{CHOOSER}, which chooses a strategy")
        )
    if any(rejected.values()):
        handles.append(Patch(facecolor="none", edgecolor=ALARM, linewidth=2, label=f"{CHOOSER} is worse than this"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _tops(pairs: Sequence[Nats]) -> list[float]:
    """Return the top of each row, in rows: there is a gap where the NAT of the first host changes."""
    tops: list[float] = []
    for number, (nat_a, _nat_b) in enumerate(pairs):
        gap = _GAP if number and pairs[number - 1][0] != nat_a else 0.0
        tops.append(tops[-1] + 1 + gap if tops else 0.0)
    return tops


def _name_pairs(axes: Axes, pairs: Sequence[Nats], tops: Sequence[float], hosts: tuple[str, str]) -> None:
    """Write the NAT of the second host at each row, and that of the first host once for all its rows."""
    axes.set_yticks([top + 0.5 for top in tops], [nat_b for _nat_a, nat_b in pairs], fontsize=8)
    edge = axes.get_yaxis_transform()
    width_in = max(len(nat_b) for _nat_a, nat_b in pairs) * 0.066 + 0.12
    rows = list(zip(tops, pairs, strict=True))
    for nat_a, alike in groupby(rows, key=lambda row: row[1][0]):
        own = [top for top, _nats in alike]
        axes.annotate(
            nat_a.replace("_", "_\n") if len(own) > 2 else nat_a,
            (0, (own[0] + own[-1] + 1) / 2),
            (-width_in * 72, 0),
            xycoords=edge,
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8.5,
        )
    for text, offset_in in ((f"NAT of {hosts[0]}", width_in), (f"NAT of {hosts[1]}", 0.05)):
        axes.annotate(
            text,
            (0, -0.1),
            (-offset_in * 72, 5),
            xycoords=edge,
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8.5,
            color="#555555",
        )


def _cell(axes: Axes, x: int, top: float, counted: Count | None, *, rejected: bool) -> None:
    if counted is None:
        axes.add_patch(
            Rectangle((x + 0.03, top + 0.04), 0.94, 0.92, facecolor="#f2f2f2", edgecolor="#cccccc", hatch="///")
        )
        return
    k, n = counted
    rate = k / n
    axes.add_patch(Rectangle((x + 0.03, top + 0.04), 0.94, 0.92, facecolor=_RATES(rate), edgecolor="none"))
    ink = "white" if rate < _DARK_BELOW else "#111111"
    axes.text(x + 0.5, top + 0.52, f"{k}/{n}", ha="center", va="center", fontsize=8, color=ink)
    if rejected:
        axes.add_patch(Rectangle((x + 0.06, top + 0.09), 0.88, 0.82, fill=False, edgecolor=ALARM, linewidth=2))
