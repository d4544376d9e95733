"""Compare topologies and other conditions, over the NAT pairs that all of them have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from punchlab.reports.charts.figure import (
    BLUE,
    SERIES,
    WIDTH_IN,
    Chart,
    finish,
    name_rows,
    new_figure,
    row_names,
    set_title,
    time_axis,
)
from punchlab.reports.charts.latency import draw_box, draw_floor, legend_handles
from punchlab.reports.groups import Group, Trials, common_pairs
from punchlab.reports.words import count, milliseconds, percent, ratio

_EXPECTED: dict[str, Any] = {"color": "#111111", "linestyle": (0, (2, 1.2)), "clip_on": False}


def success_by_topology(groups: Sequence[Group]) -> Chart | None:
    """Draw the overall success with Wilson's interval, a cluster of bars per topology; None without common NAT pairs.

    With more series than colours, draw one row per condition.
    """
    compared = common_pairs(groups, lambda pair: pair.n > 0)
    if not compared[0].n:
        return None
    pairs = len({(trial.nat_a, trial.nat_b) for trial in compared[0].measured})
    many = len({group.series for group in groups}) > len(SERIES)
    words = (
        f"{group.label} {ratio(trials.k, trials.n)} ({percent(trials.k / trials.n)})"
        for group, trials in zip(groups, compared, strict=True)
    )
    return finish(
        (_rows if many else _clusters)(groups, compared, pairs),
        "comparison-success",
        f"Bar chart of the overall success: {', '.join(words)}.",
        f"Only the {count(pairs, 'NAT pair')} measured under every condition are counted. Whiskers: Wilson's 95 % "
        "interval for this mix of pairs.",
    )


def _rows(groups: Sequence[Group], compared: Sequence[Trials], pairs: int) -> Figure:
    names, row_in = row_names(groups, [trials.n for trials in compared])
    figure = new_figure(WIDTH_IN, 1.8 + row_in * len(groups))
    axes = figure.add_subplot()
    for y, trials in enumerate(compared):
        rate, interval = trials.k / trials.n, trials.interval
        assert interval is not None
        axes.barh(y, rate, 0.62, color=BLUE, alpha=0.8)
        axes.errorbar(
            rate, y, xerr=[[rate - interval.low], [interval.high - rate]], color="#111111", capsize=4, linewidth=1.4
        )
        if trials.expected_rate is not None:
            axes.plot([trials.expected_rate] * 2, [y - 0.42, y + 0.42], **_EXPECTED)
        axes.text(1.03, y, ratio(trials.k, trials.n), va="center", fontsize=8.5)
    name_rows(axes, names)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x")
    axes.set_xlabel("direct connections, % of trials")
    set_title(figure, f"Success by condition (n = {sum(t.n for t in compared)})", f"over {count(pairs, 'NAT pair')}")
    figure.legend(handles=[_expected()], loc="outside lower center")
    return figure


def _clusters(groups: Sequence[Group], compared: Sequence[Trials], pairs: int) -> Figure:
    topologies = list(dict.fromkeys(group.condition.topology for group in groups))
    series = list(dict.fromkeys(group.series for group in groups))
    width = min(0.8 / len(series), 0.4)
    figure = new_figure(max(WIDTH_IN, 1.2 + 0.5 * len(topologies) * len(series)), 4.2)
    axes = figure.add_subplot()
    for group, trials in zip(groups, compared, strict=True):
        index = series.index(group.series)
        x = topologies.index(group.condition.topology) + (index - (len(series) - 1) / 2) * width
        rate, interval = trials.k / trials.n, trials.interval
        assert interval is not None
        axes.bar(x, rate, width * 0.86, **_fill(index))
        axes.errorbar(
            x, rate, [[rate - interval.low], [interval.high - rate]], color="#111111", capsize=4, linewidth=1.4
        )
        expected = trials.expected_rate
        if expected is not None:
            axes.plot([x - width * 0.43, x + width * 0.43], [expected] * 2, **_EXPECTED)
        axes.text(x, interval.high + 0.015, ratio(trials.k, trials.n), ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(topologies)), topologies)
    axes.set_xlim(-0.6, len(topologies) - 0.4)
    axes.set_ylim(0, 1.12)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y")
    axes.set_xlabel("topology")
    axes.set_ylabel("direct connections, % of trials")
    set_title(figure, f"Success by topology (n = {sum(t.n for t in compared)})", f"over {count(pairs, 'NAT pair')}")
    handles: list[Line2D | Patch] = []
    if len(series) > 1:
        handles += [Patch(label=words, **_fill(index)) for index, words in enumerate(series)]
    handles.append(_expected())
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _expected() -> Line2D:
    return Line2D([], [], label="expected by the oracle", **_EXPECTED)


def _fill(index: int) -> dict[str, Any]:
    """Return the style of a series: its colour, and a hatching if all colours are used."""
    round_, colour = divmod(index, len(SERIES))
    return {"facecolor": SERIES[colour], "alpha": 0.8, "hatch": ("", "//", "..", "xx")[round_ % 4]}


def latency_by_topology(groups: Sequence[Group]) -> Chart | None:
    """Draw the time to `connected` per condition as boxes; None if no NAT pair connected in all groups."""
    compared = common_pairs(groups, lambda pair: bool(pair.timings("connected")))
    if not compared[0].timings("connected"):
        return None
    names, row_in = row_names(groups, [len(trials.timings("connected")) for trials in compared])
    figure = new_figure(WIDTH_IN, 1.8 + row_in * len(groups))
    axes = figure.add_subplot()
    for y, trials in enumerate(compared):
        draw_box(axes, y, trials.timings("connected"), BLUE, 0.5)
        draw_floor(axes, y, trials.floor_s, 0.72)
    name_rows(axes, names)
    everything = [seconds for trials in compared for seconds in trials.timings("connected")]
    time_axis(axes, everything + [trials.floor_s for trials in compared if trials.floor_s])
    pairs = len({(trial.nat_a, trial.nat_b) for trial in compared[0].direct})
    set_title(figure, f"Latency by topology (n = {len(everything)})", f"over {count(pairs, 'NAT pair')}")
    figure.legend(
        handles=legend_handles(["connected"], any(trials.floor_s is not None for trials in compared)),
        loc="outside lower center",
        ncols=2,
    )
    medians = (f"{g.label} {milliseconds(t.median('connected'))}" for g, t in zip(groups, compared, strict=True))
    return finish(
        figure,
        "comparison-latency",
        f"Box plots of the time to connected; medians: {', '.join(medians)}.",
        f"Only the {count(pairs, 'NAT pair')} that connected under every condition are counted.",
    )
