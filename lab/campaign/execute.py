"""Where trials run. An executor takes jobs and gives back what they came to, in any order."""

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
    """What a job came to: its record, its packets (pcapng; None if the lab broke), and how long it took."""

    record: Record
    capture: bytes | None
    seconds: float


class Executor(Protocol):
    """Runs jobs somewhere, several at a time; a context manager that stops what is left of them."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def slots(self) -> int:
        """How many jobs it can make use of at once, now."""

    def submit(self, job: Job) -> None:
        """Start a job, or let it wait its turn."""

    def next(self) -> Finished:
        """Wait for a job that was submitted to end. Raises `LabError` where it cannot."""


class LocalExecutor:
    """Processes of this machine, for `jobs` trials at work (`lab.campaign.workers`).

    `ahead` more jobs are at hand, so that no process waits for us.
    """

    def __init__(self, jobs: int, ahead: int = 1) -> None:
        self.slots = workers.count(jobs) + ahead
        self._pool = workers.pool(jobs)
        self._running: set[Future[Finished]] = set()
        self._ended: list[Future[Finished]] = []

    def __enter__(self) -> Self:
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
        """Wait for a job to end. Raises `LabError` when a process was killed."""
        if not self._ended:
            ended, self._running = wait(self._running, return_when=FIRST_COMPLETED)
            self._ended = list(ended)
        try:
            return self._ended.pop().result()
        except BrokenExecutor as error:
            raise LabError("a trial process was killed") from error


def submit(pool: ProcessPoolExecutor, job: Job) -> Future[Finished]:
    """Queue a job for the workers of a pool (`lab.campaign.workers`).

    Raises `BrokenExecutor` once one of them was killed.
    """
    function = job.cell.options.client.function
    servers = {function: forked.prepare(function)}
    return pool.submit(_run_with, servers, job)


def run_job(job: Job) -> Finished:
    """One trial in a fresh lab; what breaks in the lab becomes a `lab_error` record."""
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
        with workers.at_work() as make_way, lab:
            result = trial.run(lab, *cell.pair, cell.options, waiting=make_way)
        return Finished(record.record(result, **known), pcapng.encoded(result.recording), time.monotonic() - began)
    except InputError:
        raise
    except Exception as error:  # also a mistake of ours: it costs this trial, not the campaign
        broken = record.lab_error(
            cell.options, cell.pair, started, error, path=path, background_per_s=cell.background, **known
        )
        return Finished(broken, None, time.monotonic() - began)


def _run_with(servers: Mapping[Function | None, str], job: Job) -> Finished:
    """In a worker: all share the fork servers of the process that started them."""
    forked.adopt(servers)
    return run_job(job)
