"""The command line of `script/bench`. Imports only fast modules, so that errors are reported immediately."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from punchlab.lab.client.description import PUNCH

PARTS: dict[str, Sequence[str]] = {
    "memory": (),  # first, because the kernel frees the memory of a lab with a delay
    "start": ("starts",),
    "builds": ("rounds", "homes"),
    "campaigns": ("trials", "alone", "jobs"),
    "skew": ("skews",),
    "punching": ("strategy", "punches", "refused"),
    "machines": ("machines",),
    "throughput": (),
    "edges": ("clients",),
    "confinement": ("confined",),
    "reports": (),
    "analysis": (),
}
"""The parts, in the order of measurement, and the options on which their results depend."""

OUT = Path(__file__).resolve().parent.parent / "runs/bench"
_COUNTS = (
    ("rounds", 20, "rounds of building AB, per builder"),
    ("starts", 7, "rounds of the start of each command"),
    ("trials", 20, "trials per pair of NATs"),
    ("alone", 1, "trials per pair of NATs, one at a time"),
    ("skews", 20, "trials per start skew"),
    ("punches", 5, "trials per pair of NATs and delay, for the time to punch"),
    ("refused", 10, "trials per start skew, with NATs that answer with RSTs"),
    ("clients", 1000, "clients of the edge whose memory is measured"),
    ("confined", 5, "rounds of trials with confined and with unconfined clients"),
    ("machines", 8, "trials per pair of NATs, on one and on two Dask workers"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench: {message.removeprefix('argument ')}; see script/bench --help\n")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments; print one line and exit with status 2 if they are invalid."""
    parser = _Parser(
        prog="script/bench",
        description="Measure the speed of labs and trials in parts, and write the results to bench.json. The same "
        "command resumes an interrupted benchmark: it keeps the parts measured with the same options and versions.",
    )
    parser.add_argument(
        "--out",
        type=_folder,
        default=OUT,
        metavar="DIR",
        help="folder of the results (default runs/bench of the project)",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help=f"parts to measure: {', '.join(PARTS)}")
    parser.add_argument("--again", action="store_true", help="measure existing parts again")
    parser.add_argument(
        "--homes",
        type=_count,
        nargs="+",
        default=[10, 50, 200],
        metavar="N",
        help="sizes of the larger labs in homes (default 10 50 200)",
    )
    for name, usual, text in _COUNTS:
        parser.add_argument(f"--{name}", type=_count, default=usual, metavar="N", help=f"{text} (default {usual})")
    parser.add_argument(
        "--strategy",
        default="auto",
        choices=PUNCH.strategies,
        metavar="NAME",
        help=f"strategy whose time to punch is measured: {', '.join(PUNCH.strategies)} (default auto)",
    )
    jobs = 6 * (os.cpu_count() or 1)
    parser.add_argument(
        "--jobs",
        type=_count,
        default=jobs,
        metavar="N",
        help="maximum number of concurrent trials (default 6 per core)",
    )
    given = parser.parse_args(words)
    if unknown := [name for name in given.only if name not in PARTS]:
        parser.error(f"--only: {', '.join(map(repr, unknown))} cannot be used; expected {', '.join(PARTS)}")
    given.parts = [name for name in PARTS if not given.only or name in given.only]
    return given


def asked(given: argparse.Namespace, part: str) -> dict[str, Any]:
    """Return the options on which the results of the part depend."""
    return {name: getattr(given, name) for name in PARTS[part]}


def _count(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 8 and int(word)):
        raise argparse.ArgumentTypeError(f"{word!r} cannot be used; expected a whole number from 1 to 9999999")
    return int(word)


def _folder(word: str) -> Path:
    if not word:
        raise argparse.ArgumentTypeError("'' cannot be used; expected a folder")
    return Path(word)
