"""Campaigns on several machines: real Dask workers, each in a separate sandbox."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from distributed import Client

from punchlab.lab.campaign.machines.executor import DaskExecutor
from punchlab.lab.errors import LabError
from tests.commands import assert_one_clear_line, line, punchlab, run, started

DASK = str(Path(sys.executable).parent / "dask")
TRIALS = 12
HOPELESS = ("symmetric", "symmetric")
ONE_TRIAL = """
import sys
from punchlab.lab.campaign.cells import Campaign, Cell
from punchlab.lab.campaign.machines.executor import DaskExecutor
from punchlab.lab.trial.options import TrialOptions
from punchlab.topologies.ab import AB

cell = Cell("ab", AB, ("a", "b"), ("symmetric", "symmetric"), options=TrialOptions(deadline_s=1))
with DaskExecutor(sys.argv[1], patience_s=10) as executor:
    executor.submit(Campaign([cell], trials=1).job(cell, 1))
    executor.next()
"""


@contextmanager
def scheduler() -> Iterator[str]:
    """Start a Dask scheduler; yield its address."""
    with started(DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard") as process:
        yield line(process.stderr, "Scheduler at:").split()[-1]


@contextmanager
def worker(address: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a worker; yield its process when it is registered at the scheduler."""
    with started(*punchlab("worker", address, *words)) as process:
        assert line(process.stdout, "worker of").startswith(f"worker of {address}, up to ")
        yield process


