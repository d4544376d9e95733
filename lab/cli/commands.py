"""The commands of `punchlab`. `check_NAME` rejects invalid input before the sandbox is created."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from punchlab.lab.confinement import shares
from punchlab.lab.confinement.paths import HERE
from punchlab.lab.confinement.shares import Needs, Plan, Share
from punchlab.lab.errors import InputError, LabError, MissingCapabilityError
from punchlab.lab.inputs import numbers
from punchlab.lab.inputs.choices import one_of
from punchlab.lab.kernel import programs
from punchlab.lab.kernel.folder import Folder
from punchlab.punch.text import printable

if TYPE_CHECKING:
    from punchlab.lab.campaign import Executor
    from punchlab.lab.trial.options import TrialOptions
    from punchlab.topologies.internet import Internet


def check_run(given: argparse.Namespace) -> None:
    """Reject everything that the campaign would reject, and an output folder that cannot be written."""
    from punchlab.lab.cli import axes

    axes.campaign(given)
    _executor(given)
    _budget_s(given)
    _check_writable("out", _out(given))
    # Remote workers are not reachable from a sandbox; each has its own.
    given.needs_sandbox = given.dask is None


def run_command(given: argparse.Namespace) -> int:
    """Run `punchlab run`."""
    from punchlab.lab import campaign
    from punchlab.lab.cli import axes
    from punchlab.lab.cli.progress import RunProgress

    planned, folder, budget_s = axes.campaign(given), _out(given), _budget_s(given)
    with RunProgress(planned, budget_s) as progress:
        records = campaign.run(planned, folder, _executor(given), progress=progress.update, budget_s=budget_s)
    progress.summary()
    if records:
        _write_parquet(folder)
    print(printable(f"results: {folder}; for charts: punchlab report {shlex.quote(str(folder))}"))
    return 1 if any(record["outcome"] == "lab_error" for record in records) else 0


def _executor(given: argparse.Namespace) -> Executor:
    """Return where the campaign's trials run."""
    from punchlab.lab.campaign import LocalExecutor
    from punchlab.lab.campaign.machines.executor import DaskExecutor

    if given.dask is None:
        # Queued jobs would make the remaining time less predictable.
        return LocalExecutor(_jobs(given), ahead=1 if given.budget is None else 0)
    if given.jobs is not None:
        raise InputError("jobs", given.jobs, "no --jobs with --dask, because every worker has its own")
    return DaskExecutor(given.dask)


def _jobs(given: argparse.Namespace) -> int:
    """Return `--jobs`; the default keeps the processors of this process busy."""
    return 6 * len(os.sched_getaffinity(0)) if given.jobs is None else numbers.jobs("jobs", given.jobs)


def check_worker(given: argparse.Namespace) -> None:
    """Reject an invalid address or number."""
    from punchlab.lab.campaign.machines import check_address

    check_address("address", given.address)
    _jobs(given)


def worker_command(given: argparse.Namespace) -> int:
    """Run `punchlab worker`."""
    from punchlab.lab.campaign.machines import worker

    worker.serve(given.address, _jobs(given))


def _write_parquet(folder: Path) -> None:
    from punchlab.reports import parquet

    try:
        parquet.write(folder)
    except MissingCapabilityError as error:
        print(error)


def check_trial(given: argparse.Namespace) -> None:
    """Reject everything that the trial would reject."""
    check_up(given)
    _pair(given)
    _options(given)
    if given.capture is not None:
        _check_file("capture", given.capture)


def trial_command(given: argparse.Namespace) -> int:
    """Run `punchlab trial`."""
    from punchlab.lab.lab import Lab
    from punchlab.lab.trial import trial

    one, other = _pair(given)
    with Lab(_topology(given), links=given.links, seed=given.seed, background=given.background) as lab:
        result = trial.run(lab, one, other, _options(given))
        if given.capture is not None:
            from punchlab.lab.capture import pcapng

            try:
                pcapng.write(given.capture, result.recording)
            except OSError as error:
                raise LabError(f"capture: {given.capture}: {error.strerror}") from error
        if given.json:
            from punchlab.lab.trial.record import record

            nat_a, nat_b = _nats(given)
            known = {
                "id": f"{given.topology}-{nat_a}-{nat_b}-{given.unsolicited}-{given.strategy}",
                "topology": given.topology,
                "nat_a": nat_a,
                "nat_b": nat_b,
                "cgn": given.cgn,
                "port_mapping": given.port_mapping,
                "unsolicited": given.unsolicited,
                "seed": given.seed,
            }
            print(json.dumps(record(result, **known)))
        else:
            from punchlab.lab.cli import story

            print(story.timeline(result) if given.timeline else story.summary(result))
    return 0 if result.direct else 1


