"""The Dask worker of a machine: outside of the sandbox, with a pipe to the trial runner inside."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from multiprocessing import Pipe
from typing import TYPE_CHECKING, NoReturn

from punchlab.lab.campaign.cells import Job
from punchlab.lab.campaign.execute import Finished
from punchlab.lab.campaign.machines.identity import resource
from punchlab.lab.confinement import sandbox
from punchlab.lab.errors import LabError, MissingCapabilityError
from punchlab.lab.kernel import programs

if TYPE_CHECKING:
    from distributed import Worker

INSTALL = "dask: not installed; run `pip install 'punchlab[dask]'`"
EXPOSED = "every host that reaches this machine can run programs as this user; tls:// requires certificates"
_PATIENCE_S, _CLOSE_S = 30, 5


class Runner:
    """The trial runner in its sandbox; it ends with this process. Thread-safe.

    `slots`: the number of jobs that it accepts at a time. If it does not start, it prints the reason and this process
    ends.
    """

    def __init__(self, jobs: int) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            words = [*programs.python("punchlab.lab.campaign.machines.runner"), str(theirs.fileno()), str(jobs)]
            self._process = subprocess.Popen(
                sandbox.command_inside(words),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # the pipe ends it, not the terminal
            )
        try:
            self.slots: int = self._connection.recv()
        except EOFError:
            code = self._process.wait()
            raise SystemExit(128 - code if code < 0 else code) from None
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._waiting: dict[int, Future[Finished]] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def run(self, job: Job) -> Finished:
        """Run the job and return its result. Raises `LabError`."""
        future: Future[Finished] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = future
            # Without a runner, the reader ends this process, so that the job is lost, not failed.
            with contextlib.suppress(ConnectionError):
                self._connection.send((number, job))
        return future.result()

    def _read(self) -> None:
        try:
            while True:
                number, found = self._connection.recv()
                with self._lock:
                    future = self._waiting.pop(number)
                if isinstance(found, Finished):
                    future.set_result(found)
                else:
                    future.set_exception(LabError(found))
        except (EOFError, ConnectionError):
            # At once, so that its trials are lost, not failed, and run elsewhere.
            print("punchlab: worker: its trial runner was killed", file=sys.stderr, flush=True)
            os._exit(1)


_runner: Runner | None = None


def run_job(job: Job) -> Finished:
    """Run a job in a thread of a worker: the task that the scheduler distributes."""
    assert _runner is not None, "only workers of this module have the resource of this task"
    return _runner.run(job)


def serve(address: str, jobs: int) -> NoReturn:
    """Work for the scheduler at the address until it ends (exit status 1) or a signal arrives (0)."""
    global _runner
    try:
        from punchlab.lab.campaign.machines.dask_worker import OneAddressWorker, is_exposed
    except ImportError:
        raise MissingCapabilityError(INSTALL) from None
    logging.getLogger("distributed").setLevel(logging.ERROR)
    try:
        if is_exposed(address):
            print(f"punchlab: worker: {address}: {EXPOSED}", file=sys.stderr, flush=True)
        _runner = Runner(jobs)
        asyncio.run(_serve(OneAddressWorker, address, _runner.slots))
    except (OSError, TimeoutError):
        raise LabError(f"worker: no Dask scheduler answers at {address}") from None


async def _serve(kind: type[Worker], address: str, slots: int) -> NoReturn:
    worker = kind(address, nthreads=slots, resources={resource(): slots}, memory_limit=0, death_timeout=_PATIENCE_S)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    signalled = asyncio.ensure_future(stopped.wait())
    working = asyncio.ensure_future(_work(worker, f"worker of {address}, up to {slots} trials"))
    await asyncio.wait([working, signalled], return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        working.result()
        print("punchlab: worker: the scheduler has ended", file=sys.stderr, flush=True)
    else:
        await worker.close(timeout=_CLOSE_S, executor_wait=False)
    os._exit(1 if working.done() else 0)  # without waiting for its trials, which are repeated elsewhere


async def _work(worker: Worker, text: str) -> None:
    await worker
    print(text, flush=True)
    await worker.finished()
