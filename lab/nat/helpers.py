"""The helper processes of a NAT: what rules cannot say, done by a program beside them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError

_PROGRAM = Path(__file__).resolve().parents[2]
"""The folder that `lab` is in."""


@dataclass(frozen=True, slots=True)
class Helper:
    """A program of ours, as `python3 -m MODULE ARGUMENTS`, and what it does for the NAT.

    It says `ready` on a line when it is, and ends with its standard input.
    """

    module: str
    arguments: tuple[str, ...]
    purpose: str

    def __str__(self) -> str:
        return " ".join(("python3 -m", self.module, *self.arguments))


def start(helper: Helper, popen: Callable[..., subprocess.Popen[Any]]) -> subprocess.Popen[Any]:
    """Start the helper by `popen`, which runs a command in the NAT's node. Returns at once; see `await_ready`."""
    # -S: it needs nothing but the standard library, and is ready sooner without looking for more.
    return popen(
        [sys.executable, "-S", "-m", helper.module, *helper.arguments],
        cwd=_PROGRAM,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_ready(helper: Helper, process: subprocess.Popen[Any]) -> None:
    """Return when the helper does its work. Raises `LabError` with its own words if it cannot."""
    if process.stdout is None or process.stderr is None:
        raise LabError(f"{helper.module}: no standard output")
    if process.stdout.readline().strip() != "ready":
        raise LabError(f"{helper.module}: {process.stderr.read().strip().splitlines()[-1:] or 'no reason given'}")
