"""The whole benchmark: runs everything, prints it, writes bench.json and the charts."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import builds, chart, machines, punching, reporting, throughput, trials
from lab.client import PUNCH
from lab.versions import versions

_ROUNDS_OF_MACHINES = 2

Found = dict[str, Any]
"""What bench.json holds."""


def main(words: Sequence[str] | None = None) -> int:
    """Run it, inside a sandbox. 1 if trials side by side came to something else than one by one, or lost packets."""
    given = _parser().parse_args(words)
    given.out.mkdir(parents=True, exist_ok=True)
    found: Found = {"machine": {**versions(), "cores": os.cpu_count()}}
    for name, part in _PARTS.items():
        if given.only is None or name in given.only:
            part(given, found)
    written = [given.out / "bench.json"]
    written[0].write_text(json.dumps(found, indent=2) + "\n")
    pictures = [chart.draw(found)] if {"ab", "homes", "campaigns"} <= found.keys() else []
    pictures += [chart.punching(found)] if found.get("punching", {}).get("all") else []
    for picture in pictures:
        written.append(given.out / f"{picture.name}.png")
        written[-1].write_bytes(picture.png)
    _tell(f"written: {', '.join(map(str, written))}")
    lost = sum(campaign["capture_drops"] for campaign in found.get("campaigns", {}).values())
    return 0 if found.get("same_outcomes", True) and not lost else 1


def _memory(_given: argparse.Namespace, found: Found) -> None:
    found["memory"] = builds.memory(_tell)


def _builds(given: argparse.Namespace, found: Found) -> None:
    _tell("AB, built and torn down:")
    found["ab"] = builds.compare(builds.ab, given.rounds, _tell)
    found["homes"] = builds.towns(given.homes, lambda homes: max(1, min(given.rounds, 100 // homes)), _tell)


def _campaigns(given: argparse.Namespace, found: Found) -> None:
    _tell("The default matrix:")
    found["campaigns"] = {
        delay: trials.campaign(given.trials, delay, _tell, "--jobs", str(given.jobs)) for delay in ("0ms", "40ms")
    }
    alone = trials.campaign(given.alone, "0ms", _tell, "--jobs", "1")
    found["campaigns"]["0ms, one at a time"] = alone
    found["same_outcomes"] = trials.same_outcomes(alone["outcomes"], found["campaigns"]["0ms"]["outcomes"])
    _tell(f"the same outcomes as one at a time: {'yes' if found['same_outcomes'] else 'NO'}")


def _skew(given: argparse.Namespace, found: Found) -> None:
    found["skew"] = trials.skew(given.skews, _tell)


def _punching(given: argparse.Namespace, found: Found) -> None:
    _tell("Time to punch:")
    found["punching"] = punching.times(given.strategy, given.punches, _tell)
    found["refusing"] = punching.refusing(given.strategy, given.refused, _tell)


def _machines(given: argparse.Namespace, found: Found) -> None:
    _tell("On Dask workers:")
    found["machines"] = machines.compare(given.machines, _ROUNDS_OF_MACHINES, _tell)


def _throughput(_given: argparse.Namespace, found: Found) -> None:
    found["throughput"] = throughput.compare(_tell)


def _reports(_given: argparse.Namespace, found: Found) -> None:
    found["reports"] = reporting.compare(_tell)


_PARTS: Mapping[str, Callable[[argparse.Namespace, Found], None]] = {
    "memory": _memory,  # first of all: the kernel frees what a lab had some time later
    "builds": _builds,
    "campaigns": _campaigns,
    "skew": _skew,
    "punching": _punching,
    "machines": _machines,
    "throughput": _throughput,
    "reports": _reports,
}
"""Name -> what it measures, in this order."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="script/bench", description="Measure how quick labs and trials are.")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="default runs/bench")
    parser.add_argument("--only", nargs="+", choices=_PARTS, metavar="PART", help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="of building AB, per builder (default 20)")
    parser.add_argument("--homes", type=int, nargs="+", default=[10, 50, 200], metavar="N", help="default 10 50 200")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="per pair of NATs (default 20)")
    parser.add_argument("--alone", type=int, default=1, metavar="N", help="per pair, one at a time (default 1)")
    parser.add_argument("--skews", type=int, default=20, metavar="N", help="trials per start skew (default 20)")
    parser.add_argument(
        "--strategy",
        default="auto",
        choices=PUNCH.strategies,
        metavar="NAME",
        help="whose time to punch is taken (default auto)",
    )
    parser.add_argument(
        "--punches", type=int, default=5, metavar="N", help="timed, per pair of NATs and delay (default 5)"
    )
    parser.add_argument(
        "--refused", type=int, default=10, metavar="N", help="per start skew, with NATs that answer RST (default 10)"
    )
    parser.add_argument(
        "--machines", type=int, default=8, metavar="N", help="per pair, on one and on two Dask workers (default 8)"
    )
    jobs = 6 * (os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, metavar="N", help="trials at work (default: 6 per core)")
    return parser


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
