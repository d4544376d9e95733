"""The whole benchmark: runs everything, prints it, writes bench.json and the chart."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import builds, chart, machines, trials
from lab.versions import versions

_ROUNDS_OF_MACHINES = 2


def main(words: Sequence[str] | None = None) -> int:
    """Run it, inside a sandbox. 1 if trials side by side came to something else than one by one, or lost packets."""
    given = _parser().parse_args(words)
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": {**versions(), "cores": os.cpu_count()}}
    # First of all: the kernel frees what a lab had some time later.
    found["memory"] = builds.memory(_tell)
    _tell("AB, built and torn down:")
    found["ab"] = builds.compare(builds.ab, given.rounds, _tell)
    found["homes"] = builds.towns(given.homes, lambda homes: max(1, min(given.rounds, 100 // homes)), _tell)
    _tell("The default matrix:")
    found["campaigns"] = {
        delay: trials.campaign(given.trials, delay, _tell, "--jobs", str(given.jobs)) for delay in ("0ms", "40ms")
    }
    alone = trials.campaign(given.alone, "0ms", _tell, "--jobs", "1")
    found["campaigns"]["0ms, one at a time"] = alone
    found["same_outcomes"] = trials.same_outcomes(alone["outcomes"], found["campaigns"]["0ms"]["outcomes"])
    _tell(f"the same outcomes as one at a time: {'yes' if found['same_outcomes'] else 'NO'}")
    found["skew"] = trials.skew(given.skews, _tell)
    _tell("On Dask workers:")
    found["machines"] = machines.compare(given.machines, _ROUNDS_OF_MACHINES, _tell)
    (given.out / "bench.json").write_text(json.dumps(found, indent=2) + "\n")
    picture = chart.draw(found)
    (given.out / "bench.png").write_bytes(picture.png)
    _tell(f"written: {given.out / 'bench.json'}, {given.out / 'bench.png'}")
    lost = sum(campaign["capture_drops"] for campaign in found["campaigns"].values())
    return 0 if found["same_outcomes"] and not lost else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="script/bench", description="Measure how quick labs and trials are.")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="default runs/bench")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="of building AB, per builder (default 20)")
    parser.add_argument("--homes", type=int, nargs="+", default=[10, 50, 200], metavar="N", help="default 10 50 200")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="per pair of NATs (default 20)")
    parser.add_argument("--alone", type=int, default=1, metavar="N", help="per pair, one at a time (default 1)")
    parser.add_argument("--skews", type=int, default=20, metavar="N", help="trials per start skew (default 20)")
    parser.add_argument(
        "--machines", type=int, default=8, metavar="N", help="per pair, on one and on two Dask workers (default 8)"
    )
    jobs = 6 * (os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, metavar="N", help="trials at work (default: 6 per core)")
    return parser


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
