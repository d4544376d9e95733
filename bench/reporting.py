"""Measure the time of a report in comparison with its minimum, the time to read the JSON lines."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_CLASSICS = ("none", "full_cone", "restricted_cone", "port_restricted_cone", "symmetric")
_LOOP = 10**7


def compare(tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the seconds of reports of many pairs and of many trials, and the ratio to reading the file."""
    begun = time.monotonic()
    for _ in range(_LOOP):
        pass
    loop_s = time.monotonic() - begun
    tell(f"{loop_s:.2f} s for a loop of {_LOOP:,} steps")
    many = [f"nat_{number:02}" for number in range(60)]
    return {
        "loop_s": loop_s,
        "60 x 60 pairs": _report("60 x 60 pairs", many, 2, ("reuse",), tell),
        "100,000 trials": _report("100,000 trials", _CLASSICS, 2000, ("reuse", "keep"), tell),
    }


def _report(
    name: str, nats: Sequence[str], trials: int, strategies: Sequence[str], tell: Callable[[str], None]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/run") as folder:
        results = Path(folder) / "results.jsonl"
        with results.open("w") as file:
            file.writelines(json.dumps(record) + "\n" for record in _records(nats, trials, strategies))
        begun = time.monotonic()
        with results.open("rb") as file:
            lines = sum(1 for line in file if json.loads(line))
        floor_s, begun = time.monotonic() - begun, time.monotonic()
        command = [sys.executable, "-P", "-m", "punchlab.lab.cli", "report", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report_s = time.monotonic() - begun
    tell(
        f"report of {name}: {report_s:.1f} s, {report_s / floor_s:.1f} x reading its {lines:,} lines ({floor_s:.2f} s)"
    )
    return {"seconds": report_s, "floor_s": floor_s, "ratio": report_s / floor_s}


def _records(nats: Sequence[str], trials: int, strategies: Sequence[str]) -> Iterator[dict[str, Any]]:
    rng = random.Random(1)
    predicted = {"outcome": "direct", "probability": 1.0, "reason": "each NAT lets the other's SYN in", "floor_s": 0.04}
    for strategy in strategies:
        for nat_a in nats:
            for nat_b in nats:
                for number in range(trials):
                    connected_s = 0.04 + rng.gammavariate(2, 0.001)
                    yield {
                        "schema": 2,
                        "id": f"ab-{nat_a}-{nat_b}-{strategy}-{number:03}",
                        "started": "2026-01-01T12:00:00.000Z",
                        "topology": "ab",
                        "pair": ["a", "b"],
                        "nat_a": nat_a,
                        "nat_b": nat_b,
                        "strategy": strategy,
                        "delay_s": 0.02,
                        "outcome": "direct",
                        "reason": None,
                        "outcome_prediction": predicted,
                        "control": {"direct": True, "skew_s": 0.0, "outcome_prediction": predicted},
                        "agrees": True,
                        "timings_s": {"connected": connected_s, "agreed": connected_s + 0.04},
                        "cpu_pressure": 0.1,
                        "cpu_starved": False,
                        "exchange": {"crossed": True, "syns": 4, "resets": 0},
                        "versions": {"python": "3"},
                    }
