"""Commands of this project, run as a user would run them, from inside the sandbox that the tests run in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent

HIDE_SANDBOX = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh"]
"""Words before a command that make it believe that it is not in a sandbox yet, so that it makes its own."""


def punchlab(*words: str, under: Sequence[str] = ()) -> list[str]:
    """`punchlab WORDS`, started outside of any sandbox, by the words `under`."""
    return [*HIDE_SANDBOX, *under, sys.executable, "-m", "punchlab.lab.cli", *words]


def run(command: Sequence[str], *, cwd: Path = ROOT, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL
    )


@contextmanager
def started(*command: str, cwd: Path = ROOT) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    with subprocess.Popen(
        command, cwd=cwd, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(stream: IO[str] | None, part: str) -> str:
    """The next line of the stream with that in it."""
    assert stream is not None
    for each in stream:
        if part in each:
            return each
    raise AssertionError(f"{part}: never said")


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """What bad input gets: exit status 2, nothing on standard output, one line that names what was wrong."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    for part in parts:
        assert part in line
