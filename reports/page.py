"""`index.html`: the whole report in one file that needs nothing else, not even a network."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from punchlab.reports.groups import Group, PairTrials, Trials, totals
from punchlab.reports.results import Run, RunTrial
from punchlab.reports.strategy_comparison import CHOOSER, Comparison, StrategyComparison, verdict
from punchlab.reports.style import CSS
from punchlab.reports.summary import control_words, trial_name
from punchlab.reports.words import agreement, count, escape, milliseconds, percent, percent_range, predicted, ratio

if TYPE_CHECKING:
    from punchlab.reports.charts import Charts
    from punchlab.reports.charts.figure import Chart

# Nothing may be loaded, whatever a record says: the browser itself holds the page to that.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def index_html(
    groups: Sequence[Group],
    strategies: tuple[Sequence[StrategyComparison], Sequence[Comparison]],
    everything: Trials,
    charts: Charts,
    runs: Sequence[Run],
    notes: Sequence[str],
) -> str:
    """The page; every text from the records is escaped."""
    shared = _shared(groups)
    body = "\n".join(
        part
        for part in (
            _header(groups, everything, shared, notes),
            "<main>",
            _disagreements(everything),
            _overview(groups, charts),
            _strategies(*strategies, charts),
            *(_group(group, drawn, shared) for group, drawn in zip(groups, charts.per_group, strict=True)),
            _lab_errors(everything),
            _reading(),
            _environment(everything, runs),
            "</main>",
            "<footer><p>Written by punchlab from results.jsonl. Every trial is a row of results.csv.</p></footer>",
        )
        if part
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_title(groups))}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _title(groups: Sequence[Group]) -> str:
    return f"punchlab: {', '.join(dict.fromkeys(group.condition.topology for group in groups))}"


def _header(groups: Sequence[Group], everything: Trials, shared: Mapping[str, str], notes: Sequence[str]) -> str:
    started = sorted(trial.started for trial in everything.all if trial.started)
    when = f"First trial {escape(started[0])}, last {escape(started[-1])}. " if started else ""
    if everything.disagreements:
        said = count(len(everything.disagreements), "trial disagrees", "trials disagree")
        verdict = f'<p class="verdict bad">{said} with the oracle: a bug in the NAT, the client or the oracle.</p>'
    elif any(trial.agrees is not None for trial in everything.measured):
        verdict = '<p class="verdict good">Every judged trial came out as the oracle predicted.</p>'
    else:
        verdict = '<p class="verdict warn">No trial was judged against a prediction.</p>'
    warnings = "".join(f'<p class="verdict warn">{escape(note)}</p>' for note in notes)
    tiles = (
        ("measured trials", f"{everything.n:,}", count(len(groups), "condition")),
        *(
            (
                f"direct, run {escape(run)}" if run else "direct",
                percent(trials.k / trials.n if trials.n else None),
                ratio(trials.k, trials.n),
            )
            for run, trials in totals(groups, everything)
        ),
        ("disagreements", f"{len(everything.disagreements):,}", "with the oracle"),
        ("lab errors", f"{len(everything.lab_errors):,}", "not counted in n"),
    )
    same = f"In all trials: {', '.join(shared.values())}." if shared else ""
    boxes = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>" for name, value, more in tiles)
    links = "".join(f'<a href="#{escape(group.slug)}">{escape(group.label)}</a>' for group in groups)
    return (
        f'<header><h1>{escape(_title(groups))}</h1><p class="soft">{when}{escape(same)}</p>'
        f'{verdict}{warnings}<dl class="tiles">{boxes}</dl><nav>{links}</nav></header>'
    )


def _shared(groups: Sequence[Group]) -> dict[str, str]:
    """The conditions that are the same in every group, by name, and the words for them."""
    told = [group.condition.words() for group in groups]
    names = [name for name in told[0] if name != "topology" and len({words.get(name) for words in told}) == 1]
    return {name: told[0][name] for name in names}


def _disagreements(everything: Trials) -> str:
    if not everything.disagreements:
        return ""
    rows = (
        [
            _trial(trial),
            _text(trial.nats),
            _text(trial.outcome_prediction.outcome if trial.outcome_prediction else ""),
            _text(trial.outcome),
            _text(control_words(trial)),
            _wide(_reasons(trial)),
        ]
        for trial in everything.disagreements
    )
    head = ("trial", "NATs", "predicted", "measured", "control dial", "reason")
    return f'<section id="disagreements"><h2>Disagreements with the oracle</h2>{_table(head, rows)}</section>'


def _reasons(trial: RunTrial) -> str:
    said = [f"measured: {trial.reason}"] if trial.reason else []
    if trial.outcome_prediction and trial.outcome_prediction.reason:
        said.append(f"predicted: {trial.outcome_prediction.reason}")
    return "; ".join(said)


def _overview(groups: Sequence[Group], charts: Charts) -> str:
    rows = (
        [
            f'<td><a href="#{escape(group.slug)}">{escape(group.label)}</a></td>',
            _number(ratio(group.k, group.n)),
            _number(percent(group.k / group.n if group.n else None)),
            _number(percent_range(group.interval)),
            _number(percent(group.expected_rate)),
            _number(str(len(group.disagreements))),
            _number(str(len(group.lab_errors))),
            _number(milliseconds(group.median("connected"))),
            _number(milliseconds(group.floor_s)),
        ]
        for group in groups
    )
    head = (
        *("conditions", "#direct", "#rate", "#Wilson 95 %", "#expected", "#disagree", "#lab errors"),
        *("#median connected", "#floor"),
    )
    compared = "".join(_figure(chart) for chart in charts.comparison)
    nothing = "<p>No pair of NATs was measured under every condition, so there is nothing to compare.</p>"
    comparison = f"<h3>Comparison</h3>{compared or nothing}" if len(groups) > 1 else ""
    return (
        f'<section id="overview"><h2>Overview</h2>{_table(head, rows)}'
        f"{comparison}<h3>Outcomes</h3>{_figure(charts.outcomes)}</section>"
    )


def _strategies(contests: Sequence[StrategyComparison], comparisons: Sequence[Comparison], charts: Charts) -> str:
    if not contests:
        return ""
    said = verdict(comparisons)
    rejected = any(each.rejected for each in comparisons)
    judged = f'<p class="verdict {"bad" if rejected else "good"}">{escape(said)}</p>' if said else ""
    parts = [
        f"<h3>{escape(contest.label)}</h3>{_figure(chart)}{_contest(contest, comparisons)}"
        for contest, chart in zip(contests, charts.per_contest, strict=True)
    ]
    overview = _figure(charts.strategies) if charts.strategies else ""
    return f'<section id="strategies"><h2>Strategies</h2>{judged}{overview}{"".join(parts)}</section>'


def _contest(contest: StrategyComparison, comparisons: Sequence[Comparison]) -> str:
    """Every pair of NATs with direct/trials per strategy, and how probable the chooser's figures are if it is as good
    as the strategy that it looks worst beside."""
    host_a, host_b = (escape(host) for host in contest.groups[0].condition.pair)
    here = [each for each in comparisons if each.contest is contest]
    head = [f"NAT of {host_a}", f"NAT of {host_b}", *(f"#{escape(name)}" for name in contest.strategies)]
    rows, marked = [], []
    for nats in contest.pairs:
        cells = [_text(nat) for nat in nats]
        for strategy in contest.strategies:
            trials = contest.trials(strategy, nats)
            cells.append(_number(ratio(trials.k, trials.n) if trials else ratio(0, 0)))
        own = [each for each in here if each.nats == nats]
        if here:
            cells.append(_number(f"{min(each.p_value for each in own):.2g}" if own else ratio(0, 0)))
        rows.append(cells)
        marked.append(any(each.rejected for each in own))
    return _table([*head, *([f"#{CHOOSER} not worse, p"] if here else [])], rows, marked)


def _group(group: Group, charts: Sequence[Chart], told: Collection[str]) -> str:
    conditions = ", ".join(
        words for name, words in group.condition.words().items() if name not in told and name != "topology"
    )
    described = f'<p class="soft">{escape(conditions)}</p>' if conditions else ""
    timed = any("latency" in chart.name for chart in charts)
    return (
        f'<section id="{escape(group.slug)}"><h2>{escape(group.label)}</h2>{described}'
        f"{''.join(_figure(chart) for chart in charts)}"
        f"{'' if timed else '<p>No direct connection was timed on a calm machine, so there is no latency to show.</p>'}"
        f"<h3>All pairs</h3>{_pairs(group)}</section>"
    )


def _pairs(group: Group) -> str:
    host_a, host_b = (escape(host) for host in group.condition.pair)
    head = (
        *(f"NAT of {host_a}", f"NAT of {host_b}", "#direct", "#Wilson 95 %", "predicted", "agrees"),
        *("#median connected", "#floor", "#median agreed", "outcomes and reason"),
    )
    rows = (
        [
            _text(pair.nat_a),
            _text(pair.nat_b),
            _number(ratio(pair.k, pair.n)),
            _number(percent_range(pair.interval)),
            _text(predicted(pair)),
            f'<td class="agree">{agreement(pair)}</td>',
            _number(milliseconds(pair.median("connected"))),
            _number(milliseconds(pair.floor_s)),
            _number(milliseconds(pair.median("agreed"))),
            f'<td class="w">{escape(_outcomes(pair))}<small>{escape(pair.reason or "")}</small></td>',
        ]
        for pair in group.pairs
    )
    return _table(head, rows, [bool(pair.disagreements) for pair in group.pairs])


def _outcomes(pair: PairTrials) -> str:
    ends = [f"{outcome} {number}" for outcome, number in pair.outcomes.items()]
    return ", ".join(ends + ([f"+{count(len(pair.lab_errors), 'lab error')}"] if pair.lab_errors else []))


def _lab_errors(everything: Trials) -> str:
    if not everything.lab_errors:
        return ""
    rows = ([_trial(trial), _wide(trial.reason or "")] for trial in everything.lab_errors)
    return (
        '<section id="lab-errors"><h2>Lab errors</h2><p>The lab itself broke in these trials. They say nothing about '
        f"the NATs and are counted nowhere else.</p>{_table(('trial', 'reason'), rows)}</section>"
    )


def _reading() -> str:
    return """<section id="reading"><h2>How to read this</h2>
