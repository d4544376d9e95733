"""A hostile client changes nothing outside its role, whichever user runs it."""

from __future__ import annotations

import ctypes
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.commands import HIDE_SANDBOX, run
from tests.lab.confinement.hostile.attempts import ATTEMPTS

USERS: dict[str, Sequence[str]] = {"root": (), "ordinary": ("unshare", "--user", "--map-user=1000", "--map-group=1000")}
"""Words that run a command as that user."""

STATE = (["ip", "link"], ["hostname"], ["sysctl", "kernel.core_pattern", "kernel.panic", "vm.swappiness"])
IPC_CREAT, SHARED = 0o1000, 0x70756E63


@pytest.fixture
def segment() -> Iterator[None]:
    """Create a segment of System V shared memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.shmget(SHARED, 1, IPC_CREAT | 0o666)
    assert number >= 0
    yield
    libc.shmctl(number, 0, None)  # IPC_RMID


def named(mark: str) -> list[str]:
    """Return files of the machine whose names contain the mark."""
    words = ["find", "/", "-xdev", "-name", f"*{mark}*", "-not", "-path", "/proc/*"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()


@pytest.mark.usefixtures("segment")
@pytest.mark.parametrize("user", USERS)
def test_a_hostile_client_changes_nothing_outside_its_role(user: str, tmp_path: Path) -> None:
    mark = secrets.token_hex(4)
    report, home = tmp_path / "report", tmp_path / "home"
    report.mkdir()
    home.mkdir()
    victim = home / "victim"
    victim.write_text("as it was")
    was = victim.stat()
    with ExitStack() as stack:
        listening = []
        for path in (str(home / "socket"), f"\0{mark}"):  # in the file system and in the network namespace
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(path)
            listener.listen()
            listening.append(path)
        before = [run(command).stdout for command in STATE]
        (report / "victims.json").write_text(json.dumps([str(victim), listening[0]]))
        words = [sys.executable, "-m", "tests.lab.confinement.hostile.trial", mark, str(report)]
        done = run([*HIDE_SANDBOX, *USERS[user], *words], timeout=300)
        assert [run(command).stdout for command in STATE] == before
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"outcome": "client_error", "transferred": False, "again": "direct"}
    for role in ("edge", "send", "receive"):
        achieved = json.loads((report / f"{role}.json").read_text())
        assert achieved.keys() >= {attempt.__name__ for attempt in ATTEMPTS}
        assert {name: what for name, what in achieved.items() if what} == {}, role
    assert victim.read_text() == "as it was"
    assert (victim.stat().st_mode, victim.stat().st_mtime_ns) == (was.st_mode, was.st_mtime_ns)
    assert named(mark) == []
    processes = [folder.read_bytes() for folder in Path("/proc").glob("[0-9]*/cmdline")]
    assert not any(str(int.from_bytes(mark.encode(), "big")).encode() in words for words in processes)
