"""What every scenario has: the fixture `punch`, and the options `--trials` and `--report`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from lab import Lab
from lab.cli.arguments import path
from lab.edges import BUSES
from lab.record import record
from lab.results import RunFolder
from lab.trial import Trial
from topologies import TOPOLOGIES

_SHAPE = ("unsolicited", "port_mapping", "delay", "loss", "cgn")
"""Options that are the topology's, not the trial's."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("punchlab")
    group.addoption("--bus", choices=BUSES, default="mesh", help="how edges talk to each other (default mesh)")
    group.addoption("--trials", type=int, default=1, metavar="N", help="trials of each pair of NATs (default 1)")
    group.addoption(
        "--resume-megabytes",
        type=int,
        default=100,
        metavar="MB",
        help="size of the transfer that is broken (default 100)",
    )
    group.addoption("--report", type=path, metavar="DIR", help="write results, captures and a report to DIR")


class Punch(Protocol):
    """Let the real client punch in a fresh lab of the named topology, and say what happened."""

    def __call__(
        self, topology: str, nat_a: str, nat_b: str, *, pair: tuple[str, str] | None = None, **options: Any
    ) -> Trial: ...


@pytest.fixture(scope="session")
def trials(pytestconfig: pytest.Config) -> int:
    count: int = pytestconfig.getoption("--trials")
    if count < 1:
        raise pytest.UsageError(f"--trials: {count} cannot be used; expected a whole number from 1")
    return count


@pytest.fixture(scope="session")
def run_folder(pytestconfig: pytest.Config) -> Iterator[RunFolder | None]:
    directory: Path | None = pytestconfig.getoption("--report")
    if directory is None:
        yield None
        return
    folder = RunFolder(directory, {"schema": 1, "scenarios": True})
    yield folder
    folder.close()


@pytest.fixture(scope="session")
def bus(pytestconfig: pytest.Config) -> str:
    value: str = pytestconfig.getoption("--bus")
    return value


@pytest.fixture
def punch(request: pytest.FixtureRequest, run_folder: RunFolder | None, bus: str) -> Punch:
    count = 0

    def run(topology: str, nat_a: str, nat_b: str, *, pair: tuple[str, str] | None = None, **options: Any) -> Trial:
        nonlocal count
        count += 1
        kind = TOPOLOGIES[topology]
        one, other = pair or kind.pairs[0]
        shape = {name: options.pop(name) for name in _SHAPE if name in options}
        background = options.pop("background", 0.0)
        nats = {f"nat_{one}": nat_a, f"nat_{other}": nat_b}
        # A seed of its own for each trial: the same arrivals again would be the same trial again.
        with Lab(kind(**nats, **shape), background=background, bus=bus, seed=count) as lab:
            trial = lab.punch(one, other, **options)
            if run_folder is not None:
                name = re.sub(r"[^\w-]+", "-", f"{request.node.name}-{count:03}").strip("-")
                trial.recording.write(run_folder.captures / f"{name}.pcapng")
                run_folder.append(
                    record(
                        trial,
                        id=name,
                        topology=topology,
                        nat_a=nat_a,
                        nat_b=nat_b,
                        cgn=shape.get("cgn"),
                        unsolicited=shape.get("unsolicited", "preset"),
                        capture=f"captures/{name}.pcapng",
                    )
                )
        return trial

    return run


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    directory: Path | None = session.config.getoption("--report")
    # With pytest-xdist the workers write records, and the one that started them writes the report.
    if directory is None or hasattr(session.config, "workerinput"):
        return
    results = directory / "results.jsonl"
    if results.exists() and results.stat().st_size > 0:
        import reports

        reports.write(directory)
