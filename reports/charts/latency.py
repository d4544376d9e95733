"""Duration of a punch per pair of NATs: dots and boxes for few trials, distributions for many."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from punchlab.reports.charts.figure import (
    BLUE,
    ORANGE,
    WIDTH_IN,
    Chart,
    finish,
    name_rows,
    new_figure,
    set_title,
    time_axis,
)
from punchlab.reports.charts.maps import colour_bar, draw_map, map_figure
from punchlab.reports.groups import Group, PairTrials
from punchlab.reports.results import TIMES

_MANY = 20
"""Minimum number of direct trials for a distribution; fewer have a box."""
_MANY_DOTS = 500
"""Maximum number of dots in a row of a chart."""
_MANY_PAIRS = 60
"""Maximum number of pairs of NATs with a row or panel each; more are drawn as a map."""
_STAGES = {"connected": BLUE, "agreed": ORANGE}
_FLOOR = {"color": "#111111", "linewidth": 1.8}
_FLOOR_WORDS = "least possible time to connect (oracle)"


def latency_charts(group: Group) -> list[Chart]:
    """Return a box chart of the pairs with few direct trials and a CDF chart of those with 20 or more, if any.

    Many pairs are drawn as a map of medians instead.
    """
    timed = [pair for pair in group.pairs if pair.timed]
    if len(timed) > _MANY_PAIRS:
        return [_map(group, timed)]
    few = [pair for pair in timed if _n(pair) < _MANY]
    many = [pair for pair in timed if _n(pair) >= _MANY]
    return [*([_boxes(group, few)] if few else []), *([_distributions(group, many)] if many else [])]


def _n(pair: PairTrials) -> int:
    return max(len(pair.timings(stage)) for stage in _STAGES)


def _seconds(pairs: Sequence[PairTrials]) -> list[float]:
    found = [seconds for pair in pairs for stage in _STAGES for seconds in pair.timings(stage)]
    return found + [pair.floor_s for pair in pairs if pair.floor_s]


def draw_box(axes: Axes, y: float, seconds: Sequence[float], colour: str, height: float) -> None:
    """Draw a horizontal box (quartiles, median; whiskers to 1.5 interquartile ranges) and a dot for every value."""
    values = [value * 1000 for value in seconds]
    if len(values) > 1:
        axes.boxplot(
            [values],
            positions=[y],
            widths=height,
            orientation="horizontal",
            manage_ticks=False,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.35, "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 2.2},
            whiskerprops={"color": colour},
            capprops={"color": colour},
        )
    dots = _apart(values)
    axes.plot(dots, [y] * len(dots), "o", color=colour, markersize=3.2, alpha=0.75, markeredgewidth=0)


def _apart(values: Sequence[float]) -> Sequence[float]:
    """Return the values without those whose dots would cover each other; `values` ascend."""
    if len(values) <= _MANY_DOTS:
        return values
    step = (values[-1] - values[0]) / _MANY_DOTS
    kept = [values[0]]
    kept += [value for before, value in pairwise(values) if value // step != before // step] if step else []
    return kept


def draw_floor(axes: Axes, y: float, floor_s: float | None, height: float) -> None:
    """Draw a vertical line at the least possible time."""
    if floor_s is not None:
        axes.plot([floor_s * 1000] * 2, [y - height / 2, y + height / 2], **_FLOOR)  # type: ignore[arg-type]


def legend_handles(stages: Sequence[str], floor: bool) -> list[Line2D | Patch]:
    """Return the legend of the stages, and of the floor if there is one."""
    handles: list[Line2D | Patch] = [Patch(facecolor=_STAGES[s], alpha=0.6, label=f"time to {s}") for s in stages]
    if floor:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="|",
                markersize=11,
                markeredgewidth=1.8,
                color="#111111",
                label=_FLOOR_WORDS,
            )
        )
    return handles


def _map(group: Group, pairs: Sequence[PairTrials]) -> Chart:
    names = {(pair.nat_a, pair.nat_b): pair.median("connected") for pair in pairs}
    figure, axes = map_figure(group.nats_a, group.nats_b, group.condition.pair)
    found = {nats: seconds * 1000 for nats, seconds in names.items() if seconds is not None}
    spread = max(found.values(), default=1.0) / max(min(found.values(), default=1.0), 1e-6)
    norm = (LogNorm if spread >= 20 else Normalize)(min(found.values(), default=0.0), max(found.values(), default=1.0))
    draw_map(axes, group.nats_a, group.nats_b, found, norm, "viridis_r")
    colour_bar(figure, axes, ScalarMappable(norm, "viridis_r"), "median milliseconds to connected")
    set_title(figure, f"Latency of direct connections (n = {sum(map(_n, pairs))})", group.label)
    return finish(
        figure,
        f"latency-{group.slug}",
        f"Map of the median time to connected per pair of NATs, {group.label}.",
        "Grey: no direct trial was timed. The numbers of each pair, with the floor, are in the table below.",
    )


def _boxes(group: Group, pairs: Sequence[PairTrials]) -> Chart:
    figure = new_figure(WIDTH_IN, 1.6 + 0.42 * len(pairs))
    axes = figure.add_subplot()
    for y, pair in enumerate(pairs):
        draw_box(axes, y - 0.18, pair.timings("connected"), _STAGES["connected"], 0.26)
        draw_box(axes, y + 0.18, pair.timings("agreed"), _STAGES["agreed"], 0.26)
        draw_floor(axes, y - 0.18, pair.floor_s, 0.4)
        axes.text(1.01, y, f"n = {_n(pair)}", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    name_rows(axes, [f"{pair.nat_a} {TIMES}\n{pair.nat_b}" for pair in pairs])
    time_axis(axes, _seconds(pairs))
    set_title(figure, f"Latency of direct connections (n = {sum(map(_n, pairs))})", group.label)
    figure.legend(
        handles=legend_handles(list(_STAGES), any(pair.floor_s is not None for pair in pairs)),
        loc="outside lower center",
        ncols=2,
    )
    return finish(
        figure,
        f"latency-{group.slug}",
        f"Box plots of the time to connected and to agreed per pair of NATs, {group.label}.",
        "Dots: every direct trial that was timed. Box: quartiles and median; whiskers: up to 1.5 interquartile ranges.",
    )


def _distributions(group: Group, pairs: Sequence[PairTrials]) -> Chart:
    columns = min(3, len(pairs))
    rows = ceil(len(pairs) / columns)
    figure = new_figure(WIDTH_IN, 1.4 + (1.75 if columns > 1 else 3.0) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)  # shared axes are slow; equal limits have the same effect
    seconds = _seconds(pairs)
    for axes, pair in zip(grid.flat, pairs, strict=False):
        for stage, colour in _STAGES.items():
            if timings := pair.timings(stage):
                axes.ecdf([seconds * 1000 for seconds in timings], color=colour, linewidth=1.8)
        if pair.floor_s is not None:
            axes.axvline(pair.floor_s * 1000, **_FLOOR)
        axes.set_title(f"{pair.nat_a} {TIMES}\n{pair.nat_b}  n = {_n(pair)}", fontsize=7.5, loc="left")
        time_axis(axes, seconds)
        axes.set_xlabel("")
        axes.set_ylim(0, 1.02)
        axes.grid()
        axes.tick_params(labelbottom=False)
    for axes in grid.flat[len(pairs) :]:
        axes.set_axis_off()
    for axes in grid[:, 1:].flat:
        axes.tick_params(labelleft=False)
    # The lowest panel of each column has the labels.
    for axes in grid.flat[max(0, len(pairs) - columns) : len(pairs)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("milliseconds")
    for axes in grid[:, 0]:
        axes.set_ylabel("share of trials")
    set_title(figure, f"Latency of direct connections (n = {sum(map(_n, pairs))})", group.label)
    figure.legend(
        handles=legend_handles(list(_STAGES), any(pair.floor_s is not None for pair in pairs)),
        loc="outside lower center",
        ncols=2,
    )
    return finish(
        figure,
        f"latency-cdf-{group.slug}",
        f"Cumulative distributions of the time to connected and to agreed per pair of NATs, {group.label}.",
        f"For pairs with {_MANY} or more direct trials: the share of trials by milliseconds since the first "
        "SYN of either host.",
    )
