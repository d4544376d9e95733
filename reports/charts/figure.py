"""The style and colours of all charts, and the conversion of a figure to PNG and SVG."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from textwrap import wrap
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from punchlab.reports.groups import SEPARATOR, Group

WIDTH_IN = 5.8
"""Width of a chart in inches: legible on a phone; wider only for many NATs."""
_LONGEST_PART = 80
"""Maximum number of characters of a condition in a chart."""

# Okabe and Ito, "Color Universal Design" (2008): eight colours that colour-blind readers distinguish.
BLUE, SKY, GREEN, YELLOW, ORANGE, VERMILION, PURPLE, GREY = (
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
    "#8A8A8A",
)
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, GREY)
ALARM = "#D00000"
OUTCOME_COLOURS: Mapping[str, str] = {
    "direct": BLUE,
    "relayed": SKY,
    "refused": ORANGE,
    "hopeless": "#6B3A00",
    "punch_timeout": VERMILION,
    "no_rendezvous": PURPLE,
    "wrong_peer": YELLOW,
    "client_error": GREY,
}

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # part of matplotlib
    "font.size": 9.5,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a dollar sign in a name starts no formula
    "svg.hashsalt": "punchlab",  # else ids in the SVG are random
    "svg.fonttype": "path",  # fonts of the reader have other widths
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart. `name`: file name without the extension. `alt`: its content in words. `width_px`: its natural width in
    CSS pixels.
    """

    name: str
    alt: str
    caption: str
    width_px: int
    png: bytes
    svg: bytes


@contextmanager
def style() -> Iterator[None]:
    """Set the style of the charts inside the `with`."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user does not change a report
        matplotlib.rcParams.update(_STYLE)
        with warnings.catch_warnings():  # names may be in any script; the page shows them as text
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
            warnings.filterwarnings("ignore", "constrained_layout not applied")  # names may have any length
            yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure with automatic layout."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def set_title(figure: Figure, title: str, label: str = "") -> None:
    """Set the title in bold, and below it the conditions, in several lines if necessary."""
    characters = int(figure.get_figwidth() * 9.5)
    figure.suptitle("\n".join([title, *_lines(label, characters)]), x=0.01, horizontalalignment="left")


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Set one y tick with a name per row, from top to bottom."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def row_names(groups: Sequence[Group], numbers: Sequence[int]) -> tuple[list[str], float]:
    """Return a name in several short lines per group, with its n, and the height of a row in inches."""
    names = ["\n".join([*_lines(group.label, 26), f"n = {n}"]) for group, n in zip(groups, numbers, strict=True)]
    return names, 0.25 + 0.14 * max(name.count("\n") + 1 for name in names)


def _lines(label: str, characters: int) -> list[str]:
    """Return the label in lines that break between its conditions if these fit."""
    parts = [part if len(part) <= _LONGEST_PART else f"{part[:_LONGEST_PART]}…" for part in label.split(SEPARATOR)]
    tied = SEPARATOR.join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrap(tied, characters)]


def finish(figure: Figure, name: str, alt: str, caption: str) -> Chart:
    """Draw the figure as PNG and SVG, without dates or program versions."""
    png, svg = BytesIO(), BytesIO()
    engine = figure.get_layout_engine()
    if engine is not None:  # once, not for each format: the layout takes longer than drawing
        engine.execute(figure)
        figure.set_layout_engine(None)
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(name, alt, caption, round(figure.get_figwidth() * 96), png.getvalue(), svg.getvalue())


def time_axis(axes: Axes, seconds: list[float]) -> None:
    """Make x an axis of milliseconds: from zero, or logarithmic if the times span a factor of 20 or more."""
    axes.set_xlabel("milliseconds since the first SYN of either host")
    axes.grid(axis="x")
    least, most = min(seconds, default=0.0) * 1000, max(seconds, default=0.0) * 1000
    if least > 0 and most / least >= 20:
        axes.set_xscale("log")
        axes.set_xlim(least / 1.5, most * 1.5)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("milliseconds since the first SYN of either host (logarithmic)")
    else:
        axes.set_xlim(0, most * 1.08 or 1)
