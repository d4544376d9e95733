"""The README is true: its commands run, its example passes, and it names every option that there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.topologies import AB, Home
from tests.commands import line, punchlab, run, started

PROJECT = Path(__file__).parent.parent
OPTION = r"(?<![\w-])--[a-z][a-z-]*"
README = (PROJECT / "README.md").read_text()

# Too long for here: the command, and the script of CI that runs it.
RUN_BY_CI = {
    "script/demo": ".ci/run",
    "script/test": ".ci/run",
    ". .venv/bin/activate": ".ci/run",
    "pytest scenarios/test_nat_matrix.py -n 3": ".ci/run",
    "pytest scenarios/": ".github/workflows/scenarios.yml",
    "vagrant up": "script/vagrant-e2e",
    "vagrant ssh -c 'pytest scenarios/'": ".ci/run",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> Iterator[str]:
    for block in blocks("sh"):
        yield from block.strip().splitlines()


ON_MACHINES = [line.partition("#")[0].split() for line in commands() if "tcp://scheduler" in line or "dask " in line]
CHEAP = [
    line
    for line in commands()
    if line not in RUN_BY_CI and not line.startswith("punch ") and line.partition("#")[0].split() not in ON_MACHINES
]


@pytest.mark.parametrize("command", RUN_BY_CI)
def test_what_is_not_run_here_is_run_by_ci(command: str) -> None:
    assert command in commands()
    called = command.replace("vagrant ssh -c 'pytest scenarios/'", "pytest scenarios/")
    assert called in (PROJECT / RUN_BY_CI[command]).read_text()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the project after `script/demo`, and keeps what the commands write out of it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("topologies", "scenarios"):
        (folder / name).symlink_to(PROJECT / name)
    (folder / "runs").mkdir()
    (sweep,) = blocks("toml")
    (folder / "sweep.toml").write_text(sweep)
    return folder


def test_the_cheap_commands_do_what_they_say(clone: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in CHEAP:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=clone,
            env=os.environ | {"PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if "ping -c" in command:
            assert "3 received" in done.stdout + done.stderr, command  # Mininet talks on the latter
    assert (clone / "runs" / "row" / "index.html").stat().st_size > 0


def punch_commands() -> list[list[str]]:
    return [
        [sys.executable, "-m", "punchlab.punch", *line.split()[1:], "--json"]
        for line in commands()
        if line.startswith("punch ")
    ]


def probes(words: list[str]) -> bool:
    return "probe" in words or "--stun" in words


def filled(words: list[str], **values: str) -> list[str]:
    return [re.sub("|".join(values), lambda found: values[found[0]], word) for word in words]


def test_a_nat_is_probed_as_described() -> None:
    edge_words, probe_words = (words for words in punch_commands() if probes(words))
    with Lab(Home(nat="restricted_cone", unsolicited="reset")) as lab:
        server = lab.edges[0]
        alternate = server.graph.addresses[-1].partition("/")[0]
        edge = EventProcess(server, filled(edge_words, OTHER_IP=alternate, IP=server.address))
        assert wait_for([edge], lambda: edge.first("listening") is not None, 20), edge.errors
        found = json.loads(lab["a"].run(filled(probe_words, IP=server.address)).stdout)
        edge.end()
    assert [found[transport]["filtering"] for transport in ("udp", "tcp")] == ["address-dependent"] * 2


def test_a_file_is_sent_for_real_as_described(tmp_path: Path) -> None:
    edge_words, send_words, receive_words = (words for words in punch_commands() if not probes(words))
    content = os.urandom(10_000)
    (tmp_path / "sent").write_bytes(content)

    with Lab(AB()) as lab:
        edge = EventProcess(lab["edge1"], edge_words)
        assert wait_for([edge], lambda: edge.first("listening") is not None, 20)
        sender = EventProcess(lab["a"], filled(send_words, EDGE=lab.anycast, FILE=str(tmp_path / "sent")))
        assert wait_for([sender], lambda: sender.first("code") is not None, 20)
        code = str((sender.first("code") or {})["code"])
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        words = [
            *filled(receive_words, EDGE=lab.anycast, CODE=code),
            "--dir",
            str(inbox),
            "--yes",
        ]  # there is no terminal
        receiver = EventProcess(lab["b"], words)
        assert wait_for([sender, receiver], lambda: not (sender.open or receiver.open), 60)
        for process in (sender, receiver):
            assert process.returncode == 0, process.errors
            process.end()
        edge.end()
    assert (inbox / "sent").read_bytes() == content


def test_a_campaign_is_run_on_other_machines_as_described(tmp_path: Path) -> None:
    scheduler_words, worker_words, run_words = ON_MACHINES
    (tmp_path / "sweep.toml").write_text('topology = "ab"\nnat_a = "none"\nnat_b = "none"\ntrials = 2\n')
    scripts = Path(sys.executable).parent
    local = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    with started(str(scripts / scheduler_words[0]), *scheduler_words[1:], *local) as scheduler:
        address = line(scheduler.stderr, "Scheduler at:").split()[-1]
        worker_words, run_words = (
            filled(words, **{"tcp://scheduler:8786": address}) for words in (worker_words, run_words)
        )
        with started(*punchlab(*worker_words[1:])) as worker:
            line(worker.stdout, "worker of")
            done = run(punchlab(*run_words[1:]), cwd=tmp_path)
    assert "2 trials, 0 disagree with the oracle, 0 lab errors" in done.stdout


@pytest.mark.parametrize("source", blocks("python"))
def test_the_example_passes(source: str) -> None:
    names: dict[str, Callable[[], None]] = {}
    exec(source, names)
    tests = [function for name, function in names.items() if name.startswith("test_")]
    assert tests
    for function in tests:
        function()


def test_every_field_of_a_result_is_in_the_readme(clone: Path) -> None:
    command = [sys.executable, "-m", "punchlab.lab.cli", "trial", "ab", "--nat-a", "none", "--nat-b", "none", "--json"]
    record = json.loads(subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout)
    table = README.split("| field | meaning |")[1].split("\n\n")[0]
    rows = [row.split("|")[1:3] for row in table.splitlines()[2:]]
    written = {name for fields, _ in rows for name in re.findall(r"`(\w+)`", fields)}
    assert written == set(record) - {"schema"} | {"capture"}  # the latter only `punchlab run` writes
    for field in ("timings_s", "exchange"):
        (meaning,) = (meaning for fields, meaning in rows if f"`{field}`" in fields)
        assert set(re.findall(r"`(\w+)`", meaning)) == set(record[field]), field


def helped(*words: str) -> str:
    return subprocess.run([sys.executable, "-m", *words, "--help"], capture_output=True, text=True, check=True).stdout


def options(*words: str) -> set[str]:
    page = helped(*words)
    own = set(re.findall(OPTION, page)) - {"--help", "--version"}
    return own.union(*(options(*words, command) for command in re.findall(r"^    (\w+) ", page, flags=re.MULTILINE)))


# Of other programs, of script/bench, and of scenarios/conftest.py.
FOREIGN = {
    *("--custom", "--topo", "--switch", "--controller", "--link"),
    *("--junitxml", "--report", "--only", "--again", "--privileged", "--wheel-dir", "--random-fully", "--reject-with"),
}


def test_every_option_is_in_the_readme_and_every_option_in_the_readme_exists() -> None:
    known = options("punchlab.lab.cli") | options("punchlab.punch")
    written = set(re.findall(OPTION, re.sub(r"^```text.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)))
    assert known - written == set()
    assert written - known - FOREIGN == set()
