"""The sandbox: nothing gets out, and nothing is left behind, however the run ends."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from punchlab import Lab
from punchlab.topologies import AB
from tests.commands import HIDE_SANDBOX, ROOT, punchlab, run

RUN = ["run", "ab", "--nat-a", "none,full_cone", "--nat-b", "none,full_cone", "--trials", "3", "--seed", "7"]
PLANNED = 12


OTHERS = ("/dev/shm", "/run", "/tmp")
"""Folders of a machine that programs of all users write to."""


def on_a_machine(folder: Path, *words: str) -> list[str]:
    """The words on a machine of which `OTHERS` are in that folder, where nobody else writes."""
    mounts = []
    (folder / "run" / "mount").mkdir(parents=True)  # where mount(8) keeps its table
    for other in OTHERS:
        there = folder / other.strip("/")
        there.mkdir(parents=True, exist_ok=True)
        if ROOT.is_relative_to(other):
            project = there / ROOT.relative_to(other)
            project.mkdir(parents=True)
            mounts.append(f"mount --rbind {ROOT} {project}")
        mounts.append(f"mount --rbind {there} {other}")  # /tmp last, for the folder is in it
    return ["unshare", "--mount", "sh", "-c", f'{" && ".join(mounts)} && exec "$@"', "sh", *words]


def traces(mark: str, folder: Path) -> dict[str, str]:
    """What a run could leave behind on the machine that it ran on; its processes have the mark in their environment.

    The folder is that of `on_a_machine`; the run is to write to `out` in its /tmp.
    """
    commands = {
        "netns": ["ip", "netns", "list"],
        "links": ["ip", "-brief", "link"],
        "iptables": ["iptables-save", "-t", "nat"],
        "nft": ["nft", "list", "ruleset"],
        # Without the folders of trials that other tests run in this sandbox.
        "mounts": ["grep", "-v", " /run/punchlab-", "/proc/self/mounts"],
    }
    found = {
        name: "\n".join(line for line in run(command).stdout.splitlines() if not line.startswith("#"))
        for name, command in commands.items()
    }
    there = [path.relative_to(folder) for path in folder.rglob("*")]
    files = sorted(str(path) for path in there if not path.is_relative_to("tmp/out"))
    return found | {"processes": " ".join(marked(mark)), "files": "\n".join(files)}


def marked(mark: str) -> Iterator[str]:
    """The ids of the processes that have the mark in their environment, and so have those that they start."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            if mark.encode() in (folder / "environ").read_bytes():
                yield folder.name


def records(folder: Path) -> list[dict[str, object]]:
    file = folder / "results.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def test_the_lab_refuses_to_build_outside_the_sandbox() -> None:
    program = "from punchlab import Lab; from punchlab.topologies import AB; Lab(AB()).__enter__()"
    done = run(["unshare", "--net", sys.executable, "-c", program])
    assert done.returncode == 1
    assert "the lab builds only inside its sandbox" in done.stderr


def test_a_sandbox_has_no_way_out() -> None:
    links = run(punchlab("sandbox", "ip", "-brief", "link")).stdout.splitlines()
    assert [line.split()[0] for line in links] == ["lo"]
    assert run(punchlab("sandbox", "ip", "route")).stdout == ""


def test_the_exit_status_of_a_command_comes_through() -> None:
    assert run(punchlab("sandbox", "sh", "-c", "exit 7")).returncode == 7


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_and_the_next_one_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    mark = f"PUNCHLAB_TEST={tmp_path}"
    machine = tmp_path / "machine"
    out = machine / "tmp" / "out"
    words = [sys.executable, "-m", "punchlab.lab.cli", *RUN, "--out", "/tmp/out"]
    # As from a terminal: what a script starts in the background ignores interrupts.
    command = on_a_machine(machine, "env", "--default-signal=INT", mark, *words)
    before = traces(mark, machine)
    moment = random.Random(int(number)).randint(1, 4)
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    while len(records(out)) < moment:
        assert running.poll() is None
        time.sleep(0.01)
    assert traces(mark, machine)["processes"]
    # The terminal sends an interrupt to the whole group; whoever kills, kills the one process that he started.
    (os.killpg if number is signal.SIGINT else os.kill)(running.pid, number)
    running.wait(30)
    deadline = time.monotonic() + 10
    while traces(mark, machine) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert traces(mark, machine) == before
    kept = records(out)
    assert len(kept) < PLANNED
    assert run(command).returncode == 0
    finished = records(out)
    assert finished[: len(kept)] == kept
    assert len({record["id"] for record in finished}) == len(finished) == PLANNED


def test_a_lab_ends_with_its_block_and_kills_what_ran_in_it() -> None:
    with Lab(AB()) as lab:
        sleeper = lab["a"].popen(["sleep", "1000"])
        held = lab["a"].namespace
    assert sleeper.returncode == -signal.SIGKILL
    assert held.fd == -1


def test_programs_of_the_administrator_are_found_without_their_folders_in_the_path() -> None:
    done = run(punchlab("trial", "ab", "--nat-a", "full_cone", under=["env", "PATH=/usr/local/bin:/usr/bin:/bin"]))
    assert done.returncode == 0, done


@pytest.mark.parametrize("ear", ["/dev/log", "/dev/console"])
def test_what_a_daemon_of_the_lab_logs_does_not_reach_the_machine(ear: str) -> None:
    if Path(ear).exists():
        assert Path(ear).stat().st_rdev == Path("/dev/null").stat().st_rdev


USERS = {"root": (), "ordinary": ("unshare", "--user", "--map-user=1000", "--map-group=1000")}
"""Words that run a command as that user."""

