"""Many runs of `punch` at the same time, as processes that are forked from one that has imported it.

As a program, it reads a JSON list of command lines from standard input, and prints the results.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

AT_ONCE = 40
_MODULES = (
    *(f"punchlab.punch.{name}" for name in ("cli", "sentences", "probe.session", "strategy.auto", "strategy.portmap")),
    *(f"punchlab.punch.transfer.{name}" for name in ("forward", "pipe", "session")),
    "encodings.idna",
)
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Done:
    """The result of one command; `peak` is its maximum memory use in bytes."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    peak: int


def run_all(commands: Sequence[Sequence[str]], cwd: Path) -> list[Done]:
    """Run `punch` with each of these arguments, in the directory `cwd`."""
    with tempfile.TemporaryDirectory() as outputs:  # its exit must not end a forked process
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.punch.many", outputs, str(cwd)],
            input=json.dumps(commands),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=_TIMEOUT_S,
        )
    return [Done(**each) for each in json.loads(done.stdout)]


def _started(command: list[str], output: Path, cwd: str) -> int:
    """Run a command in a forked process."""
    from punchlab.punch.cli import main

    process = os.fork()
    if process == 0:
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(cwd)
        sys.exit(main(command))
    return process


def _run(commands: list[list[str]], directory: Path, cwd: str) -> list[Done]:
    for name in _MODULES:
        import_module(name)
    gc.freeze()  # otherwise each process would copy all objects when it ends
    waiting = list(enumerate(commands))
    running: dict[int, tuple[int, float]] = {}
    done: dict[int, Done] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number, command = waiting.pop(0)
            output = directory / str(number)
            output.mkdir()
            running[_started(command, output, cwd)] = number, time.monotonic()
        process, status, usage = os.wait4(-1, 0)
        number, begun = running.pop(process)
        out, err = ((directory / str(number) / name).read_text(errors="replace") for name in ("out", "err"))
        seconds = time.monotonic() - begun
        done[number] = Done(os.waitstatus_to_exitcode(status), out, err, seconds, usage.ru_maxrss * 1024)
    return [done[number] for number in range(len(commands))]


if __name__ == "__main__":
    runs = _run(json.load(sys.stdin), Path(sys.argv[1]), sys.argv[2])
    print(json.dumps([asdict(each) for each in runs]))
