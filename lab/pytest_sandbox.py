"""pytest plugin (`-p punchlab.lab.pytest_sandbox`): move the test run into the sandbox before collection.

pytest-xdist workers are child processes and inherit the sandbox. A program that calls `pytest.main()` moves into the
sandbox and stays there after `pytest.main()` returns.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from punchlab.lab.confinement import sandbox
from punchlab.lab.errors import PunchlabError

_TEMPORARY_ROOT = "PYTEST_DEBUG_TEMPROOT"
"""The environment variable with the folder in which pytest creates its temporary directories."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Enter the sandbox in the outermost early hook, before any code of the user runs."""
    enter(early_config)
    return (yield)


def enter(config: pytest.Config) -> None:
    """Move the run into a sandbox unless it is already in one. Raises `pytest.UsageError` if that fails."""
    try:
        if not sandbox.inside():
            sandbox.enter()
        if sandbox.user() != 0 and _TEMPORARY_ROOT not in os.environ:
            folder = _own_temporary_folder()
            os.environ[_TEMPORARY_ROOT] = str(folder)
            config.add_cleanup(lambda: _remove_if_empty(folder))
    except PunchlabError as error:
        raise pytest.UsageError(f"punchlab: {error}") from None


def _own_temporary_folder() -> Path:
    """Return a folder for this user's temporary directories.

    pytest includes the user name in their path and requires that the user owns them. Inside the sandbox an unprivileged
    user is root, so all users would share root's directories.
    """
    name = f"punchlab-of-{sandbox.user()}"
    folder = Path(tempfile.gettempdir()) / name
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        return folder
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))  # another user owns the folder of that name


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
