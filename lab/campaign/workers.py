"""The processes that run a campaign's trials: forked from one that has imported what a trial needs.

Active trials share the CPUs, so their number is limited. A trial that only waits for its deadline uses no CPU and is
not counted.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.synchronize import Semaphore

from punchlab.punch.stdio import settle

_PRELOAD = [
    "punchlab.lab.trial.trial",
    "punchlab.lab.trial.record",
    "punchlab.lab.capture.pcapng",
    "mininet.topo",
]
_SAFE_PATH = "PYTHONSAFEPATH"
_WAITING_PER_JOB = 2
"""Trials that may wait for their deadlines, per active trial."""

_active: Semaphore | None = None
"""In a worker: its value is the number of trials that may become active."""


def count(jobs: int) -> int:
    """Return the number of workers for `jobs` active trials: 1 for 1, else also workers for trials that wait."""
    return jobs if jobs == 1 else jobs * (1 + _WAITING_PER_JOB)


def pool(jobs: int) -> ProcessPoolExecutor:
    """Return workers for `jobs` active trials. The caller is in the sandbox."""
    _make_temporary_folder()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with _safe_path():
        resource_tracker.ensure_running()
        forkserver.ensure_running()
    return ProcessPoolExecutor(
        count(jobs), context, initializer=_start, initargs=(context.Semaphore(jobs), os.environ.get(_SAFE_PATH))
    )


@contextmanager
def active() -> Iterator[Callable[[], None]]:
    """Wait until the calling trial may be active; it is active until the block ends or calls the yielded function."""
    held = _active
    if held is not None:
        held.acquire()

    def release() -> None:
        nonlocal held
        if held is not None:
            held.release()
            held = None

    try:
        yield release
    finally:
        release()


@contextmanager
def _safe_path() -> Iterator[None]:
    """Let Python processes that are started in the block ignore modules in the working directory, as `-P` does.

    multiprocessing starts its helpers with `-c`, so that a file `multiprocessing.py` there would run.
    """
    usual = os.environ.get(_SAFE_PATH)
    _set_safe_path("1")
    try:
        yield
    finally:
        _set_safe_path(usual)


def _set_safe_path(value: str | None) -> None:
    if value is None:
        os.environ.pop(_SAFE_PATH, None)
    else:
        os.environ[_SAFE_PATH] = value


def _make_temporary_folder() -> None:
    """Create the folder of multiprocessing's fork server in the sandbox.

    In the /tmp of the machine, it would remain after a run is killed.
    """
    usual = tempfile.tempdir
    tempfile.tempdir = "/run"
    try:
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = usual


def _start(semaphore: Semaphore, safe_path: str | None) -> None:
    global _active
    _active = semaphore
    _set_safe_path(safe_path)  # the clients inherit the environment
    settle()  # messages on standard error often quote the output of a client
    signal.signal(signal.SIGINT, signal.SIG_IGN)
