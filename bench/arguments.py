"""The command line of `script/bench`. Imports nothing heavy, so that a mistake is reported at once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from punchlab.lab.client.description import PUNCH

PARTS: dict[str, Sequence[str]] = {
    "memory": (),  # first of all: the kernel frees what a lab had some time later
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
"""What is measured, in this order, and the options on which it depends."""

OUT = Path(__file__).resolve().parent.parent / "runs/bench"
_COUNTS = (
    ("rounds", 20, "of building AB, per builder"),
    ("starts", 7, "of each command whose start is measured"),
    ("trials", 20, "per pair of NATs"),
    ("alone", 1, "per pair, one at a time"),
    ("skews", 20, "trials per start skew"),
    ("punches", 5, "timed, per pair of NATs and delay"),
    ("refused", 10, "per start skew, with NATs that answer RST"),
    ("clients", 1000, "of an edge, whose memory is measured"),
    ("confined", 5, "rounds of trials with confined and with other clients"),
    ("machines", 8, "per pair, on one and on two Dask workers"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench: {message.removeprefix('argument ')}; see script/bench --help\n")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; ends the process with status 2 and one line if it cannot be done."""
    parser = _Parser(
        prog="script/bench",
        description="Measure how quick labs and trials are, part by part, into bench.json. If it was stopped, the same "
        "command continues: parts that are there, measured with the same options and versions, are kept.",
    )
    parser.add_argument("--out", type=_folder, default=OUT, metavar="DIR", help="default runs/bench of the project")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--again", action="store_true", help="measure the parts that are there again")
    parser.add_argument("--homes", type=_count, nargs="+", default=[10, 50, 200], metavar="N", help="default 10 50 200")
    for name, usual, text in _COUNTS:
        parser.add_argument(f"--{name}", type=_count, default=usual, metavar="N", help=f"{text} (default {usual})")
    parser.add_argument(
        "--strategy",
        default="auto",
        choices=PUNCH.strategies,
        metavar="NAME",
        help=f"whose time to punch is measured: {', '.join(PUNCH.strategies)} (default auto)",
    )
    jobs = 6 * (os.cpu_count() or 1)
    parser.add_argument("--jobs", type=_count, default=jobs, metavar="N", help="trials at work (default: 6 per core)")
    given = parser.parse_args(words)
    if unknown := [name for name in given.only if name not in PARTS]:
        parser.error(f"--only: {', '.join(map(repr, unknown))} cannot be used; expected {', '.join(PARTS)}")
    given.parts = [name for name in PARTS if not given.only or name in given.only]
    return given


def asked(given: argparse.Namespace, part: str) -> dict[str, Any]:
    """The options on which the results of the part depend."""
    return {name: getattr(given, name) for name in PARTS[part]}


def _count(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 8 and int(word)):
        raise argparse.ArgumentTypeError(f"{word!r} cannot be used; expected a whole number from 1 to 9999999")
    return int(word)


def _folder(word: str) -> Path:
    if not word:
        raise argparse.ArgumentTypeError("'' cannot be used; expected a folder")
    return Path(word)
