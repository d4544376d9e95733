"""The processes that run a campaign's trials: forked from one that has imported what a trial needs.

Trials at work share the processors, so there are only as many of them as is useful; one that only waits for its
deadline costs nothing and makes way for another.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Semaphore

from punchlab.lab.confinement import sandbox
from punchlab.punch.stdio import settle

_PRELOAD = [
    "punchlab.lab.trial.trial",
    "punchlab.lab.trial.record",
    "punchlab.lab.capture.pcapng",
    "mininet.topo",
]
_WAITING_PER_JOB = 2
"""Trials that may wait for their deadlines, for each that is at work."""

_at_work: Semaphore | None = None
"""In a worker: one for each trial that may be at work."""


def count(jobs: int) -> int:
    """How many workers `jobs` trials at work need: one is one, but others may have some more beside them that wait."""
    return jobs if jobs == 1 else jobs * (1 + _WAITING_PER_JOB)


def pool(jobs: int) -> ProcessPoolExecutor:
    """Workers for so many trials at work."""
    if sandbox.inside():  # else it is only to be seen whether there can be a pool
        _make_temporary_folder()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return ProcessPoolExecutor(count(jobs), context, initializer=_start, initargs=(context.Semaphore(jobs),))


@contextmanager
def at_work() -> Iterator[Callable[[], None]]:
    """The calling trial is at work, as soon as there is room for it, until the block ends or calls what it is given."""
    held = _at_work
    if held is not None:
        held.acquire()

    def make_way() -> None:
        nonlocal held
        if held is not None:
            held.release()
            held = None

    try:
        yield make_way
    finally:
        make_way()


def _make_temporary_folder() -> None:
    """Have multiprocessing's folder, where its fork server listens, in the sandbox, and not in the machine's /tmp.

    There it would stay after the run was killed.
    """
    usual = tempfile.tempdir
    tempfile.tempdir = "/run"
    try:
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = usual


def _start(semaphore: Semaphore) -> None:
    global _at_work
    _at_work = semaphore
    settle()  # what a worker says on standard error is about a client's output as often as not
    signal.signal(signal.SIGINT, signal.SIG_IGN)
