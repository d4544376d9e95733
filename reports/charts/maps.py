"""Maps of many NAT pairs, without numbers in the cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter

from punchlab.reports.charts.figure import WIDTH_IN, new_figure

MANY_CELLS = 300
"""Minimum number of pairs for a map without numbers in its cells."""
_CELL_IN = 0.16
_NAMES_IN = 2.2
NO_RESULT = "#dddddd"


def map_figure(rows: Sequence[str], columns: Sequence[str], hosts: tuple[str, str]) -> tuple[Figure, Axes]:
    """Return an empty map with the names of the NATs of both hosts at its sides."""
    width_in = max(WIDTH_IN, _NAMES_IN + 1.0 + _CELL_IN * len(columns))
    figure = new_figure(width_in, _NAMES_IN + 0.8 + _CELL_IN * len(rows))
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns, fontsize=6.5, rotation=90)
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows, fontsize=6.5)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"NAT in front of {hosts[1]}")
    axes.set_ylabel(f"NAT in front of {hosts[0]}")
    return figure, axes


def draw_map(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[tuple[str, str], float],
    norm: Normalize,
    colours: str,
) -> None:
    """Draw a coloured cell for each pair of NATs that has a value; grey for the others."""
    grid = np.array([[values.get((row, column), np.nan) for column in columns] for row in rows])
    palette = colormaps[colours].with_extremes(bad=NO_RESULT)
    edges_x, edges_y = np.arange(len(columns) + 1), np.arange(len(rows) + 1)
    axes.pcolormesh(edges_x, edges_y, np.ma.masked_invalid(grid), cmap=palette, norm=norm, edgecolors="white", lw=0.3)


def colour_bar(
    figure: Figure, axes: Axes, colours: ScalarMappable, label: str, formatter: Formatter | None = None
) -> None:
    """Draw the legend of the colours."""
    bar = figure.colorbar(colours, ax=axes, format=formatter, shrink=0.6, pad=0.02, aspect=28)
    bar.set_label(label)
    bar.outline.set_visible(False)
