"""Many trials: every pair of NATs, every trial in a fresh lab, several at a time, continued where a run was stopped."""

from __future__ import annotations

import datetime
import multiprocessing
import signal
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import impair
from lab.errors import InputError, LabError, PunchlabError
from lab.nat.background import check_rate
from lab.results import Record, RunFolder
from lab.trial import Options

if TYPE_CHECKING:
    from mininet.topo import Topo


@dataclass(frozen=True, slots=True)
class Campaign:
    """The axes of a run.

    `topology` makes the topology from `parameters` and `nat_HOST`; `name` is what it is called on the command line.
    With a `shared_nat` in front of both hosts, the `nats` of the first host are those of the second too.
    """

    name: str
    topology: Callable[..., Topo]
    pair: tuple[str, str]
    nats: tuple[Sequence[str], Sequence[str]]
    trials: int
    unsolicited: str = "preset"
    options: Options = field(default_factory=Options)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    shared_nat: bool = False
    links: str = "auto"
    seed: int = 0
    background: float = 0.0

    def jobs(self) -> Iterator[Job]:
        """Every trial, all pairs once before any pair twice, so that a run cut short is a whole picture."""
        for number in range(1, self.trials + 1):
            for one in self.nats[0]:
                for other in (one,) if self.shared_nat else self.nats[1]:
                    name = f"{self.name}-{one}-{other}-{self.unsolicited}-{self.options.strategy}-{number:03}"
                    yield Job(self, name, (one, other), self.seed ^ zlib.crc32(name.encode()))

    def description(self) -> dict[str, Any]:
        """The campaign as plain data, for run.json: two runs are the same if these are equal."""
        return {
            "schema": 1,
            "topology": self.name,
            "parameters": dict(self.parameters),
            "pair": list(self.pair),
            "nat_a": list(self.nats[0]),
            "nat_b": list(self.nats[1]),
            "unsolicited": self.unsolicited,
            "trials": self.trials,
            "client": self.options.client.name,
            "strategy": self.options.strategy,
            "max_attempts": self.options.max_attempts,
            "deadline_s": self.options.deadline_s,
            "skew_wanted_s": self.options.skew_s,
            "links": self.links,
            "seed": self.seed,
            "background_per_s": self.background,
        }


@dataclass(frozen=True, slots=True)
class Job:
    """One trial of a campaign: its id, the NATs of the pair, and the seed of its links."""

    campaign: Campaign
    id: str
    nats: tuple[str, str]
    seed: int

    def topology(self) -> Topo:
        """A fresh topology for it."""
        campaign = self.campaign
        nats = {f"nat_{host}": nat for host, nat in zip(campaign.pair, self.nats, strict=True)}
        return campaign.topology(**nats, unsolicited=campaign.unsolicited, **campaign.parameters)


def check(campaign: Campaign, *, jobs: int) -> None:
    """Raise `InputError` for what could not be run."""
    for name, number in (("trials", campaign.trials), ("jobs", jobs)):
        if number < 1:
            raise InputError(name, number, "a whole number from 1")
    for job in islice(campaign.jobs(), len(campaign.nats[0]) * len(campaign.nats[1])):
        job.topology()
    check_rate(campaign.background)
    if campaign.links not in impair.CHOICES:
        raise InputError("links", campaign.links, f"one of {', '.join(impair.CHOICES)}")


def run(
    campaign: Campaign, folder: Path, *, jobs: int, progress: Callable[[Sequence[Record], int], None]
) -> Sequence[Record]:
    """Run what is not yet in the folder, `jobs` trials at a time, and return all records.

    `progress` is told the records so far and how many there will be. Raises `InputError` before anything runs.
    """
    check(campaign, jobs=jobs)
    planned = list(campaign.jobs())
    out = RunFolder(folder, campaign.description())
    try:
        finished = {record["id"] for record in out.records}
        waiting = [job for job in planned if job.id not in finished]
        progress(out.records, len(planned))
        for record in _run_all(waiting, out.captures, jobs):
            out.append(record)
            progress(out.records, len(planned))
    finally:
        out.close()
    return out.records


def _run_all(waiting: Sequence[Job], captures: Path, jobs: int) -> Iterator[Record]:
    if not waiting:
        return
    # Spawned, not forked: this process may have threads (the progress bar).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(waiting)), context, initializer=_ignore_interrupt) as pool:
        queue = iter(waiting)
        running: set[Future[Record]] = {pool.submit(run_job, job, captures) for job in islice(queue, 2 * jobs)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    running |= {pool.submit(run_job, job, captures) for job in islice(queue, 1)}
        except BrokenExecutor as error:
            raise LabError("a trial process was killed") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_job(job: Job, captures: Path) -> Record:
    """One trial in a fresh lab; what breaks in the lab becomes a `lab_error` record."""
    from lab import record, trial
    from lab.lab import Lab

    campaign = job.campaign
    one, other = campaign.pair
    known = {
        "id": job.id,
        "topology": campaign.name,
        "nat_a": job.nats[0],
        "nat_b": job.nats[1],
        "unsolicited": campaign.unsolicited,
    }
    started = datetime.datetime.now(datetime.UTC)
    try:
        with Lab(job.topology(), links=campaign.links, seed=job.seed, background=campaign.background) as lab:
            result = trial.run(lab, one, other, campaign.options)
            capture = captures / f"{job.id}.pcapng"
            result.recording.write(capture)
            return record.record(result, **known, capture=f"captures/{capture.name}")
    except InputError:
        raise
    except (PunchlabError, OSError) as error:
        return record.lab_error(campaign.options, (one, other), started, error, **known)


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
