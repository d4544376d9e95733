"""An executor that submits jobs to Dask workers, through their scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import time
import uuid
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import TYPE_CHECKING, Self

from punchlab.lab.campaign.cells import Job
from punchlab.lab.campaign.execute import Finished
from punchlab.lab.campaign.machines import check_address
from punchlab.lab.campaign.machines.identity import resource
from punchlab.lab.campaign.machines.worker import INSTALL, run_job
from punchlab.lab.errors import LabError, MissingCapabilityError

if TYPE_CHECKING:
    import distributed

_CONNECT_S, _CLOSE_S = 10.0, 2.0
_LOOK_S = 0.5
"""Seconds between two queries for the workers."""
PATIENCE_S = 30.0
_MOST_LOSSES = 5
"""Maximum number of times that a trial may end its worker (Dask's scheduler itself tries four times)."""


class DaskExecutor:
    """Runs jobs on the workers of the Dask scheduler at `address` that have exactly this code.

    If a worker is lost, other workers repeat its trials, including finished ones whose results were not copied; each
    trial gives one result. If there is no worker, the executor waits `patience_s` for one. Raises `InputError` for a
    malformed address, and on entry `LabError` if no scheduler answers.
    """

    def __init__(self, address: str, patience_s: float = PATIENCE_S) -> None:
        check_address("dask", address)
        self._address, self._patience_s = address, patience_s
        self._client: distributed.Client
        self._loop: asyncio.AbstractEventLoop
        self._ended: queue.SimpleQueue[Future[Finished]] = queue.SimpleQueue()
        self._running: dict[Future[Finished], tuple[Job, distributed.Future[Finished]]] = {}
        self._lost: dict[str, int] = {}
        self._looked = float("-inf")
        self._room = self._workers = 0

    def __enter__(self) -> Self:
        try:
            from distributed import Client
        except ImportError:
            raise MissingCapabilityError(INSTALL) from None
        # Dask sets the level of the second logger separately. Errors that matter are raised here.
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            self._client = Client(self._address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError):
            raise LabError(f"dask: no scheduler answers at {self._address}") from None
        self._loop = self._client.sync(_running_loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            self._client.cancel([future for _job, future in self._running.values()], force=True)
        self._client.close(timeout=_CLOSE_S)

    @property
    def slots(self) -> int:
        """The number of jobs that the workers can accept, and one more each. Waits for a worker. Raises `LabError`."""
        self._look()
        patience = time.monotonic() + self._patience_s
        while not self._room:
            if time.monotonic() > patience:
                raise LabError(self._complaint())
            time.sleep(_LOOK_S)  # the scheduler sends no events
            self._look()
        return self._room

    def submit(self, job: Job) -> None:
        """Submit a job to the scheduler."""
        key = f"{job.id}-{uuid.uuid4().hex}"
        future = self._client.submit(run_job, job, key=key, pure=False, resources={resource(): 1})
        fetched = asyncio.run_coroutine_threadsafe(self._fetch(future), self._loop)
        self._running[fetched] = job, future
        fetched.add_done_callback(self._ended.put)

    def next(self) -> Finished:
        """Wait for a job to end. Raises `LabError` if none can end."""
        from distributed import KilledWorker

        alive = time.monotonic()
        while True:
            try:
                fetched = self._ended.get(timeout=_LOOK_S)
            except queue.Empty:
                self._look()
                now = time.monotonic()
                if self._room:
                    alive = now
                elif now > alive + self._patience_s:
                    raise LabError(self._complaint()) from None
                continue
            job, future = self._running.pop(fetched)
            error = fetched.exception()
            if error is None:
                return fetched.result()
            if future.status != "error" and isinstance(error, CancelledError | OSError):
                raise LabError(f"dask: the scheduler at {self._address} has lost the trials or has ended")
            if not isinstance(error, KilledWorker) or self._lost.get(job.id, 0) >= _MOST_LOSSES:
                raise LabError(f"dask: {job.id}: {error}")
            self._lost[job.id] = self._lost.get(job.id, 0) + 1
            self.submit(job)

    async def _fetch(self, future: distributed.Future[Finished]) -> Finished:
        """Wait for a job and copy its result from its worker.

        If the worker is lost before the result is copied, the scheduler repeats the finished job. `gather` waits for
        that; a callback of the future is called only once, the first time.
        """
        result: Finished = await self._client.gather(future, asynchronous=True)
        return result

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._looked + _LOOK_S:
            return
        self._looked = now
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        except (OSError, TimeoutError):
            raise LabError(f"dask: the scheduler at {self._address} has ended") from None
        ours = [worker["resources"][resource()] for worker in workers if resource() in worker.get("resources", {})]
        self._workers, self._room = len(workers), int(sum(ours)) + len(ours)

    def _complaint(self) -> str:
        if self._workers:
            return f"dask: none of the {self._workers} workers of {self._address} has the code of this punchlab"
        return f"dask: {self._address} has no workers; start some with `punchlab worker {self._address}`"


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
