"""Measure the trials per second on one and on two Dask workers of one processor each."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from bench import trials

_DASK = str(Path(sys.executable).parent / "dask")


def compare(count: int, rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run `count` trials of each pair of the default matrix on one worker, then on two, in each of `rounds` rounds.

    Raises `RuntimeError` on a machine with one processor, or if a scheduler or worker does not start.
    """
    processors = sorted(os.sched_getaffinity(0))[:2]
    if len(processors) < 2:
        raise RuntimeError("the machine has 1 processor; expected at least 2, one per worker")
    with _scheduler() as address:
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _, workers in itertools.product(range(rounds), rates):
            with ExitStack() as stack:
                for processor in processors[:workers]:
                    stack.enter_context(_worker(address, processor))
                began = time.monotonic()
                records = trials.run("--delay", "0ms", "--trials", str(count), "--dask", address)
                rates[workers].append(len(records) / (time.monotonic() - began))
                tell(
                    f"{workers} worker{'s' * (workers > 1)}: {len(records)} trials, {rates[workers][-1]:.1f} per second"
                )
    medians = {workers: statistics.median(each) for workers, each in rates.items()}
    ratio = medians[2] / medians[1]
    tell(f"two workers of one processor each: {ratio:.2f} x the trials per second of one")
    return {"per_second": {str(workers): each for workers, each in rates.items()}, "ratio": ratio}


@contextmanager
def _scheduler() -> Iterator[str]:
    words = (_DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    with _started(words, stderr=subprocess.PIPE) as process:
        yield _line(process.stderr, "Scheduler at:").split()[-1]


@contextmanager
def _worker(address: str, processor: int) -> Iterator[None]:
    words = ("taskset", "-c", str(processor), sys.executable, "-P", "-m", "punchlab.lab.cli", "worker", address)
    with _started(words, stdout=subprocess.PIPE) as process:
        _line(process.stdout, "worker of")
        yield


@contextmanager
def _started(
    words: Sequence[str], stdout: int | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(words, text=True, stdout=stdout, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.terminate()


def _line(stream: IO[str] | None, part: str) -> str:
    assert stream is not None
    for line in stream:
        if part in line:
            return line
    raise RuntimeError(f"it ended without the output {part!r}")
