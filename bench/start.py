"""Measure the CPU time of the first trial, test and lab of a process, in comparison with Python and pytest.

Each command is a new process that creates its own sandbox. The modules are compiled to bytecode, as in an installation.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parent.parent
_SCENARIO = "scenarios/test_syn_exchange.py::test_crossing_syns_are_a_simultaneous_open"
_BUILD = (
    "from punchlab import Lab; from punchlab.lab.confinement import sandbox; sandbox.enter(); "
    "from punchlab.topologies import AB; Lab(AB()).__enter__().close()"
)
_OUTSIDE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
"""Hides /run, where the benchmark's own sandbox has its state, so that a command creates a new sandbox."""
_NOTHING = "nothing"
_COMMANDS: Mapping[str, Sequence[str]] = {
    _NOTHING: ("true",),
    "python -I -c pass": (sys.executable, "-I", "-c", "pass"),
    "import pytest": (sys.executable, "-c", "import pytest"),
    "punchlab trial ab": (sys.executable, "-m", "punchlab.lab.cli", "trial", "ab"),
    "a test of scenarios": (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", _SCENARIO),
    "AB, built once": (sys.executable, "-c", _BUILD),
}
_MOST = (
    ("punchlab trial ab", "import pytest", 3),
    ("a test of scenarios", "import pytest", 5),
    ("AB, built once", "python -I -c pass", 10),
)
"""Command, the command to compare with, and the maximum ratio."""


def compare(rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the CPU seconds of each command in each round, the medians, and the ratios of the medians.

    Raises `RuntimeError` if a command fails.
    """
    taken: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for number in range(rounds + 1):
        for name, command in _COMMANDS.items():
            cpu_s = _cpu_s(name, command)
            if number:  # the first round writes bytecode
                taken[name].append(cpu_s)
    wrapper_s = statistics.median(taken.pop(_NOTHING))
    medians = {name: statistics.median(each) - wrapper_s for name, each in taken.items()}
    ratios: dict[str, float] = {}
    for name, other, most in _MOST:
        ratios[name] = medians[name] / medians[other]
        text = f"{ratios[name]:.1f} x {other} ({medians[other] * 1e3:.0f} ms; limit: {most} x)"
        tell(f"{name}: {medians[name] * 1e3:.0f} ms of CPU, {text}: {'ok' if ratios[name] <= most else 'TOO SLOW'}")
    return {"cpu_s": taken, "median_s": medians, "ratios": ratios}


def _cpu_s(name: str, command: Sequence[str]) -> float:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*_OUTSIDE, *command], cwd=_PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{name}: exit status {done.returncode}: {(done.stderr or done.stdout)[-300:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
