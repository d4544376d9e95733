"""`index.html`: the whole report in one file that loads nothing; the templates have its words."""

from __future__ import annotations

import functools
import json
from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from msgspec.structs import asdict

from punchlab.punch.text import printable
from punchlab.reports import summary, words
from punchlab.reports.groups import Group, PairTrials, Trials, totals
from punchlab.reports.results import Run, RunTrial
from punchlab.reports.strategy_comparison import CHOOSER, Comparison, StrategyComparison, verdict

if TYPE_CHECKING:
    from punchlab.reports.charts import Charts
    from punchlab.reports.charts.figure import Chart


def index_html(
    groups: Sequence[Group],
    strategies: tuple[Sequence[StrategyComparison], Sequence[Comparison]],
    everything: Trials,
    charts: Charts,
    runs: Sequence[Run],
    notes: Sequence[str],
) -> str:
    """Return the page; every text is made printable, on one line, and escaped."""
    compared, comparisons = strategies
    return (
        _environment()
        .get_template("index.html")
        .render(
            title=f"punchlab: {', '.join(dict.fromkeys(group.condition.topology for group in groups))}",
            groups=groups,
            everything=everything,
            charts=charts,
            runs=runs,
            notes=notes,
            started=sorted(trial.started for trial in everything.all if trial.started),
            judged=any(trial.agrees is not None for trial in everything.measured),
            totals=totals(groups, everything),
            shared=_shared(groups),
            verdict=verdict(comparisons),
            rejected=any(each.rejected for each in comparisons),
            strategies=[
                _strategies(each, chart, comparisons) for each, chart in zip(compared, charts.per_setting, strict=True)
            ],
            environment=[table for table in _tables(everything, runs) if table[-1]],
        )
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        **{function.__name__: function for function in (words.percent, words.percent_range, words.milliseconds)},
        **{function.__name__: function for function in (words.ratio, words.count, words.predicted, words.agreement)},
        **{function.__name__: function for function in (summary.trial_name, summary.control_words)},
        "base64": lambda data: Markup(b64encode(data).decode()),  # noqa: S704 - the alphabet of Base64
        "outcomes": _outcomes,
        "own": _own,
        "reasons": _reasons,
    }
    return environment


def _finalized(value: object) -> object:
    """Return the value as it is shown, before it is escaped; `Markup` is the output of a macro."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, None)
    return "" if value is None else value


def _shared(groups: Sequence[Group]) -> dict[str, str]:
    """Return the conditions that are the same in every group, by name, and the words for them."""
    described = [group.condition.words() for group in groups]
    first, *_others = described
    same = (name for name in first if name != "topology" and len({each.get(name) for each in described}) == 1)
    return {name: first[name] for name in same}


def _own(conditions: Mapping[str, str], shared: Collection[str]) -> list[str]:
    """Return the words for the conditions that are not shared by every group."""
    return [text for name, text in conditions.items() if name not in shared and name != "topology"]


def _reasons(trial: RunTrial) -> str:
    prediction = trial.outcome_prediction
    found = {"measured": trial.reason, "predicted": prediction.reason if prediction else None}
    return "; ".join(f"{name}: {reason}" for name, reason in found.items() if reason)


def _outcomes(pair: PairTrials) -> str:
    ends = [f"{outcome} {number}" for outcome, number in pair.outcomes.items()]
    return ", ".join(ends + ([f"+{words.count(len(pair.lab_errors), 'lab error')}"] if pair.lab_errors else []))


def _strategies(compared: StrategyComparison, chart: Chart, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return a table: direct/trials of each pair of NATs by strategy, and the least p-value of the chooser."""
    here = [each for each in comparisons if each.setting is compared]
    rows = []
    for nats in compared.pairs:
        found = (compared.trials(strategy, nats) for strategy in compared.strategies)
        cells = [words.ratio(trials.k, trials.n) if trials else words.NOT_MEASURED for trials in found]
        own = [each for each in here if each.nats == nats]
        if here:
            cells.append(f"{min(each.p_value for each in own):.2g}" if own else words.NOT_MEASURED)
        rows.append({"nats": nats, "cells": cells, "rejected": any(each.rejected for each in own)})
    return {
        "label": compared.label,
        "chart": chart,
        "hosts": compared.groups[0].condition.pair,
        "names": compared.strategies,
        "chooser": CHOOSER if here else None,
        "rows": rows,
    }


def _tables(everything: Trials, runs: Sequence[Run]) -> Iterator[tuple[str, str, str, list[tuple[str, list[str]]]]]:
    """Yield heading, name of the first column and of the others, and rows with a cell for each run."""
    found: dict[str, dict[str, set[str]]] = {}
    for trial in everything.all:
        versions = asdict(trial.versions) if trial.versions else {}
        for name, version in {**versions, "links": trial.links}.items():
            if version:
                found.setdefault(name, {}).setdefault(trial.run, set()).add(version)
    sorted_names = sorted(found.items())
    yield (
        *("Versions", "what", "version"),
        [(name, [", ".join(sorted(values.get(run.name, ()))) for run in runs]) for name, values in sorted_names],
    )
    names = dict.fromkeys(name for run in runs for name in run.parameters)
    yield (
        *("Parameters", "name", "value"),
        [(name, [_shown(run.parameters.get(name)) for run in runs]) for name in names],
    )


def _shown(parameter: object) -> str:
    return parameter if isinstance(parameter, str) else json.dumps(parameter, ensure_ascii=False)