<p><b>direct/n</b>: trials that ended in a proven direct tunnel, of those measured. A lab error is no measurement.</p>
<p><b>Wilson 95 %</b>: where the true success rate lies with 95 % confidence, given so many trials.</p>
<p><b>predicted</b>: what the oracle derives from the behavior of the two NATs, the strategy and the delays, before it
sees the outcome. A trial <b>agrees</b> when its outcome and the lab's own control dial came out so. Where chance
decides, no single trial can tell: then the <b>rate fits</b> if the expected one lies in the Wilson interval of the
measured.</p>
<p><b>connected</b>, <b>agreed</b>: from the first SYN of either host to the first connection of the later side, and
to the one connection that both chose; only of trials that ran with CPU to spare. <b>floor</b>: the least time that the
delay and the start skew of any of these same trials allow for the former.</p>
</section>"""


def _environment(everything: Trials, runs: Sequence[Run]) -> str:
    found: dict[str, dict[str, set[str]]] = {}
    for trial in everything.all:
        for name, version in (asdict(trial.versions) if trial.versions else {}).items():
            if version:
                found.setdefault(name, {}).setdefault(trial.run, set()).add(version)
        if trial.links:
            found.setdefault("links", {}).setdefault(trial.run, set()).add(trial.links)
    versions = (
        [_text(name), *(_text(", ".join(sorted(values.get(run.name, ())))) for run in runs)]
        for name, values in sorted(found.items())
    )
    names = list(dict.fromkeys(name for run in runs for name in run.parameters))
    asked = ([_text(name), *(_code(_shown(run.parameters.get(name))) for run in runs)] for name in names)
    head = ("name", *(escape(run.name) or "value" for run in runs))
    return (
        f'<section id="environment"><h2>Environment</h2>'
        f"<h3>Versions</h3>{_table(('what', *(escape(run.name) or 'version' for run in runs)), versions)}"
        + (f"<h3>Parameters</h3>{_table(head, asked)}" if names else "")
        + "</section>"
    )


def _shown(parameter: object) -> str:
    return parameter if isinstance(parameter, str) else json.dumps(parameter, ensure_ascii=False)


def _figure(chart: Chart) -> str:
    picture = b64encode(chart.svg).decode()
    # As wide as the page allows, but never so narrow that its words cannot be read: then it scrolls.
    width = f"width: {chart.width_px * 1.4:.0f}px; max-width: 100%; min-width: {chart.width_px * 0.66:.0f}px"
    return (
        f'<figure><div class="scroll"><img alt="{escape(chart.alt)}" style="{width}" '
        f'src="data:image/svg+xml;base64,{picture}"></div>'
        f"<figcaption>{escape(chart.caption)}</figcaption></figure>"
    )


def _table(head: Iterable[str], rows: Iterable[Sequence[str]], marked: Sequence[bool] = ()) -> str:
    """A table from finished cells; a heading that starts with `#` stands over figures, `marked` rows stand out."""
    heads = "".join(f'<th class="n">{name[1:]}</th>' if name.startswith("#") else f"<th>{name}</th>" for name in head)
    lines = "".join(
        f'<tr class="no">{"".join(cells)}</tr>'
        if index < len(marked) and marked[index]
        else f"<tr>{''.join(cells)}</tr>"
        for index, cells in enumerate(rows)
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def _text(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _wide(text: str) -> str:
    return f'<td class="w">{escape(text)}</td>'


def _number(text: str) -> str:
    return f'<td class="n">{escape(text)}</td>'


def _trial(trial: RunTrial) -> str:
    capture = f"<small>{escape(trial.capture)}</small>" if trial.capture else ""
    return f'<td class="id"><code>{escape(trial_name(trial))}</code>{capture}</td>'


def _code(text: str) -> str:
    return f"<td><code>{escape(text)}</code></td>"
