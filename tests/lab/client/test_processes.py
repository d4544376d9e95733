"""Processes of clients: what ends them, and that no descendant survives a trial or a lab."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.lab.client.contract import Speaker
from punchlab.lab.client.description import Client
from punchlab.lab.client.processes import EventProcess, end, wait_for
from punchlab.lab.confinement import sandbox
from punchlab.lab.lab import Lab as RunningLab
from punchlab.lab.process.forked import Function
from punchlab.topologies import AB

PATIENCE_S = 20.0
SLEEP = "sleep 1000 >/dev/null 2>&1 </dev/null"
CHILDREN = {
    "child": f"{SLEEP} & echo $!",
    "child that holds the output": "sleep 1000 & echo $!",
    "child that ignores SIGTERM and SIGHUP": f"(trap '' TERM HUP; exec {SLEEP}) & echo $!",
    "session of its own": f"setsid {SLEEP} & echo $!",
    "daemon": f"(setsid sh -c '({SLEEP} & echo $!)')",
    "stopped": f"{SLEEP} & kill -STOP $!; echo $!",
}
"""Shell words that leave a process behind and print its id."""


@pytest.fixture
def lab() -> Iterator[RunningLab]:
    with Lab(AB(delay="0ms", edge_delay="0ms")) as built:
        yield built


def runs(pid: int) -> bool:
    """Return whether the process runs, and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def running_with(word: str) -> list[str]:
    """Return the ids of the processes whose command contains that word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it exited meanwhile
            if word.encode() in (folder / "cmdline").read_bytes():
                found.append(folder.name)
    return found


def shell(lab: RunningLab, words: str, host: str = "a") -> EventProcess:
    return EventProcess(lab[host], ["sh", "-c", words], speaker=Speaker("mine", "sender", host))


def ended(process: EventProcess) -> bool:
    return wait_for([process], lambda: not process.open, PATIENCE_S)


def client(host: str, edge: str = "", *, tells_code: bool = False) -> Client:
    listening = """echo '{"event": "listening"}'; """
    words = ("sh", "-c", listening + (edge or "exec sleep 1000"))
    return Client("mine", words, ("sh", "-c", host), ("sh", "-c", host), ("plain",), tells_code)


@pytest.mark.parametrize("kind", CHILDREN)
def test_descendants_of_a_client_end_with_the_trial(lab: RunningLab, kind: str, tmp_path: Path) -> None:
    seconds = f"1000.{uuid.uuid4().int}"
    child = CHILDREN[kind].replace("1000", seconds)
    mine = replace(client(f"({child}) | head -1 >> {tmp_path / 'pids'}; {child}"), writes=(str(tmp_path),))
    began = time.monotonic()
    trial = lab.punch("a", "b", client=mine, strategy="plain")
    assert time.monotonic() - began < PATIENCE_S
    assert [side.returncode for side in trial.sides] == [0, 0], trial.sides
    assert len((tmp_path / "pids").read_text().split()) == 2
    assert running_with(seconds) == []
    assert lab["a"].present() == lab["b"].present() == frozenset()
    assert lab["edge1"].present() != frozenset()


@pytest.mark.parametrize("kind", CHILDREN)
def test_processes_started_by_hand_end_with_the_lab(kind: str) -> None:
    with Lab(AB()) as lab:
        by_popen = lab["a"].popen(["sh", "-c", f"{CHILDREN[kind]}; wait"], stdout=subprocess.PIPE, text=True)
        assert by_popen.stdout is not None
        pids = [by_popen.pid, int(by_popen.stdout.readline())]
        pids.append(int(lab["a"].run(["sh", "-c", CHILDREN[kind]]).stdout))
        pids = [pid for pid in pids if runs(pid)]
        lab.punch("a", "b", client=client("sleep 1000 & exit 0"), strategy="plain")
        assert len(pids) > 1
        assert all(map(runs, pids))
        assert lab["a"].present() == set(pids)
    assert not any(map(runs, pids))


def test_processes_started_by_hand_can_start_others_while_a_client_runs(lab: RunningLab) -> None:
    server = lab["a"].popen(
        ["sh", "-c", f"read line; {SLEEP} & echo $!; wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    process = shell(lab, "exec sleep 1000")
    server.stdin.write("\n")
    server.stdin.flush()
    started = int(server.stdout.readline())
    daemon = int(lab["a"].run(["sh", "-c", f"{SLEEP} & echo $!"]).stdout)
    process.end()
    assert all(map(runs, (server.pid, started, daemon)))
    assert not runs(process.process.pid)


def test_two_clients_in_one_node_end_independently(lab: RunningLab) -> None:
    one, other = (shell(lab, 'sleep 1000 & echo \'{"event": "done"}\'; wait') for _ in range(2))
    assert wait_for([one, other], lambda: bool(one.first("done") and other.first("done")), PATIENCE_S)
    theirs = other.members() - one.members()
    assert len(theirs) == 2
    one.end()
    assert all(map(runs, theirs))
    end([other])
    assert lab["a"].present() == frozenset()


def test_a_child_in_another_network_namespace_ends_with_its_parent(lab: RunningLab) -> None:
    process = shell(lab, 'unshare --net sleep 1000 & echo \'{"event": "done", "pid": \'$!\'}\'; wait')
    assert wait_for([process], lambda: process.first("done") is not None, PATIENCE_S)
    pid = (process.first("done") or {})["pid"]
    here = lab["a"].inode
    while Path(f"/proc/{pid}/ns/net").stat().st_ino == here:
        time.sleep(0.001)
    process.end()
    assert not runs(pid)


def test_nothing_remains_of_a_lab_that_ends_with_an_error() -> None:
    pids = []

    def fail() -> None:
        with Lab(AB()) as lab:
            pids.append(lab["b"].popen(["sleep", "1000"]).pid)
            pids.append(int(lab["a"].run(["sh", "-c", CHILDREN["daemon"]]).stdout))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(pids) == 2
    assert not any(map(runs, pids))


def test_nothing_remains_of_a_killed_run() -> None:
    script = f"""
