"""What the analysis of a trial's packets costs per frame, when a client sends twice as much of what is hard."""

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
    """Of each kind of flood: seconds of CPU per frame at so many packets, and the ratio of that at twice as many."""
    found = {}
    for kind in FLOODS:
        few, many = _per_frame_s(kind, _PACKETS), _per_frame_s(kind, 2 * _PACKETS)
        found[kind] = {"per_frame_s": few, "ratio": many / few}
        tell(f"{kind}: {few * 1e6:.1f} us per frame; ratio at twice as many {many / few:.2f}")
    worst = max(each["ratio"] for each in found.values())
    tell(f"analysis of {len(found)} floods: at most {worst:.2f} x the time per frame for twice the frames")
    return {"packets": _PACKETS, "floods": found, "worst_ratio": worst}


def _per_frame_s(kind: str, count: int) -> float:
    """CPU seconds per frame, the least of some rounds."""
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
