"""The Python that runs the lab: no confined program changes it, though processes that run it are within reach."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.commands import HIDE_SANDBOX, ROOT, run

USERS = {"root": (), "ordinary": ("unshare", "--user", "--map-user=1000", "--map-group=1000")}
"""Words that run a command as that user."""

CHANGES = """
    change() {
        for each in /proc/[0-9]*/exe /proc/self/exe /proc/[0-9]*/map_files/*; do
            chmod 4755 "$each"; chown 12 "$each"; touch -c -d @1 "$each"; true >> "$each"
        done 2>/dev/null
    }
    change
    umount -l /proc && change
    echo tried
"""
"""Reaches for the programs of all processes, also by the /proc below the uppermost one."""

CLIENT = """
import glob, os, sys
def main():
    for path in [sys.executable, *glob.glob("/proc/[0-9]*/exe"), *glob.glob("/proc/[0-9]*/map_files/*")]:
        for change in (lambda: os.chmod(path, 0o4755), lambda: os.utime(path, (1, 1)), lambda: open(path, "r+b")):
            try:
                change()
                print("changed", path, file=sys.stderr)
            except OSError:
                pass
    print("tried", os.readlink("/proc/self/exe"), file=sys.stderr)
if __name__ == "__main__":
    main()
"""

LAB = """
import sys
sys.path.insert(0, FOLDER)
from punchlab import Lab
from punchlab.lab.client.contract import SENDER
from punchlab.lab.client.description import Client
from punchlab.lab.client.processes import EventProcess, wait_for
from punchlab.lab.confinement import sandbox
from punchlab.lab.process.forked import Function
from punchlab.topologies import AB

sandbox.enter()
with Lab(AB(delay="0ms", edge_delay="0ms")) as lab:
    for sender, function in ((("x",), Function("changing_client:main")), (("{python}", PROGRAM), None)):
        client = Client(name="m", edge=("x",), sender=sender, receiver=("x",), strategies=("none",), tells_code=False,
                        function=function)
        process = EventProcess(lab["a"], client.command(SENDER, {}), function, confined=client.view(SENDER))
        try:
            wait_for([process], lambda: False, 20.0)
            print(process.errors)
        finally:
            process.end()
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter of the test's own, with the packages of this one."""
    folder = tmp_path / "python"
    words = [sys.executable, "-m", "venv", "--copies", "--without-pip", str(folder)]
    subprocess.run(words, check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = sysconfig.get_path("purelib")
    link = f"import site; site.addsitedir({packages!r})\n{ROOT / 'src'}\n"
    (folder / "lib" / version / "site-packages" / "own.pth").write_text(link)
    return folder / "bin" / "python"


def state(program: Path) -> tuple[int, ...]:
    """What a change of the file changes."""
    status = program.stat()
    return (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


@pytest.mark.parametrize("words", [("sandbox",), ("up", "ab", "--")], ids=" ".join)
@pytest.mark.parametrize("user", USERS)
def test_a_command_does_not_change_the_python_of_the_lab(
    user: str, words: Sequence[str], python: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    before = state(python)
    command = [*HIDE_SANDBOX, *USERS[user], str(python), "-m", "punchlab.lab.cli", *words, "sh", "-c", CHANGES]
    done = run(command, cwd=here)
    assert done.stdout.splitlines()[-1:] == ["tried"], done
    assert state(python) == before


@pytest.mark.parametrize("user", USERS)
def test_a_client_does_not_change_the_python_that_it_runs_in(user: str, python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "client"
    folder.mkdir()
    program = folder / "changing_client.py"
    program.write_text(CLIENT)
    before = state(python)
    script = f"FOLDER, PROGRAM = {str(folder)!r}, {str(program)!r}\n{LAB}"
    done = run([*HIDE_SANDBOX, *USERS[user], str(python), "-c", script], cwd=folder)
    real = os.path.realpath(python)
    assert done.stdout.split() == ["tried", real, "tried", real], done
    assert state(python) == before
