"""What all charts share: the look, the colours, and how a figure becomes a PNG and an SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

WIDTH_IN = 8.5
"""Width of a chart in inches; taller and wider only where the number of NATs asks for it."""

# Okabe and Ito, "Color Universal Design" (2008): eight colours that colour-blind readers tell apart.
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
    "punch_timeout": VERMILION,
    "no_rendezvous": PURPLE,
    "wrong_peer": YELLOW,
    "client_error": GREY,
}

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "svg.hashsalt": "punchlab",  # ids in the SVG would be random
    "svg.fonttype": "path",  # the reader's fonts have other widths
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A finished chart. `name` is its file name without the ending; `alt` says in words what it shows."""

    name: str
    alt: str
    caption: str
    png: bytes
    svg: bytes


@contextmanager
def style() -> Iterator[None]:
    """The look of the charts, inside the `with` only."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's must not change a report
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that lays itself out."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Figure, name: str, alt: str, caption: str) -> Chart:
    """Draw the figure as PNG and SVG, without dates or program versions in them."""
    png, svg = BytesIO(), BytesIO()
    figure.savefig(png, format="png", dpi=144, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(name, alt, caption, png.getvalue(), svg.getvalue())


def time_axis(axes: Axes, seconds: list[float]) -> None:
    """Make x an axis of milliseconds: from zero, or logarithmic where the times span a factor of 20 or more."""
    axes.set_xlabel("milliseconds since both hosts knew their peer")
    axes.grid(axis="x")
    least, most = min(seconds, default=0.0) * 1000, max(seconds, default=0.0) * 1000
    if least > 0 and most / least >= 20:
        axes.set_xscale("log")
        axes.set_xlim(least / 1.5, most * 1.5)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("milliseconds since both hosts knew their peer (logarithmic)")
    else:
        axes.set_xlim(0, most * 1.08 or 1)
