"""The outcomes of the trials."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from punchlab.reports.charts.figure import (
    OUTCOME_COLOURS,
    WIDTH_IN,
    Chart,
    finish,
    name_rows,
    new_figure,
    row_names,
    set_title,
)
from punchlab.reports.groups import Group
from punchlab.reports.words import count

_WHITE_ON = {"direct", "hopeless", "punch_timeout"}


def outcome_bars(groups: Sequence[Group]) -> Chart:
    """Draw a bar per group, divided by outcome; the number of lab errors is at its right."""
    names, row_in = row_names(groups, [group.n for group in groups])
    figure = new_figure(WIDTH_IN, 1.6 + row_in * len(groups))
    axes = figure.add_subplot()
    seen: dict[str, str] = {}
    for y, group in enumerate(groups):
        left = 0.0
        for outcome, number in group.outcomes.items():
            share = number / group.n
            seen[outcome] = OUTCOME_COLOURS[outcome]
            axes.barh(y, share, 0.62, left=left, color=OUTCOME_COLOURS[outcome], edgecolor="white")
            if share > 0.03:
                ink = "white" if outcome in _WHITE_ON else "#111111"
                axes.text(left + share / 2, y, str(number), ha="center", va="center", color=ink, weight="bold")
            left += share
        if group.lab_errors:
            axes.text(1.01, y, f"+{count(len(group.lab_errors), 'lab error')}", va="center", fontsize=8.5)
    name_rows(axes, names)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("share of measured trials")
    set_title(figure, f"Outcomes (n = {sum(group.n for group in groups)})")
    if seen:
        handles = [Patch(facecolor=colour, label=o) for o, colour in OUTCOME_COLOURS.items() if o in seen]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    words = "; ".join(
        f"{group.label}: " + (", ".join(f"{o} {number}" for o, number in group.outcomes.items()) or "nothing measured")
        for group in groups
    )
    return finish(
        figure,
        "outcomes",
        f"Bar chart of the outcomes. {words}.",
        "Lab errors are not measurements and are not part of the bars.",
    )
