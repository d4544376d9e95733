"""The fixture `punch` for all scenarios, and the options `--trials` and `--report`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from punchlab import (
    Lab,
    reports,  # imported here, before a module of the user's project can have the same name
)
from punchlab.lab.campaign.results import Results, RunFolder
from punchlab.lab.capture import pcapng
from punchlab.lab.cli.arguments import path
from punchlab.lab.client.edges import BUSES, Bus
from punchlab.lab.errors import InputError, PunchlabError
from punchlab.lab.kernel.folder import Folder
from punchlab.lab.trial.record import record
from punchlab.lab.trial.trial import Trial
from punchlab.punch.text import printable
from punchlab.topologies import TOPOLOGIES

_SHAPE = ("unsolicited", "port_mapping", "delay", "loss", "cgn")
"""Options of the topology, not of the trial."""
_REPORT = pytest.StashKey[Path]()
_FOLDER = pytest.StashKey[RunFolder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("punchlab")
    group.addoption("--bus", choices=BUSES, default="mesh", help="the transport between edges (default mesh)")
    group.addoption("--trials", type=int, default=1, metavar="N", help="trials of each pair of NATs (default 1)")
    group.addoption(
        "--resume-megabytes",
        type=int,
        default=100,
        metavar="MB",
        help="size of the interrupted transfer (default 100)",
    )
    group.addoption("--report", type=path, metavar="DIR", help="write results, captures and a report to DIR")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Unregister Hypothesis if only scenarios run: they do not use it, and its plugin takes seconds at the end."""
    paths = (Path(word.partition("::")[0]).resolve() for word in session.config.args)
    if all(path.is_relative_to(Path(__file__).resolve().parent) for path in paths):
        session.config.pluginmanager.unregister(name="hypothesispytest")


class Punch(Protocol):
    """Run the client in a new lab with the named topology and return the trial."""

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
def results(pytestconfig: pytest.Config) -> Iterator[Results | None]:
    """The destination of records. All workers of pytest-xdist append to the same file."""
    directory = pytestconfig.stash.get(_REPORT, None)
    if directory is None:
        yield None
        return
    with Folder.open(directory) as folder, contextlib.closing(Results(folder)) as opened:
        yield opened


@pytest.fixture(scope="session")
def bus(pytestconfig: pytest.Config) -> Bus:
    value: Bus = pytestconfig.getoption("--bus")
    return value


@pytest.fixture
def punch(request: pytest.FixtureRequest, results: Results | None, bus: Bus) -> Punch:
    count = 0

    def run(topology: str, nat_a: str, nat_b: str, *, pair: tuple[str, str] | None = None, **options: Any) -> Trial:
        nonlocal count
        count += 1
        kind = TOPOLOGIES[topology]
        one, other = pair or kind.pairs[0]
        shape = {name: options.pop(name) for name in _SHAPE if name in options}
        background = options.pop("background", 0.0)
        nats = {f"nat_{one}": nat_a, f"nat_{other}": nat_b}
        # Each trial has its own seed: the same arrivals would repeat the same trial.
        with Lab(kind(**nats, **shape), background=background, bus=bus, seed=count) as lab:
            trial = lab.punch(one, other, **options)
            if results is not None:
                name = re.sub(r"[^\w-]+", "-", f"{request.node.name}-{count:03}").strip("-")
                results.append(
                    record(
                        trial,
                        id=name,
                        topology=topology,
                        nat_a=nat_a,
                        nat_b=nat_b,
                        cgn=shape.get("cgn"),
                        unsolicited=shape.get("unsolicited", "preset"),
                    ),
                    pcapng.encoded(trial.recording),
                )
        return trial

    return run


def pytest_configure(config: pytest.Config) -> None:
    """Claim the folder of `--report`, which is only for the results of this session.

    With pytest-xdist, the workers write records, and the main process claims the folder and writes the report.
    """
    directory: Path | None = config.getoption("--report")
    if directory is None:
        return
    directory = config.invocation_params.dir / directory  # a test may change the working directory
    config.stash[_REPORT] = directory
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    try:
        folder = RunFolder(directory, {"schema": 1, "scenarios": True})
        config.stash[_FOLDER] = folder
        if (directory / "results.jsonl").stat().st_size > 0:
            raise InputError("--report", str(directory), "a folder without results")
    except InputError as error:
        raise pytest.UsageError(str(InputError("--report", error.value, error.expected))) from None
    except PunchlabError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Release the folder."""
    if _FOLDER in config.stash:
        config.stash[_FOLDER].close()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report."""
    if _FOLDER not in session.config.stash:
        return
    directory = session.config.stash[_REPORT]
    if (directory / "results.jsonl").stat().st_size > 0:
        try:
            reports.write(directory)
        except (PunchlabError, OSError) as error:
            pytest.exit(printable(f"report: {error}"), returncode=pytest.ExitCode.INTERNAL_ERROR)
