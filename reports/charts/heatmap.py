"""Heat maps of the success rate by the NATs of the two hosts, with the prediction."""

from __future__ import annotations

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from punchlab.reports.charts.figure import ALARM, WIDTH_IN, Chart, finish, new_figure, set_title
from punchlab.reports.charts.maps import MANY_CELLS, NO_RESULT, colour_bar, draw_map, map_figure
from punchlab.reports.groups import Group, PairTrials
from punchlab.reports.words import MEANINGS, count, percent_range, ratio

_CELL_IN = 0.8
_ASPECT = 0.92  # height of a cell to its width
_RATES = colormaps["cividis"]  # for readers with and without colour vision (Nuñez et al. 2018)
_DARK_BELOW = 0.55  # rates whose colour needs white text
_MARKERS = {"direct": ("o", "full"), "fails": ("x", "full"), "depends": ("o", "left")}


def success_heatmap(group: Group) -> Chart:
    """Draw the success rate per NAT pair with k/n, Wilson's interval and the prediction; red frames are disagreements.

    With `MANY_CELLS` or more, draw only colours and signs.
    """
    rows, columns = group.nats_a, group.nats_b
    if len(rows) * len(columns) >= MANY_CELLS:
        return _map(group)
    # A small map needs no colour bar: every cell shows its numbers.
    bar_in = 0.8 if len(rows) > 2 else 0.0
    width_in = max(WIDTH_IN if bar_in else 4.0, 1.4 + _CELL_IN * len(columns) + bar_in)
    figure = new_figure(width_in, 2.0 + _CELL_IN * _ASPECT * len(rows))
    axes = figure.add_subplot()
    for y, nat_a in enumerate(rows):
        for x, nat_b in enumerate(columns):
            _cell(axes, x, y, group.pair(nat_a, nat_b))
    axes.set_aspect(_ASPECT)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([x + 0.5 for x in range(len(columns))], [_broken(name) for name in columns], fontsize=8)
    axes.set_yticks([y + 0.5 for y in range(len(rows))], [_broken(name) for name in rows], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    host_a, host_b = group.condition.pair
    axes.set_xlabel(f"NAT in front of {host_b}")
    axes.set_ylabel(f"NAT in front of {host_a}")
    set_title(figure, f"Success rate (n = {group.n})", group.label)
    if bar_in:
        bar = figure.colorbar(
            ScalarMappable(Normalize(0, 1), _RATES),
            ax=axes,
            format=PercentFormatter(1),
            shrink=0.8,
            pad=0.02,
            aspect=28,
        )
        bar.set_label("direct connections, % of trials")
        bar.outline.set_visible(False)
    if handles := _legend(group):
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return _finished(
        figure,
        group,
        "Each cell: direct/trials, and Wilson's 95 % interval of the rate. The sign in its corner is the prediction.",
    )


def _map(group: Group) -> Chart:
    rows, columns = group.nats_a, group.nats_b
    figure, axes = map_figure(rows, columns, group.condition.pair)
    measured = [pair for pair in group.pairs if pair.n]
    norm = Normalize(0, 1)
    draw_map(axes, rows, columns, {(p.nat_a, p.nat_b): p.k / p.n for p in measured}, norm, _RATES.name)
    place = {name: number + 0.5 for number, name in enumerate(columns)}, {n: i + 0.5 for i, n in enumerate(rows)}
    signs: dict[tuple[str, str], list[PairTrials]] = {}
    for pair in measured:
        if pair.predicted:
            ink = "white" if pair.k / pair.n < _DARK_BELOW else "#111111"
            signs.setdefault((pair.predicted, ink), []).append(pair)
    for (predicted, ink), pairs in signs.items():
        sign = _sign(predicted, ink, [place[0][p.nat_b] for p in pairs], [place[1][p.nat_a] for p in pairs])
        sign.set_markersize(3.4)
        sign.set_markeredgewidth(0.8)
        axes.add_line(sign)
    odd = [pair for pair in measured if pair.disagreements]
    axes.plot(
        [place[0][pair.nat_b] for pair in odd],
        [place[1][pair.nat_a] for pair in odd],
        linestyle="none",
        marker="s",
        markersize=8.5,
        markerfacecolor="none",
        markeredgecolor=ALARM,
        markeredgewidth=1.6,
    )
    set_title(figure, f"Success rate (n = {group.n})", group.label)
    colour_bar(figure, axes, ScalarMappable(norm, _RATES), "direct connections, % of trials", PercentFormatter(1))
    handles = [*_legend(group), Patch(facecolor=NO_RESULT, label="not run, or no result")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return _finished(
        figure,
        group,
        "The sign in a cell is the prediction. The numbers of each pair are in the table below.",
    )


def _finished(figure: Figure, group: Group, caption: str) -> Chart:
    return finish(
        figure,
        f"success-{group.slug}",
        f"Heat map of the success rate per pair of NATs, {group.label}: {ratio(group.k, group.n)} trials direct, "
        f"{count(len(group.disagreements), 'disagreement')} with the oracle.",
        caption,
    )


def _cell(axes: Axes, x: int, y: int, pair: PairTrials | None) -> None:
    if pair is None or not pair.n:
        axes.add_patch(
            Rectangle((x + 0.02, y + 0.02), 0.96, 0.96, facecolor="#f2f2f2", edgecolor="#bbbbbb", hatch="///")
        )
        words = f"{count(len(pair.lab_errors), 'lab error')}\nno result" if pair else "not run"
        box = {"facecolor": "#f2f2f2", "edgecolor": "none", "pad": 1.5}
        axes.text(x + 0.5, y + 0.5, words, ha="center", va="center", fontsize=7.5, color="#444444", bbox=box)
        return
    rate = pair.k / pair.n
    ink = "white" if rate < _DARK_BELOW else "#111111"
    axes.add_patch(Rectangle((x + 0.02, y + 0.02), 0.96, 0.96, facecolor=_RATES(rate), edgecolor="none"))
    axes.text(x + 0.5, y + 0.44, ratio(pair.k, pair.n), ha="center", va="center", fontsize=13, weight="bold", color=ink)
    axes.text(x + 0.5, y + 0.67, percent_range(pair.interval), ha="center", va="center", fontsize=8, color=ink)
    if pair.predicted:
        axes.add_line(_sign(pair.predicted, ink, [x + 0.81], [y + 0.2]))
    notes = []
    if pair.disagreements:
        axes.add_patch(Rectangle((x + 0.045, y + 0.045), 0.91, 0.91, fill=False, edgecolor="white", linewidth=4.5))
        axes.add_patch(Rectangle((x + 0.045, y + 0.045), 0.91, 0.91, fill=False, edgecolor=ALARM, linewidth=3))
        notes.append(f"{len(pair.disagreements)} disagree{'s'[: len(pair.disagreements) == 1]}")
    if pair.lab_errors:
        notes.append(f"+{count(len(pair.lab_errors), 'lab error')}")
    axes.text(x + 0.5, y + 0.85, "\n".join(notes), ha="center", va="center", fontsize=6.3, color=ink, linespacing=0.95)


def _sign(predicted: str, colour: str, xs: list[float], ys: list[float]) -> Line2D:
    marker, fill = _MARKERS[predicted]
    return Line2D(
        xs,
        ys,
        linestyle="none",
        marker=marker,
        fillstyle=fill,  # type: ignore[arg-type]  # the table of strings loses the literal type
        markersize=7,
        markeredgewidth=1.6,
        color=colour,
        markerfacecoloralt="none",
    )


def _legend(group: Group) -> list[Line2D | Patch]:
    seen = {pair.predicted for pair in group.pairs if pair.n}
    handles: list[Line2D | Patch] = []
    for prediction, meaning in MEANINGS.items():
        if prediction in seen:
            sign = _sign(prediction, "#111111", [], [])
            sign.set_label(meaning)
            handles.append(sign)
    if group.disagreements:
        handles.append(Patch(facecolor="none", edgecolor=ALARM, linewidth=2.5, label="disagrees with the oracle"))
    return handles


def _broken(name: str) -> str:
    """Return the name with a line break after each underscore."""
    return name.replace("_", "_\n")
