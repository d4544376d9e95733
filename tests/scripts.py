"""The project's scripts, run as a user would run them: from another directory and a plain shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PLAIN = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}
"""What is left of the environment where nothing is activated, as an ordinary user of Debian has it."""

_TOOLS = (
    "bash",
    "cat",
    "cut",
    "dirname",
    "env",
    "grep",
    "kill",
    "mktemp",
    "rm",
    "sed",
    "sha256sum",
    "sleep",
    "tail",
    "tr",
)


def script(name: str, *words: str, under: Sequence[str] = (), project: Path = PROJECT) -> list[str]:
    """`script/NAME WORDS`, started by the words `under`."""
    return [*under, str(project / "script" / name), *words]


def run(
    command: Sequence[str], *, env: Mapping[str, str] = PLAIN, cwd: Path = Path("/"), timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, without standard input."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def clone(folder: Path) -> Path:
    """A fresh clone that looks as after script/bootstrap; its packages are those of this Python."""
    for name in ("bench", "scenarios", "script"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    environment = folder / ".venv"
    environment.mkdir()
    for each in Path(sys.prefix).iterdir():
        if each.name != "bootstrapped":
            (environment / each.name).symlink_to(each)
    described = 'echo "$PWD $(.venv/bin/python --version) $(sha256sum pyproject.toml) .[dev]"'
    done = subprocess.run(["bash", "-c", described], cwd=folder, capture_output=True, text=True, check=True)
    (environment / "bootstrapped").write_text(done.stdout)
    return folder


def path_of(folder: Path, programs: Iterable[str] = (), **stubs: str) -> str:
    """A PATH of one new folder: a shell's basic tools, these programs, and the stubs (name -> shell script)."""
    folder.mkdir()
    for name in (*_TOOLS, *programs):
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert found is not None, name
        (folder / name).symlink_to(found)
    for name, text in stubs.items():
        stub = folder / name.replace("_", "-")
        stub.write_text(f"#!/bin/sh\n{text}\n")
        stub.chmod(0o755)
    return str(folder)