def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    """Wait until the condition is true, which another process causes."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def stop_and_lose_results(process: subprocess.Popen[str], address: str, only: subprocess.Popen[str]) -> None:
    """Stop a process that waits for trials, and kill the only worker when the trials have ended.

    The process is stopped before the trials end, so it cannot have received their results.
    """
    with Client(address, set_as_default=False) as dask:
        until(lambda: any(dask.processing().values()))
        process.send_signal(signal.SIGSTOP)
        until(lambda: not any(dask.processing().values()) and bool(dask.who_has()))
        only.kill()
        until(lambda: not dask.scheduler_info(n_workers=-1)["workers"])


def test_the_trials_of_a_worker_that_is_killed_are_run_by_the_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    nats = ("none", "symmetric")
    command = ["run", "ab", "--nat-a", ",".join(nats), "--nat-b", ",".join(nats), "--delay", "0ms", "--deadline", "0.5"]
    command += ["--trials", str(TRIALS), "--out", str(out)]
    with ExitStack() as stack:
        address = stack.enter_context(scheduler())
        one, other = (stack.enter_context(worker(address, "--jobs", "2")) for _ in range(2))
        campaign = stack.enter_context(started(*punchlab(*command, "--dask", address)))
        while not (out / "results.jsonl").exists() or (out / "results.jsonl").read_bytes().count(b"\n") < TRIALS:
            assert campaign.poll() is None
            time.sleep(0.02)
        one.kill()
        told, complaints = campaign.communicate(timeout=120)
        assert campaign.returncode == 0, complaints
        assert f"{4 * TRIALS} trials, 0 disagree with the oracle, 0 lab errors" in told
        other.send_signal(signal.SIGTERM)
        assert other.wait(30) == 0

    records = [json.loads(each) for each in (out / "results.jsonl").read_text().splitlines()]
    assert len({record["id"] for record in records}) == len(records) == 4 * TRIALS
    found = Counter((record["nat_a"], record["nat_b"], record["outcome"]) for record in records)
    assert found == {(*pair, "direct"): TRIALS for pair in itertools.product(nats, repeat=2) if pair != HOPELESS} | {
        (*HOPELESS, "punch_timeout"): TRIALS
    }
    for record in records:
        assert (out / record["capture"]).stat().st_size > 0

    # A complete campaign runs nothing, with and without workers.
    again = run(punchlab(*command))
    assert (again.returncode, again.stderr) == (0, "")


def test_trials_whose_results_are_lost_with_their_worker_are_run_again_by_another(tmp_path: Path) -> None:
    out, trials = tmp_path / "out", 3
    command = ["run", "ab", "--nat-a", HOPELESS[0], "--nat-b", HOPELESS[1], "--deadline", "1", "--trials", str(trials)]
    command += ["--out", str(out)]
    with ExitStack() as stack:
        address = stack.enter_context(scheduler())
        one = stack.enter_context(worker(address, "--jobs", "1"))
        campaign = stack.enter_context(started(*punchlab(*command, "--dask", address)))
        stop_and_lose_results(campaign, address, one)
        stack.enter_context(worker(address, "--jobs", "1"))
        campaign.send_signal(signal.SIGCONT)
        printed, complaints = campaign.communicate(timeout=120)
        assert campaign.returncode == 0, complaints
        assert "distributed" not in complaints
        assert f"{trials} trials, 0 disagree with the oracle, 0 lab errors" in printed
    records = [json.loads(each) for each in (out / "results.jsonl").read_text().splitlines()]
    assert len({record["id"] for record in records}) == len(records) == trials


def test_missing_workers_are_reported_if_results_are_lost_with_the_last_worker() -> None:
    with scheduler() as address, worker(address) as one, started(sys.executable, "-c", ONE_TRIAL, address) as process:
        stop_and_lose_results(process, address, one)
        process.send_signal(signal.SIGCONT)
        _printed, complaints = process.communicate(timeout=30)
    assert complaints.splitlines()[-1].startswith(f"punchlab.lab.errors.LabError: dask: {address} has no workers")


def test_a_worker_ends_when_its_trial_runner_is_killed_or_the_scheduler_ends() -> None:
    with ExitStack() as stack:
        with scheduler() as address:
            killed, left = (stack.enter_context(worker(address)) for _ in range(2))
            subprocess.run(["pkill", "-KILL", "-P", str(killed.pid)], check=True)
            assert killed.wait(30) == 1
            assert line(killed.stderr, "punchlab") == "punchlab: worker: its trial runner was killed\n"
        assert left.wait(30) == 1
        assert line(left.stderr, "punchlab") == "punchlab: worker: the scheduler has ended\n"


def test_a_campaign_ends_with_its_scheduler(tmp_path: Path) -> None:
    command = ["run", "ab", "--nat-a", "symmetric", "--nat-b", "symmetric", "--deadline", "5", "--out"]
    with ExitStack() as stack:
        with scheduler() as address:
            stack.enter_context(worker(address))
            command += [str(tmp_path / "out"), "--dask", address]
            campaign = stack.enter_context(started(*punchlab(*command)))
            with Client(address, set_as_default=False) as dask:
                until(lambda: any(dask.processing().values()))
        _printed, complaints = campaign.communicate(timeout=30)
    assert campaign.returncode == 1
    *progress, error = complaints.splitlines()
    assert error.startswith(f"punchlab: dask: the scheduler at {address} has ")
    assert all(each.startswith(("0/", "waiting for the first trial")) for each in progress), progress


def test_workers_of_other_code_get_nothing() -> None:
    with scheduler() as address, DaskExecutor(address, patience_s=0.2) as executor:
        with pytest.raises(LabError, match="has no workers; start some with `punchlab worker tcp://127"):
            assert executor.slots
        with started(DASK, "worker", address, "--no-dashboard") as other:
            line(other.stderr, "Registered to")
            with pytest.raises(LabError, match=r"none of the 1 workers of .* has the code of this punchlab"):
                assert executor.slots


def test_an_invalid_address_is_rejected() -> None:
    assert_one_clear_line(run(punchlab("run", "ab", "--dask", "here")), "dask", "'here'", "tcp://scheduler:8786")
    assert_one_clear_line(run(punchlab("worker", "tcp://here")), "address", "'tcp://here'", "tcp://scheduler:8786")
    assert_one_clear_line(run(punchlab("worker", "tcp://here:1", "--jobs", "0")), "jobs", "from 1")
    command = punchlab("run", "ab", "--dask", "tcp://127.0.0.1:9", "--jobs", "2")
    assert_one_clear_line(run(command), "jobs", "every worker has its own")


def test_an_unreachable_scheduler_is_named(tmp_path: Path) -> None:
    done = run(punchlab("run", "ab", "--dask", "tcp://127.0.0.1:9", "--out", str(tmp_path / "out")))
    *progress, error = done.stderr.splitlines()
    assert (done.returncode, error) == (1, "punchlab: dask: no scheduler answers at tcp://127.0.0.1:9")
    assert set(progress) <= {"waiting for the first trial"}
    assert not (tmp_path / "out").exists()
