"""Output of `punchlab trial`: a summary, or a timeline of all packets."""

from __future__ import annotations

from collections.abc import Iterator

from punchlab.lab.exchange.timeline import deciding, render
from punchlab.lab.oracle.outcome import Outcome, Prediction
from punchlab.lab.trial.trial import Trial
from punchlab.lab.trial.verdict import chosen

_TIMES = ("connected", "agreed", "transferred")


def summary(trial: Trial) -> str:
    """Return at most 15 lines: outcome, strategy, prediction, times, path, and the deciding packets."""
    return "\n".join((head(trial), *_lines(trial)))


def timeline(trial: Trial) -> str:
    """Return the outcome and all packets, with repeated ones collapsed."""
    return f"{head(trial)}\n{render(trial.exchange, collapse=True)}".rstrip("\n")


def head(trial: Trial) -> str:
    """Return hosts, outcome and reason."""
    one, other = trial.pair
    return f"{one} - {other}: {trial.outcome}" + (f" ({trial.reason})" if trial.reason else "")


def _lines(trial: Trial) -> Iterator[str]:
    yield from _strategy(trial)
    agrees = {True: "the trial agrees", False: "the trial DISAGREES", None: "the trial does not show it"}[trial.agrees]
    yield f"prediction: {_predicted(trial.prediction)}; {agrees}"
    yield f"control attempt: {_control(trial)}"
    times = [f"{name} {trial.timings_s[name] * 1000:.1f} ms" for name in _TIMES if name in trial.timings_s]
    if times:
        floor = trial.prediction.floor_s
        least = "" if floor is None else f" (connected at least {floor * 1000:.1f} ms)"
        yield f"times since the first SYN: {', '.join(times)}{least}"
    winner = trial.exchange.winner
    way = "no connection" if winner is None else ", ".join(winner.nats) or "no NAT"
    proof = trial.delivery
    yield f"path: {way}; {proof.direct_bytes} bytes direct, {proof.edge_bytes} bytes through edges"
    counts = trial.exchange.summary()
    yield (
        f"punch SYNs: {counts['syns']}, of which {counts['dropped']} dropped, {counts['resets']} answered by RST, "
        f"{counts['icmp']} by ICMP"
        + ("; SYNs crossed" if counts["crossed"] else "")
        + ("; simultaneous open" if counts["simultaneous_open"] else "")
    )
    yield from deciding(trial.exchange)
    yield "all packets: --timeline; for Wireshark: --capture FILE"


def _strategy(trial: Trial) -> Iterator[str]:
    """Yield the strategy, its selection with the reason, and its results for the NATs."""
    found = chosen(trial.sides)
    if found is None:
        yield f"strategy: {trial.options.strategy}"
        return
    plans = {(reported["strategy"], reported["why"]) for reported in found.values() if reported["strategy"]}
    words = "; ".join(
        # For a hopeless pair, that is the reason of the outcome and already printed.
        f"{name}, because {why}" if why and why not in (trial.reason or "") else f"{name}"
        for name, why in sorted(plans, key=str)
    )
    yield f"strategy: {trial.options.strategy}" + (f" chose {words}" if words else " chose none")
    for host, reported in found.items():
        if reported["nat"]:
            yield f"NAT of {host} as found: {reported['nat']}"


def _predicted(prediction: Prediction) -> str:
    chance = f" ({prediction.probability:.0%})" if prediction.outcome is Outcome.DEPENDS else ""
    return f"{prediction.outcome}{chance}, because {prediction.reason}"


def _control(trial: Trial) -> str:
    control = trial.control
    if control.direct is None:
        return f"not possible ({control.reason})"
    agrees = {True: ", as predicted", False: ", NOT as predicted", None: ""}[control.agrees]
    return ("direct" if control.direct else "fails") + agrees
