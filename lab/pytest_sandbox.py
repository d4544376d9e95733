"""pytest plugin (`-p punchlab.lab.pytest_sandbox`): the test run moves into the sandbox before collection.

Workers of pytest-xdist are children of the sandboxed run and inherit it. A program that calls `pytest.main()` moves
into the sandbox as a whole, and stays there when `pytest.main()` returns.
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
"""The environment variable that names the folder in which pytest keeps its temporary directories."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Outermost of the early hooks, so that nothing of the user's has run yet."""
    enter(early_config)
    return (yield)


def enter(config: pytest.Config) -> None:
    """Move the run into a sandbox, unless it is in one. Raises `pytest.UsageError` where that cannot be."""
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
    """A folder for this user's temporary directories.

    pytest names them by the user's name and requires that they belong to the user. Inside the sandbox an ordinary user
    is root, so that all users would share those of root.
    """
    name = f"punchlab-of-{sandbox.user()}"
    folder = Path(tempfile.gettempdir()) / name
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        return folder
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))  # somebody else has taken the name


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
