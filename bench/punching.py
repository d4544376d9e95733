"""How long a punch takes, beside the least time that the oracle says it can take; and with NATs that answer with RSTs.

The times count from when both hosts know each other until the later one is connected, and until it has agreed. The
oracle's floors count from the first SYN of either host; from the later one, which leaves when both know each other at
the earliest, it is less by the skew. Only trials count that the oracle calls direct, whose skew is below the delay and
which had CPU to spare.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import trials
from punchlab.lab.kernel.pressure import SPARE

_DELAYS_MS = (20, 40, 80)
_ENDS = {"connected": "floor_s", "agreed": "agreed_floor_s"}
"""What is timed, and the oracle's name for the least time."""

WANTED = {"median": (1.15, 0.005), "p95": (1.5, 0.010)}
"""At most that many floors and seconds more."""

_REFUSING_DELAY_MS, _REFUSING_SKEWS_MS, _REFUSING_DEADLINE_S = 20, tuple(range(4, 41, 4)), 5
_REFUSING_WANTED = 0.99


def times(strategy: str, count: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """So many trials of every pair of the classic NATs at each delay, one at a time, NATs that drop."""
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
        f"{strategy}: {len(certain)} trials that the oracle calls direct, {failed} failed, "
        f"{len(direct) - len(calm)} left out because the machine was busy"
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
    """The times of the records and their floors, and by how much they are within what is `WANTED` (seconds)."""
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
        f"{name} {each[f'ratio_{name}']:.2f} x the floor (wanted: {factor:g} x + {more * 1000:g} ms; "
        f"{each['spare_s'][name] * 1000:+.1f} ms to spare)"
        for name, (factor, more) in WANTED.items()
    )
    return f"{marks}, n = {each['n']}: {'ok' if each['within'] else 'TOO SLOW'}"


def refusing(strategy: str, count: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Port-restricted cones that answer with RSTs, at start skews up to twice the delay: `count` trials of each."""
    records = trials.run(
        *("--nat-a", "port_restricted_cone", "--nat-b", "port_restricted_cone", "--unsolicited", "reset"),
        *("--delay", f"{_REFUSING_DELAY_MS}ms", "--skew-ms", ",".join(map(str, _REFUSING_SKEWS_MS))),
        *("--deadline", str(_REFUSING_DEADLINE_S), "--strategy", strategy, "--trials", str(count), "--jobs", "1"),
    )
    measured = [each for each in records if each["outcome"] != "lab_error"]
    direct = sum(each["outcome"] == "direct" for each in measured)
    within = direct >= _REFUSING_WANTED * len(measured)
    tell(
        f"{strategy}, RSTs, skews of {_REFUSING_SKEWS_MS[0]} to {_REFUSING_SKEWS_MS[-1]} ms on a delay of "
        f"{_REFUSING_DELAY_MS} ms: {direct} of {len(measured)} within {_REFUSING_DEADLINE_S} s "
        f"(wanted: {_REFUSING_WANTED:.0%}): {'ok' if within else 'TOO FEW'}"
    )
    return {"strategy": strategy, "direct": direct, "n": len(measured), "within": within}


def _quantile(values: Sequence[float], share: float) -> float:
    """The least value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
