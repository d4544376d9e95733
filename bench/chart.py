"""Draw charts of the benchmark: the build time of one lab and of larger labs, and the time to punch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.punching import WANTED
from punchlab.reports.charts.figure import BLUE, GREY, ORANGE, VERMILION, Chart, finish, new_figure, set_title, style

_COLOURS = {"punchlab": BLUE, "shell script": ORANGE, "Mininet": GREY}
_END_COLOURS = {"connected": BLUE, "agreed": ORANGE}


def draw(found: Mapping[str, Any]) -> Chart:
    """Draw the build times in `bench.json`."""
    with style():
        figure = new_figure(9.0, 3.6)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        _bars(left, found["ab"])
        _growth(right, found["homes"])
        pairs = len(found["ab"]["punchlab"]["build_s"])
        campaign = found["campaigns"]["0ms"]
        rate, cost = campaign["per_second"], campaign["cpu_s_per_trial"]
        set_title(
            figure,
            "Building a lab and tearing it down",
            f"medians, interleaved in one run (AB: {pairs} rounds), {found['machine']['cores']} cores; "
            f"in the same run {rate:.1f} trials per second at {cost:.2f} CPU s each",
        )
        ratios = found["ab"]["ratios"]
        words = ", ".join(f"{name} takes {ratio:.1f} times as long" for name, ratio in ratios.items())
        return finish(figure, "bench", f"Bars and lines of build times. For AB, {words}.", "")


def _bars(axes: Axes, ab: Mapping[str, Any]) -> None:
    for place, (name, colour) in enumerate(_COLOURS.items()):
        median_ms = ab[name]["median_s"] * 1000
        axes.barh(place, median_ms, 0.6, color=colour)
        times = "" if name == "punchlab" else f"  ({ab['ratios'][name]:.1f} x)"
        axes.text(median_ms, place, f" {median_ms:.0f} ms{times}", va="center")
    axes.set_yticks(range(len(_COLOURS)), list(_COLOURS))
    axes.invert_yaxis()
    axes.set_xlim(0, max(ab[name]["median_s"] for name in _COLOURS) * 1450)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("milliseconds")
    axes.set_title("AB: 6 nodes, 2 NATs", fontsize=9.5, loc="left")


def _growth(axes: Axes, homes: Mapping[str, Any]) -> None:
    sizes = [int(size) for size in homes]
    for name, colour in _COLOURS.items():
        seconds = [homes[str(size)][name]["median_s"] for size in sizes]
        axes.plot(sizes, seconds, marker="o", color=colour)
        end = (sizes[-1], seconds[-1])
        axes.annotate(name, end, (6, 0), textcoords="offset points", color=colour, va="center", fontsize=8.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(axis="y")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(sizes[0] / 1.2, sizes[-1] * 2.2)
    axes.set_xlabel("homes (two nodes each)")
    axes.set_title("Larger labs", fontsize=9.5, loc="left")


def punching(found: Mapping[str, Any]) -> Chart:
    """Draw the time to punch in `bench.json` as multiples of the floor: a box and the limits per delay and end."""
    timed = found["punching"]
    rows = [(f"{delay} ms", end, each) for delay, ends in timed["by_delay"].items() for end, each in ends.items()]
    with style():
        figure = new_figure(7.0, 1.5 + 0.36 * len(rows))
        axes = figure.add_subplot()
        for place, (_delay, end, each) in enumerate(rows):
            colour = _END_COLOURS[end]
            axes.boxplot(
                each["ratios"],
                positions=[place],
                orientation="horizontal",
                widths=0.5,
                whis=(5, 95),
                showfliers=False,
                patch_artist=True,
                boxprops={"facecolor": colour, "alpha": 0.45, "edgecolor": colour},
                whiskerprops={"color": colour},
                capprops={"color": colour},
                medianprops={"color": "#111111", "linewidth": 1.6},
            )
            for name, (factor, more) in WANTED.items():
                limit = factor + more / each["floor_median_s"]
                dashes = "-" if name == "median" else (0, (2, 1.2))
                axes.plot([limit] * 2, [place - 0.36, place + 0.36], color=VERMILION, linestyle=dashes, linewidth=1.6)
        axes.set_yticks(range(len(rows)), [f"{end}, {delay} one way, n = {each['n']}" for delay, end, each in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(left=0.95)
        axes.grid(axis="x")
        axes.set_xlabel("time since both clients received the endpoints / minimum possible time")
        set_title(
            figure, "Time to punch", f"strategy {timed['strategy']}, NATs that drop, {found['machine']['cores']} cores"
        )
        figure.legend(
            handles=[
                Line2D([], [], color="#111111", label="median (box: quartiles, whiskers: 5 % and 95 %)"),
                Line2D([], [], color=VERMILION, label="limit of the median"),
                Line2D([], [], color=VERMILION, linestyle=(0, (2, 1.2)), label="limit of the 95 % quantile"),
            ],
            loc="outside lower center",
            ncols=3,
        )
        words = "; ".join(f"{end} at {delay}: median {each['ratio_median']:.2f}" for delay, end, each in rows)
        return finish(figure, "punching", f"Box plots of times to punch over their floors. {words}.", "")