def check_up(given: argparse.Namespace) -> None:
    """Reject everything that the lab would reject."""
    from punchlab.lab.events.background import check_rate
    from punchlab.lab.impair import CHOICES

    _topology(given)
    check_rate(given.background)
    numbers.seed("seed", given.seed)
    one_of("links", given.links, CHOICES)


def view_up(given: argparse.Namespace) -> Plan | None:
    """Return the files that the shell of `punchlab up` can access, None for all."""
    return None if given.unconfined else _view(given.shell)


def up_command(given: argparse.Namespace) -> int:
    """Run `punchlab up`: a lab, its nodes named for `ip netns`, and a shell."""
    from punchlab.lab.cli import shell
    from punchlab.lab.lab import Lab

    with Lab(_topology(given), links=given.links, seed=given.seed, background=given.background) as lab:
        return shell.run(lab, given.shell)


def check_predict(given: argparse.Namespace) -> None:
    """Reject everything that cannot be predicted."""
    from punchlab.lab.cli import prediction

    prediction.question(given)


def predict_command(given: argparse.Namespace) -> int:
    """Run `punchlab predict`."""
    from punchlab.lab.cli import prediction

    return prediction.run(given)


def check_report(given: argparse.Namespace) -> None:
    """Reject folders whose paths are invalid."""
    for folder in (*given.directory, *([given.out] if given.out is not None else [])):
        try:
            folder.resolve()
        except (OSError, RuntimeError) as error:  # a removed working directory, or a loop of links
            raise InputError("directory", str(folder), f"an existing folder ({error})") from None


def report_command(given: argparse.Namespace) -> int:
    """Run `punchlab report`."""
    from punchlab import reports

    paths = reports.write(*given.directory, out=given.out)
    print(printable(f"report: {paths.page}"))
    if paths.parquet is None:
        print(reports.NO_PARQUET)
    return 0


def check_nat(given: argparse.Namespace) -> None:
    """Reject an invalid preset or router."""
    from punchlab.lab.cli import nat

    nat.check(given)


def nat_command(given: argparse.Namespace) -> int:
    """Run `punchlab nat`."""
    from punchlab.lab.cli import nat

    return nat.run(given)


def schema_command(_given: argparse.Namespace) -> int:
    """`punchlab schema`."""
    from punchlab.lab.results.documents import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def doctor_command(_given: argparse.Namespace) -> int:
    """Run `punchlab doctor`."""
    from punchlab.lab import doctor

    findings = doctor.examine()
    for finding in findings:
        print(finding)
    return 0 if all(finding.found or not finding.needed for finding in findings) else 2


def view_sandbox(given: argparse.Namespace) -> Plan | None:
    """Return the files that the command of `punchlab sandbox` can access, None for all."""
    return None if given.unconfined else _view(given.shell)


def sandbox_command(given: argparse.Namespace) -> int:
    """Run `punchlab sandbox CMD`: this process becomes the command."""
    programs.replace(given.shell or [os.environ.get("SHELL") or "/bin/sh"])


def _view(command: list[str]) -> Plan:
    """Return the files that the command can access. It can change the working directory if that is a project's."""
    directory = _working_directory()
    wide = directory is None or not shares.is_project(directory)
    if wide:
        where = "the working directory" if directory is None else printable(directory)
        print(
            f"punchlab: {where} is not the directory of a project: the command cannot change it, and sees only "
            "programs, libraries and the files that its words name; with --unconfined it has the files of the machine",
            file=sys.stderr,
        )
    files = [str(Path(word).absolute()) for word in command if os.path.exists(word)]  # noqa: PTH110 - "" is none
    return Plan(() if wide else (Share(HERE, writable=True),), Needs(tuple(command[:1]), tuple(files)))


def _working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # it was removed
        return None


def _class(given: argparse.Namespace) -> type[Internet]:
    from punchlab.topologies import TOPOLOGIES

    return TOPOLOGIES[one_of("topology", given.topology, TOPOLOGIES)]


