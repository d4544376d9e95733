"""Measure the time to punch against the floor that the oracle predicts, and with NATs that answer with RSTs.

A time starts when both hosts have received each other's endpoints. It ends when the later host has connected
("connected") or has agreed on a connection ("agreed"). The floor of the oracle starts at the first SYN of either host.
The later host sends its first SYN when both have the endpoints, at the earliest, so the start skew is subtracted from
the floor. A trial counts only if the oracle predicts "direct", its skew is below the delay, and it was not CPU-starved.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import trials
from punchlab.lab.kernel.pressure import SPARE

_DELAYS_MS = (20, 40, 80)
_ENDS = {"connected": "floor_s", "agreed": "agreed_floor_s"}
"""End of the measured time -> the oracle's field with its floor."""

WANTED = {"median": (1.15, 0.005), "p95": (1.5, 0.010)}
"""Quantile -> limit as (multiple of the floor, additional seconds)."""

_REFUSING_DELAY_MS, _REFUSING_SKEWS_MS, _REFUSING_DEADLINE_S = 20, tuple(range(4, 41, 4)), 5
_REFUSING_WANTED = 0.99


def times(strategy: str, count: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run `count` trials of each pair of classic NATs that drop, at each delay, one at a time."""
    delays = ",".join(f"{delay}ms" for delay in _DELAYS_MS)
    records = trials.run(
        *("--nat-a", "classics", "--nat-b", "classics", "--unsolicited", "drop", "--delay", delays),
        *("--strategy", strategy, "--trials", str(count), "--jobs", "1"),
    )
    certain = [each for each in records if _counts(each)]
    failed = sum(each["outcome"] != "direct" for each in certain)
    direct = [each for each in certain if each["outcome"] == "direct"]
    calm = [each for each in direct if (each["cpu_pressure"] or 0.0) <= SPARE]
    tell(
        f"{strategy}: {len(certain)} trials predicted as direct, {failed} failed, "
        f"{len(direct) - len(calm)} excluded because the machine was busy"
    )
    found: dict[str, Any] = {"strategy": strategy, "failed": failed, "busy": len(direct) - len(calm), "by_delay": {}}
    for delay in _DELAYS_MS:
        here = [each for each in calm if round(each["delay_s"] * 1000) == delay]
        found["by_delay"][str(delay)] = {end: judged(here, end) for end in _ENDS} if here else {}
    found["all"] = {end: judged(calm, end) for end in _ENDS} if calm else {}
    for where, ends in (*((f"{delay} ms", each) for delay, each in found["by_delay"].items()), ("all", found["all"])):
        for end, each in ends.items():
            tell(f"{where}, {end}: {_words(each)}")
    return found


def _counts(record: Mapping[str, Any]) -> bool:
    if record["outcome"] == "lab_error" or record["outcome_prediction"]["outcome"] != "direct":
        return False
    return record["skew_s"] is not None and abs(record["skew_s"]) < record["delay_s"]


def judged(records: Sequence[Mapping[str, Any]], end: str) -> dict[str, Any]:
    """Return the times and floors of the records, and their margins to the limits `WANTED`, in seconds."""
    times_s = [each["timings_s"][f"known_to_{end}"] for each in records]
    floors_s = [each["outcome_prediction"][_ENDS[end]] - abs(each["skew_s"]) for each in records]
    ratios = [time / floor for time, floor in zip(times_s, floors_s, strict=True)]
    spare_s = {
        name: -_quantile(
            [time - factor * floor - more for time, floor in zip(times_s, floors_s, strict=True)],
            0.5 if name == "median" else 0.95,
        )
        for name, (factor, more) in WANTED.items()
    }
    return {
        "n": len(records),
        "ratio_median": statistics.median(ratios),
        "ratio_p95": _quantile(ratios, 0.95),
        "floor_median_s": statistics.median(floors_s),
        "spare_s": spare_s,
        "within": all(spare >= 0 for spare in spare_s.values()),
        "ratios": sorted(ratios),
    }


def _words(each: Mapping[str, Any]) -> str:
    marks = ", ".join(
        f"{name} {each[f'ratio_{name}']:.2f} x the floor (limit: {factor:g} x + {more * 1000:g} ms; "
        f"{each['spare_s'][name] * 1000:+.1f} ms margin)"
        for name, (factor, more) in WANTED.items()
    )
    return f"{marks}, n = {each['n']}: {'ok' if each['within'] else 'TOO SLOW'}"


def refusing(strategy: str, count: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run `count` trials per start skew up to twice the delay, with port-restricted cones that answer with RSTs."""
    records = trials.run(
        *("--nat-a", "port_restricted_cone", "--nat-b", "port_restricted_cone", "--unsolicited", "reset"),
        *("--delay", f"{_REFUSING_DELAY_MS}ms", "--skew-ms", ",".join(map(str, _REFUSING_SKEWS_MS))),
        *("--deadline", str(_REFUSING_DEADLINE_S), "--strategy", strategy, "--trials", str(count), "--jobs", "1"),
    )
    measured = [each for each in records if each["outcome"] != "lab_error"]
    direct = sum(each["outcome"] == "direct" for each in measured)
    within = direct >= _REFUSING_WANTED * len(measured)
    tell(
        f"{strategy}, RSTs, skews of {_REFUSING_SKEWS_MS[0]} to {_REFUSING_SKEWS_MS[-1]} ms with a delay of "
        f"{_REFUSING_DELAY_MS} ms: {direct} of {len(measured)} within {_REFUSING_DEADLINE_S} s "
        f"(expected: {_REFUSING_WANTED:.0%}): {'ok' if within else 'TOO FEW'}"
    )
    return {"strategy": strategy, "direct": direct, "n": len(measured), "within": within}


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
