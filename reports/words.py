"""Numbers and names as text, the same in every chart, table and page."""

from __future__ import annotations

from collections.abc import Mapping

from punchlab.lab.campaign.statistics import Interval
from punchlab.reports.groups import PairTrials

NOT_MEASURED = "\N{EN DASH}"
SYMBOLS: Mapping[str, str] = {"direct": "●", "fails": "✕", "depends": "◐"}
"""The predicted outcome of a pair, as one sign."""
MEANINGS: Mapping[str, str] = {
    "direct": "predicted direct",
    "fails": "predicted to fail",
    "depends": "depends on timing or chance",
}


def percent(rate: float | None) -> str:
    """Return `70 %`; with a decimal only if the rate is rounded to 0 or 100 and is neither."""
    if rate is None:
        return NOT_MEASURED
    return f"{_percent(rate)} %"


def percent_range(interval: Interval | None) -> str:
    """Return `57-100 %`, with an en dash."""
    return f"{_percent(interval.low)}\N{EN DASH}{_percent(interval.high)} %" if interval else NOT_MEASURED


def _percent(rate: float) -> str:
    rounded = round(rate * 100)
    return f"{rate * 100:.1f}" if rounded in {0, 100} and 0.0005 <= rate <= 0.9995 else str(rounded)


def milliseconds(seconds: float | None) -> str:
    """Return `41.2 ms`, with three digits."""
    if seconds is None:
        return NOT_MEASURED
    value = seconds * 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def ratio(successes: int, trials: int) -> str:
    """Return `5/5`."""
    return f"{successes}/{trials}" if trials else NOT_MEASURED


def count(number: int, one: str, many: str = "") -> str:
    """Return `1 trial`, `2 trials`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def predicted(pair: PairTrials) -> str:
    """Return the prediction of a pair: `direct`, `depends, p = 0.50`, or the counts if it differs by trial."""
    outcomes = pair.predictions
    if not outcomes:
        return "no prediction"
    if len(outcomes) > 1:
        return ", ".join(f"{outcome} {number}" for outcome, number in outcomes.items())
    (outcome,) = outcomes
    rate = pair.expected_rate
    return f"depends, p = {rate:.2f}" if outcome == "depends" and rate is not None else outcome


def agreement(pair: PairTrials) -> str:
    """Return whether every trial agrees with the oracle, or if chance decides, whether the rate does."""
    if pair.agrees is not None:
        return "yes" if pair.agrees else "NO"
    return {None: "not judged", True: "rate fits", False: "rate is off"}[pair.rate_fits]
