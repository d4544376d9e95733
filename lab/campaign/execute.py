"""Executors run jobs and return their results, in any order."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from punchlab.lab.campaign import workers
from punchlab.lab.campaign.cells import Job
from punchlab.lab.campaign.results import Record
from punchlab.lab.capture import pcapng
from punchlab.lab.errors import InputError, LabError
from punchlab.lab.process import forked
from punchlab.lab.process.forked import Function


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a job: its record, its packets (pcapng; None if the lab broke), and its duration in seconds."""

    record: Record
    capture: bytes | None
    seconds: float


class Executor(Protocol):
    """Runs several jobs at a time; a context manager, which stops the remaining jobs at its end."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def slots(self) -> int:
        """The number of jobs that it can accept now."""

    def submit(self, job: Job) -> None:
        """Start a job or queue it."""

    def next(self) -> Finished:
        """Wait for a submitted job to end. Raises `LabError` if none can end."""


class LocalExecutor:
    """Processes of this machine, for `jobs` active trials (`lab.campaign.workers`).

    `ahead` more jobs are queued, so that no process waits for the next one.
    """

    def __init__(self, jobs: int, ahead: int = 1) -> None:
        self.slots = workers.count(jobs) + ahead
        self._jobs = jobs
        self._pool: ProcessPoolExecutor
        self._running: set[Future[Finished]] = set()
        self._ended: list[Future[Finished]] = []

    def __enter__(self) -> Self:
        self._pool = workers.pool(self._jobs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=error is None, cancel_futures=True)

    def submit(self, job: Job) -> None:
        """Queue a job."""
        try:
            self._running.add(submit(self._pool, job))
        except BrokenExecutor as error:
            raise LabError("a trial process was killed") from error

    def next(self) -> Finished:
        """Wait for a job to end. Raises `LabError` if a process was killed."""
        if not self._ended:
            ended, self._running = wait(self._running, return_when=FIRST_COMPLETED)
            self._ended = list(ended)
        try:
            return self._ended.pop().result()
        except BrokenExecutor as error:
            raise LabError("a trial process was killed") from error


def submit(pool: ProcessPoolExecutor, job: Job) -> Future[Finished]:
    """Queue a job for the workers of a pool (`lab.campaign.workers`).

    Raises `BrokenExecutor` if one of them was killed.
    """
    function = job.cell.options.client.function
    servers = {function: forked.prepare(function)}
    return pool.submit(_run_with, servers, job)


def run_job(job: Job) -> Finished:
    """Run one trial in a new lab. An error of the lab becomes a `lab_error` record."""
    from punchlab.lab.lab import Lab
    from punchlab.lab.nat.presets import OWN_ANSWER
    from punchlab.lab.trial import record, trial

    cell = job.cell
    known = {
        "id": job.id,
        "topology": cell.topology,
        "nat_a": cell.nats[0],
        "nat_b": cell.nats[1],
        "cgn": cell.shape.get("cgn"),
        "port_mapping": cell.shape.get("port_mapping", OWN_ANSWER),
        "unsolicited": cell.unsolicited,
        "seed": job.seed,
    }
    path = None
    began, started = time.monotonic(), datetime.datetime.now(datetime.UTC)
    try:
        lab = Lab(cell.build(), links=job.links, seed=job.seed, background=cell.background)
        path = lab.path(*cell.pair)
        with workers.active() as release, lab:
            result = trial.run(lab, *cell.pair, cell.options, waiting=release)
        return Finished(record.record(result, **known), pcapng.encoded(result.recording), time.monotonic() - began)
    except InputError:
        raise
    except Exception as error:  # a bug of the lab costs this trial, not the campaign
        broken = record.lab_error(
            cell.options, cell.pair, started, error, path=path, background_per_s=cell.background, **known
        )
        return Finished(broken, None, time.monotonic() - began)


def _run_with(servers: Mapping[Function | None, str], job: Job) -> Finished:
    """Run the job in a worker; all workers share the fork servers of the process that started them."""
    forked.adopt(servers)
    return run_job(job)
