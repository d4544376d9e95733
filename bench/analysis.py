"""Measure the CPU time per frame of the packet analysis, for floods of one size and of twice the size."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from bench.floods import FLOODS, PAIR, WAYS, flood
from punchlab.lab.exchange import Exchange, delivery

_PACKETS = 4000
_ROUNDS = 3


def compare(tell: Callable[[str], None]) -> dict[str, Any]:
    """Return for each kind of flood the CPU seconds per frame, and the ratio for twice as many packets."""
    found = {}
    for kind in FLOODS:
        few, many = _per_frame_s(kind, _PACKETS), _per_frame_s(kind, 2 * _PACKETS)
        found[kind] = {"per_frame_s": few, "ratio": many / few}
        tell(f"{kind}: {few * 1e6:.1f} us per frame; ratio with twice as many {many / few:.2f}")
    worst = max(each["ratio"] for each in found.values())
    tell(f"analysis of {len(found)} floods: at most {worst:.2f} x the time per frame for twice the frames")
    return {"packets": _PACKETS, "floods": found, "worst_ratio": worst}


def _per_frame_s(kind: str, count: int) -> float:
    """Return the CPU seconds per frame, the minimum of several rounds."""
    frames = flood(kind, count)
    taken = []
    for _ in range(_ROUNDS):
        gc.collect()
        begun = time.process_time()
        exchange = Exchange(frames, PAIR)
        delivery(exchange, WAYS)
        exchange.summary()
        taken.append(time.process_time() - begun)
    return min(taken) / len(frames)