import os
from punchlab import Lab
from punchlab.lab.confinement import sandbox
from punchlab.topologies import AB
lab = Lab(AB()).__enter__()
print(lab["a"].run(["sh", "-c", {CHILDREN["daemon"]!r}]).stdout, os.readlink("/proc/self/ns/pid"), flush=True)
os.kill(os.getpid(), 9)
"""
    command = sandbox.command_inside([sys.executable, "-c", script])
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    daemon, space = done.stdout.split()
    assert daemon.isdigit()
    spaces = [str(process / "ns" / "pid") for process in processes()]
    assert space not in {os.readlink(link) for link in spaces if os.path.lexists(link)}  # noqa: PTH115


def processes() -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def test_a_client_that_is_killed_leaves_no_zombie_and_no_descriptor(lab: RunningLab) -> None:
    def zombies() -> set[str]:
        stats = {process.name: process / "stat" for process in processes()}
        fields = {pid: stat.read_text().rpartition(")")[2].split() for pid, stat in stats.items() if stat.exists()}
        return {pid for pid, (state, parent, *_) in fields.items() if state == "Z" and int(parent) == os.getpid()}

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    mine = client("sleep 1000 & kill -9 $$")
    lab.punch("a", "b", client=mine, strategy="plain")
    before, earlier = descriptors(), zombies()  # of other tests, which may have killed a server
    for _ in range(3):
        trial = lab.punch("a", "b", client=mine, strategy="plain")
        assert [side.returncode for side in trial.sides] == [-signal.SIGKILL] * 2
    assert zombies() == earlier
    assert descriptors() == before


def test_standard_input_is_empty(lab: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reading_client.py").write_text("import sys\ndef main():\n    print(repr(sys.stdin.read()))\n")
    monkeypatch.syspath_prepend(tmp_path)
    forked = EventProcess(lab["a"], [], Function("reading_client:main"))
    command = shell(lab, 'cat; echo \'{"event": "done"}\'')
    assert ended(forked)
    assert ended(command)
    assert command.first("done") is not None
    assert lab["a"].run(["cat"]).stdout == ""
    end([forked, command])


@pytest.mark.parametrize(
    "then", ["sleep 1000 &", "(while :; do echo; done) &", "setsid sh -c 'while :; do echo; done' &"]
)
def test_a_client_ends_with_its_main_process_and_all_its_output_is_read(lab: RunningLab, then: str) -> None:
    process = shell(lab, f"""{then} seq 2000 | sed 's/.*/{{"event": "done", "number": &}}/' >&1; exit 3""")
    began = time.monotonic()
    assert ended(process)
    assert process.returncode == 3
    assert time.monotonic() - began < PATIENCE_S / 2
    if "sleep" in then:
        assert [event["number"] for event in process.events] == list(range(1, 2001))
    process.end()
    assert lab["a"].present() == frozenset()


def test_a_client_that_closes_its_output_still_runs(lab: RunningLab, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    process = shell(lab, f"""echo '{{"event": "done"}}'; exec >/dev/null; read line < {tmp_path / "go"}; exit 3""")
    assert not wait_for([process], lambda: False, 1)
    assert process.first("done") is not None
    assert process.open
    (tmp_path / "go").write_text("\n")
    assert ended(process)
    assert process.returncode == 3
    process.end()


def test_the_last_line_needs_no_newline(lab: RunningLab) -> None:
    process = shell(lab, 'printf \'{"event": "done"}\'')
    assert ended(process)
    assert process.first("done") is not None
    process.end()


@pytest.mark.parametrize(
    ("words", "bound"),
    [
        ("cat /dev/zero", "a line of more than 1 MiB on standard output"),
        ("yes", "more than 16 MiB on standard output"),
        ("cat /dev/zero >&2", "more than 64 MiB on standard error"),
    ],
)
def test_a_client_that_exceeds_the_output_limit_is_ended(lab: RunningLab, words: str, bound: str) -> None:
    trial = lab.punch("a", "b", client=client(words), strategy="plain")
    assert (trial.outcome, trial.reason) in {
        ("client_error", f"client mine, {role}: {bound}") for role in ("sender", "receiver")
    }


def test_a_command_with_a_background_process_returns_when_it_exits(lab: RunningLab) -> None:
    done = lab["a"].run(["sh", "-c", "sleep 1000 & printf 'one\\r\\n\\377'; echo two >&2"], timeout=PATIENCE_S)
    assert (done.stdout, done.stderr) == ("one\n\\xff", "two\n")
    assert lab["a"].run(["cat"], stdin="given\n").stdout == "given\n"


def test_a_command_that_times_out_is_ended_with_its_descendants(lab: RunningLab) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        lab["a"].run(["sh", "-c", "sleep 1000 & wait"], timeout=0.2)
    assert lab["a"].present() == frozenset()


def test_an_edge_is_killed_and_frozen_with_its_descendants(lab: RunningLab) -> None:
    def stopped(count: int) -> bool:
        """Return whether `count` processes of the node are stopped, within a short time."""
        for _ in range(int(PATIENCE_S / 0.01)):
            stats = [Path(f"/proc/{pid}/stat").read_text() for pid in lab["edge1"].present()]
            if sum(stat.rpartition(")")[2].split()[0] == "T" for stat in stats) == count:
                return True
            time.sleep(0.01)
        return False

    mine = client("exit 0", "sleep 1000 & setsid sleep 1000 & wait")
    by_hand = lab["edge1"].popen(["sleep", "1000"])
    lab.punch("a", "b", client=mine, strategy="plain")
    assert lab.edge_network is not None
    assert len(lab["edge1"].present()) == 4
    lab.edge_network.freeze("edge1")
    assert stopped(3)
    lab.edge_network.thaw("edge1")
    assert stopped(0)
    lab.edge_network.kill("edge1")
    assert lab["edge1"].present() == {by_hand.pid}
