"""Measure the CPU time that the confinement of clients adds to a trial, with and without it in turn."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parent.parent
_FEW, _MANY = 3, 23
"""Trials of two runs; their difference cancels the fixed cost of a run."""


def compare(rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the CPU seconds of a trial with confined and with unconfined clients, and the ratio of each round."""
    costs: dict[str, list[float]] = {"confined": [], "unconfined": []}
    for _round in range(rounds):
        for kind, found in costs.items():
            found.append((_cpu_s(kind, _MANY) - _cpu_s(kind, _FEW)) / (_MANY - _FEW))
    ratios = [one / other for one, other in zip(costs["confined"], costs["unconfined"], strict=True)]
    shown = ", ".join(f"{kind} {statistics.median(each) * 1e3:.0f} ms" for kind, each in costs.items())
    tell(f"CPU per trial, {rounds} rounds: {shown}; ratio {statistics.median(ratios):.3f}")
    return {**{f"{kind}_s": each for kind, each in costs.items()}, "ratios": ratios}


def _cpu_s(kind: str, trials: int) -> float:
    """Return the CPU seconds of a process that runs the trials, including its child processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "bench.confinement", kind, str(trials)], check=True, cwd=_PROJECT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _run(kind: str, trials: int) -> None:
    from punchlab import Lab
    from punchlab.lab.client.description import PUNCH, Client
    from punchlab.topologies import AB

    if kind == "unconfined":
        # Without a view, the lab starts a client as an unconfined command.
        Client.view = lambda *_: None  # type: ignore[assignment, method-assign]
    for _ in range(trials):
        with Lab(AB(nat_a="full_cone", nat_b="port_restricted_cone")) as lab:
            assert lab.punch("a", "b", client=PUNCH).direct


if __name__ == "__main__":
    _run(sys.argv[1], int(sys.argv[2]))