def _pair(given: argparse.Namespace) -> tuple[str, str]:
    pairs = _class(given).pairs
    if given.pair is None:
        return pairs[0]
    names = tuple(given.pair.split(","))
    for one, other in pairs:
        if names in ((one, other), (other, one)):
            return names[0], names[1]
    raise InputError("pair", given.pair, f"one of {' '.join(','.join(pair) for pair in pairs)}, in either order")


def _nats(given: argparse.Namespace, default: str | None = None) -> tuple[str, str]:
    """Return the NATs of the two hosts: those of the user, or those of the topology (or `default`).

    Raises `InputError` for two different NATs if both hosts are behind one.
    """
    kind = _class(given)
    usual = default or kind.default_nat
    nat_a = usual if given.nat_a is None else given.nat_a
    nat_b = (nat_a if kind.shared_nat else usual) if given.nat_b is None else given.nat_b
    if kind.shared_nat and nat_a != nat_b:
        raise InputError("nat_b", nat_b, f"nat_a's, {nat_a}, because both hosts are behind one NAT")
    return nat_a, nat_b


def _parameters(given: argparse.Namespace) -> dict[str, Any]:
    """Return the given parameters of the topology. Raises `InputError` for one that the topology does not have."""
    import inspect

    from punchlab.lab.results.axes import AXES, SHAPE

    accepted = inspect.signature(_class(given).build).parameters
    values = {name: getattr(given, name) for name in SHAPE}
    parameters = {name: value for name, value in values.items() if value not in (None, AXES[name].usual)}
    for name, value in parameters.items():
        if name not in accepted:
            raise InputError(name, value, f"no value: the topology {given.topology} has no {name}")
    return parameters


def _topology(given: argparse.Namespace) -> Internet:
    from punchlab.lab.nat.presets import PRESETS

    for field in ("nat_a", "nat_b", "cgn"):
        if getattr(given, field) is not None:
            one_of(field, getattr(given, field), PRESETS)
    nats = dict(zip((f"nat_{host}" for host in _pair(given)), _nats(given), strict=True))
    return _class(given)(**nats, unsolicited=given.unsolicited, **_parameters(given))


def _options(given: argparse.Namespace) -> TrialOptions:
    from punchlab.lab.client.description import CLIENTS
    from punchlab.lab.trial.options import TrialOptions

    return TrialOptions(
        client=CLIENTS[one_of("client", given.client, CLIENTS)],
        strategy=given.strategy,
        max_attempts=given.max_attempts,
        deadline_s=numbers.deadline("deadline", given.deadline),
        skew_s=None if given.skew_ms is None else numbers.skew_ms("skew_ms", given.skew_ms) / 1000,
        full_capture=getattr(given, "full", False),
    )


def _out(given: argparse.Namespace) -> Path:
    from punchlab.lab.cli import axes

    return Path("runs") / axes.name(given) if given.out is None else Path(given.out)


def _budget_s(given: argparse.Namespace) -> float | None:
    """Return `--budget` in seconds."""
    if given.budget is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([smh])", given.budget, re.ASCII)
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not numbers.SHORTEST_BUDGET_S <= seconds <= numbers.LONGEST_BUDGET_S:
        most = f"{numbers.LONGEST_BUDGET_S / 3600:g}h"
        raise InputError(
            "budget", given.budget, f"a duration above 0 with a unit, such as 90s, 10m or 1.5h, up to {most}"
        )
    return seconds


def _check_file(field: str, file: Path) -> None:
    """Raise `InputError` unless the file can be written in an existing directory."""
    try:
        if file.parent.is_dir():
            with Folder.open(file.parent) as folder:
                folder.check_replaceable(file.name)
        there = file.exists()
        if file.is_dir() or not file.parent.is_dir():
            raise InputError(field, str(file), "a file in an existing directory")
        if there and not os.access(file, os.W_OK):
            raise InputError(field, str(file), "a file that can be written")
    except OSError as error:  # the name is too long, or a folder is not searchable
        raise InputError(field, str(file), f"a file that can be written ({error.strerror})") from None
    if not there:
        _check_writable(field, file.parent)


def _check_writable(field: str, directory: Path) -> None:
    """Raise `InputError` unless files can be created in the directory, or it can be created."""
    try:
        nearest = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
        on_proc = nearest.stat().st_dev == Path("/proc").stat().st_dev  # where access(2) allows what mkdir(2) rejects
    except OSError as error:  # the name is too long, or the working directory was removed
        raise InputError(field, str(directory), f"a directory that can be written ({error.strerror})") from None
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK) or on_proc:
        raise InputError(field, str(directory), "a directory that can be written")