SANDBOXED = """
    touch inside && echo wrote here
    for each in / /usr /etc {project}; do touch $each/{mark} 2>&1 | grep -q 'Read-only' && echo no: $each; done
    umount /proc 2>/dev/null || echo no: unmount
    mount -o remount,rw,bind /usr 2>/dev/null || echo no: remount
    { echo 1 > /proc/sys/kernel/panic; } 2>/dev/null || echo no: sysctl
    test -e {secret} || echo no: secret
    touch $HOME/{mark} /tmp/{mark} /run/{mark} && echo wrote to private folders
    ip link add dummy0 type veth && sysctl -qw net.ipv4.ip_forward=1 && echo changed its network
"""


@pytest.mark.parametrize("words", [("sandbox",), ("up", "ab", "--")], ids=" ".join)
@pytest.mark.parametrize("user", USERS)
def test_a_command_changes_the_current_directory_and_nothing_else(
    user: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    mark = f"mark-{tmp_path.parent.name}"
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "secret").write_text("a secret")
    values = {"project": ROOT, "mark": mark, "secret": tmp_path / "secret"}
    script = SANDBOXED
    for name, value in values.items():
        script = script.replace(f"{{{name}}}", str(value))
    done = run(punchlab(*words, "sh", "-c", script, under=USERS[user]), cwd=here)
    assert done.stdout.splitlines() == [
        "wrote here",
        *(f"no: {folder}" for folder in ("/", "/usr", "/etc", ROOT)),
        *("no: unmount", "no: remount", "no: sysctl", "no: secret"),
        "wrote to private folders",
        "changed its network",
    ], done
    assert (here / "inside").exists()
    found = run(["find", "/", "-xdev", "-name", mark, "-not", "-path", "/proc/*"])
    assert found.stdout == ""


@pytest.mark.parametrize("words", [("sandbox", "--unconfined"), ("up", "ab", "--unconfined", "--")], ids=" ".join)
def test_an_unconfined_command_sees_the_files_of_the_machine(words: tuple[str, ...], tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = run(punchlab(*words, "sh", "-c", f"echo $HOME; touch {tmp_path}/outside"), cwd=here)
    assert (done.returncode, done.stdout) == (0, f"{os.environ['HOME']}\n"), done
    assert (tmp_path / "outside").exists()


@pytest.mark.parametrize("user", USERS)
def test_a_command_builds_labs_with_clients_in_them(user: str) -> None:
    program = "from punchlab import Lab; from punchlab.topologies import AB; lab = Lab(AB()).__enter__(); "
    program += "print(lab.punch('a', 'b').direct)"
    done = run(punchlab("sandbox", sys.executable, "-c", program, under=USERS[user]))
    assert done.stdout == "True\n", done


def test_no_descriptor_of_a_folder_comes_into_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    here = tmp_path / "here"
    here.mkdir()
    words = punchlab("sandbox", "sh", "-c", "ls /proc/self/fd/9/")
    done = run(["sh", "-c", f'exec "$@" 9< {tmp_path}', "sh", *words], cwd=here)
    assert "there" not in done.stdout + done.stderr
    assert "/proc/self/fd/9" in done.stderr


@pytest.mark.parametrize("user", USERS)
def test_of_a_home_a_command_sees_no_more_than_its_programs(user: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    home = "mount -t tmpfs none /home; mkdir -p /home/alice/.ssh /home/alice/.local/bin /home/alice/.local/share"
    files = "echo a key > /home/alice/.ssh/id; echo a token > /home/alice/.local/share/token; cp /bin/true $program"
    program = "program=/home/alice/.local/bin/mine"
    path = "PATH=/home/alice/.local/bin:$PATH"
    under = ["unshare", "--mount", "sh", "-c", f'{program}; {home}; {files}; export {path}; exec "$@"', "sh"]
    words = punchlab("sandbox", "sh", "-c", "mine && echo runs; cat /home/alice/.*/id /home/alice/.local/share/*")
    done = run([*under, *words[: len(HIDE_SANDBOX)], *USERS[user], *words[len(HIDE_SANDBOX) :]], cwd=here)
    assert done.stdout == "runs\n", done


@pytest.mark.parametrize("user", USERS)
def test_a_command_cannot_choose_what_the_next_one_sees(user: str, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    (here / "bin").mkdir(parents=True)
    (here / "input").write_text("an input\n")
    elsewhere.mkdir()
    (elsewhere / "secret").write_text("a secret\n")
    path = f"PATH={here / 'bin'}:{os.environ['PATH']}"
    under = [*USERS[user], "env", path]
    replaces = f"rm -r input bin; ln -s {elsewhere}/secret input; ln -s {elsewhere} bin"
    assert run(punchlab("sandbox", "sh", "-c", f"cat input; {replaces}", "input", under=under), cwd=here).stdout
    for name in ("input", str(here / "input")):
        script = f"cat {name} bin/secret {elsewhere}/secret"
        done = run(punchlab("sandbox", "sh", "-c", script, name, under=under), cwd=here)
        assert (done.returncode, done.stdout) == (1, ""), done


@pytest.mark.parametrize("user", USERS)
def test_a_command_changes_no_device(user: str) -> None:
    devices = "/dev/null /dev/zero /dev/full /dev/tty /dev/net/tun"
    script = f"for each in {devices}; do chmod 666 $each 2>&-; done; echo x > /dev/null"
    before = {each: Path(each).stat().st_ctime_ns for each in ("/dev/null", "/dev/zero", "/dev/full")}
    assert run(punchlab("sandbox", "sh", "-c", script, under=USERS[user])).returncode == 0
    assert {each: Path(each).stat().st_ctime_ns for each in before} == before
