"""`summary.md`: the run in GitHub-flavoured Markdown, short enough for the job summary of a CI run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from punchlab.punch.text import printable
from punchlab.reports.groups import Group, Trials, totals
from punchlab.reports.results import RunTrial
from punchlab.reports.strategy_comparison import Comparison, StrategyComparison, verdict
from punchlab.reports.words import MEANINGS, SYMBOLS, count, milliseconds, percent, percent_range, ratio

_LISTED = 30
"""Maximum number of listed trials; a job summary has at most 1 MiB."""


def summary_md(
    groups: Sequence[Group],
    strategies: tuple[Sequence[StrategyComparison], Sequence[Comparison]],
    everything: Trials,
    notes: Sequence[str],
) -> str:
    """Return the summary: disagreements, totals, a comparison of strategies, a table per group, and lab errors."""
    parts = ["## punchlab"]
    parts += [_verdict(run, trials) for run, trials in totals(groups, everything)]
    parts += [f"> {_escaped(note)}" for note in notes]
    if everything.disagreements:
        parts += ["### Disagreements with the oracle", _disagreements(everything.disagreements)]
    parts += ["### Totals", _totals(groups)]
    settings, comparisons = strategies
    if settings:
        result = verdict(comparisons)
        parts += ["### Strategies", *([f"**{_escaped(result)}**"] if result else []), _settings(settings)]
    for group in groups:
        parts += [f"### {_escaped(group.label)}", _matrix(group)]
    signs = ", ".join(f"{SYMBOLS[prediction]} {meaning}" for prediction, meaning in MEANINGS.items())
    parts.append(f"Cells: direct/measured trials, then the prediction: {signs}; ⚠ a trial disagrees with it.")
    if everything.lab_errors:
        parts += [
            "### Lab errors",
            "The lab broke in these trials; they are not measurements.",
            _lab_errors(everything),
        ]
    return "\n\n".join(parts) + "\n"


def _verdict(run: str, everything: Trials) -> str:
    rate = (
        f" ({percent(everything.k / everything.n)}, Wilson 95 % {percent_range(everything.interval)})"
        if everything.n
        else ""
    )
    odd = count(len(everything.disagreements), "disagreement")
    name = f"run {_escaped(run)}: " if run else ""
    return (
        f"**{name}{count(everything.n, 'trial')} measured: {everything.k:,} direct**{rate} · "
        f"{f'⚠ **{odd}**' if everything.disagreements else odd} with the oracle · "
        f"{count(len(everything.lab_errors), 'lab error')}"
    )


def _totals(groups: Sequence[Group]) -> str:
    return _table(
        ["conditions", "direct", "rate", "Wilson 95 %", "disagree", "lab errors", "median connected", "outcomes"],
        (
            [
                group.label,
                ratio(group.k, group.n),
                percent(group.rate),
                percent_range(group.interval),
                str(len(group.disagreements)),
                str(len(group.lab_errors)),
                milliseconds(group.median("connected")),
                ", ".join(f"{outcome} {number}" for outcome, number in group.outcomes.items()),
            ]
            for group in groups
        ),
    )


def _settings(settings: Sequence[StrategyComparison]) -> str:
    names = list(dict.fromkeys(name for setting in settings for name in setting.strategies))
    rows = []
    for setting in settings:
        totals = {str(group.condition.strategy): ratio(group.k, group.n) for group in setting.groups}
        rows.append([setting.label, *(totals.get(name, "") for name in names)])
    return _table(["direct, all NAT pairs", *names], rows)


def _matrix(group: Group) -> str:
    host_a, host_b = group.condition.pair
    rows = ([nat_a, *(_cell(group, nat_a, nat_b) for nat_b in group.nats_b)] for nat_a in group.nats_a)
    return _table([f"{host_a} \\ {host_b}", *group.nats_b], rows)


def _cell(group: Group, nat_a: str, nat_b: str) -> str:
    pair = group.pair(nat_a, nat_b)
    if pair is None:
        return ""
    words = [ratio(pair.k, pair.n)]
    if pair.predicted:
        words.append(SYMBOLS[pair.predicted])
    if pair.disagreements:
        words.append(f"⚠ {len(pair.disagreements)}")
    if pair.lab_errors:
        words.append(f"(+{count(len(pair.lab_errors), 'lab error')})")
    return " ".join(words)


def _disagreements(trials: Sequence[RunTrial]) -> str:
    rows = (
        [
            trial_name(trial),
            trial.nats,
            trial.outcome_prediction.outcome if trial.outcome_prediction else "",
            trial.outcome,
            control_words(trial),
            trial.reason or (trial.outcome_prediction and trial.outcome_prediction.reason) or "",
        ]
        for trial in trials[:_LISTED]
    )
    table = _table(["trial", "NATs", "predicted", "measured", "control", "reason"], rows)
    return table + _and_more(len(trials))


def trial_name(trial: RunTrial) -> str:
    """Return the id of the trial, after the name of its run if there are several runs."""
    return f"{trial.run}: {trial.id}" if trial.run else trial.id


def control_words(trial: RunTrial) -> str:
    """Return the result of the lab's control, and its prediction."""
    control = trial.control
    if control is None or control.direct is None:
        return "none"
    measured = "direct" if control.direct else "not direct"
    return f"{measured}, predicted {control.outcome_prediction.outcome}" if control.outcome_prediction else measured


def _lab_errors(everything: Trials) -> str:
    rows = ([trial_name(trial), trial.reason or ""] for trial in everything.lab_errors[:_LISTED])
    return _table(["trial", "reason"], rows) + _and_more(len(everything.lab_errors))


def _and_more(number: int) -> str:
    return f"\n\n… and {number - _LISTED:,} more in `results.csv`." if number > _LISTED else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Return the text escaped for Markdown, on one line."""
    text = printable(" ".join(text.split()), None)
    text = re.sub(r"[\\`*\[\]|#~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
