"""Clients that are Python functions: forked, but with the behavior of commands."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from punchlab import Lab, LabError
from punchlab.lab.client.description import PUNCH, Client
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.lab.errors import ClientError
from punchlab.lab.lab import Lab as RunningLab
from punchlab.lab.process.forked import ForkedProcess, Function
from punchlab.topologies import AB

MODULE = """
import atexit, json, os, random, socket, sys, threading, time

def tell():
    print(json.dumps({
        "event": "report", "arguments": sys.argv[1:], "pid": os.getpid(), "directory": os.getcwd(),
        "variable": os.environ.get("A_VARIABLE"), "input": sys.stdin.readline(), "random": random.random(),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "descriptors": len(os.listdir("/proc/self/fd")),
    }))

def end():
    how = sys.argv[1]
    if how == "thread":
        threading.Thread(target=lambda: (time.sleep(0.1), print("from the thread", flush=True))).start()
    if how == "atexit":
        atexit.register(print, "at the end")
    if how == "unflushed":
        print("not flushed")
    if how == "error":
        raise ValueError("what went wrong")
    if how == "signal":
        os.kill(os.getpid(), 15)
    if how.isdigit():
        return int(how)
    if how == "exit":
        sys.exit(7)
    if how == "words":
        sys.exit("in words")

def sleep():
    print(json.dumps({"event": "sleeping"}), flush=True)
    time.sleep(1000)
"""


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "a_client.py").write_text(MODULE)
    (folder / "broken_client.py").write_text("import not_there\n")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def lab() -> Iterator[RunningLab]:
    with Lab(AB(delay="0ms", edge_delay="0ms")) as built:
        yield built


def run(lab: RunningLab, function: Function, *arguments: str) -> tuple[int, str, str]:
    with tempfile.TemporaryFile() as errors:
        process = lab["a"].fork(function, arguments, errors)
        process.stdin.close()
        output = process.stdout.read().decode()
        status = process.wait(10)
        errors.seek(0)
        return status, output, errors.read().decode()


def test_a_function_gets_what_a_command_gets(
    lab: RunningLab,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    reports = []
    for node, value in (("a", "one"), ("b", "another")):
        monkeypatch.setenv("A_VARIABLE", value)
        monkeypatch.chdir(tmp_path)
        process = EventProcess(lab[node], ["--option", node], Function("a_client:tell"), reads_input=True)
        process.write_line("a line")
        wait_for([process], lambda: False, 20)  # until it has exited
        assert process.returncode == 0, process.errors
        process.end()
        reports.append(process.events[0])
    one, other = reports
    assert (one["arguments"], one["variable"], one["input"]) == (["--option", "a"], "one", "a line\n")
    assert (other["arguments"], other["variable"]) == (["--option", "b"], "another")
    assert one["directory"] == str(tmp_path)
    assert one["interfaces"] == ["lo", "a-eth0"]
    assert other["interfaces"] == ["lo", "b-eth0"]
    assert one["descriptors"] == 4  # the streams, and the one that lists them
    assert one["pid"] != other["pid"]
    assert one["random"] != other["random"]


@pytest.mark.parametrize(
    ("how", "status", "output", "errors"),
    [
        ("nothing", 0, "", ""),
        ("3", 3, "", ""),
        ("exit", 7, "", ""),
        ("words", 1, "", "in words\n"),
        ("error", 1, "", "ValueError: what went wrong\n"),
        ("signal", -signal.SIGTERM, "", ""),
        ("unflushed", 0, "not flushed\n", ""),
        ("atexit", 0, "at the end\n", ""),
        ("thread", 0, "from the thread\n", ""),
    ],
)
def test_a_function_ends_like_a_command(lab: RunningLab, how: str, status: int, output: str, errors: str) -> None:
    ended, printed, written = run(lab, Function("a_client:end"), how)
    assert (ended, printed) == (status, output)
    assert written.endswith(errors)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken_client:main", "broken_client:main: ModuleNotFoundError: No module named 'not_there'"),
        ("a_client:main", "a_client:main: AttributeError: module 'a_client' has no attribute 'main'"),
    ],
)
def test_a_missing_function_is_an_error_of_the_client(lab: RunningLab, name: str, message: str) -> None:
    for _ in range(2):
        with pytest.raises(ClientError, match=message):
            run(lab, Function(name))


def sleeper(lab: RunningLab) -> ForkedProcess:
    with tempfile.TemporaryFile() as errors:
        process = lab["a"].fork(Function("a_client:sleep"), [], errors)
    assert process.stdout.readline()
    return process


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_function_is_killed_when_the_lab_ends() -> None:
    with Lab(AB()) as lab:
        process = sleeper(lab)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL
    assert gone(process.pid)


def test_a_function_ends_with_the_process_that_started_it(modules: Path) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(modules)!r})
import os, tempfile
from punchlab import Lab
from punchlab.lab.process.forked import Function
from punchlab.topologies import AB
lab = Lab(AB()).__enter__()
process = lab["a"].fork(Function("a_client:sleep"), [], tempfile.TemporaryFile())
process.stdout.readline()
print(process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root)
    pid = int(done.stdout)
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        assert select.select([pidfd], [], [], 10)[0]
        os.close(pidfd)


def test_a_killed_server_is_an_error_and_its_clients_end(lab: RunningLab, modules: Path) -> None:
    (modules / "other_client.py").write_text(MODULE)
    other = Function("other_client:sleep")
    with tempfile.TemporaryFile() as errors:
        process = lab["a"].fork(other, [], errors)
        assert process.stdout.readline()
        server = int(Path(f"/proc/{process.pid}/stat").read_text().split()[3])
        os.kill(server, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        with pytest.raises(LabError, match="other_client:sleep: fork server"):
            lab["a"].fork(other, [], errors)
        assert lab["a"].fork(other, [], errors).stdout.readline()  # from a new server


_PYTHON = ("{python}", "-P", "-m", "punchlab.punch")


@pytest.mark.parametrize(
    "client",
    [
        replace(PUNCH, name="own", function=Function("punchlab.punch.__main__:main")),
        replace(
            PUNCH,
            name="command",
            function=None,
            edge=(*_PYTHON, *PUNCH.edge),
            sender=(*_PYTHON, *PUNCH.sender),
            receiver=(*_PYTHON, *PUNCH.receiver),
        ),
    ],
    ids=lambda client: client.name,
)
def test_a_trial_runs_any_python_function_and_any_command(lab: RunningLab, client: Client) -> None:
    trial = lab.punch("a", "b", client=client)
    assert trial.direct, trial


def test_servers_end_with_the_process_that_started_them() -> None:
    script = "from punchlab.lab.process.forked import Function, prepare; prepare(Function('punchlab.punch.cli:main'))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
