"""External programs: find one, exec one, run a Python module of this project, and end this process at once."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import punchlab
from punchlab.punch.text import shown

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit statuses of a shell for a command that it cannot find or execute."""

PACKAGE = Path(punchlab.__file__).parent
"""The folder of the package `punchlab`."""

_ISOLATED = (
    "import runpy, sys; del sys.argv[0]; sys.path.append(sys.argv.pop(0)); "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def python(module: str, *, isolated: bool = False) -> list[str]:
    """Return the command that runs a module of this project.

    `isolated` starts faster, but the module can import only the standard library and this project.
    """
    if isolated:
        return [sys.executable, "-I", "-S", "-c", _ISOLATED, str(PACKAGE.parent), module]
    return [sys.executable, "-P", "-m", module]


def find(name: str) -> str | None:
    """Return the path of an executable file in PATH, or None."""
    return shutil.which(name)


def explain(name: str) -> tuple[int, str]:
    """Return why `find` fails for a program: the exit status that a shell would give, and the reason."""
    if not name:
        return NOT_FOUND, "no such program in PATH"
    folders = [""] if os.path.dirname(name) else os.environ.get("PATH", os.defpath).split(os.pathsep)  # noqa: PTH120
    for path in (os.path.join(folder, name) for folder in folders):  # noqa: PTH118 - "" is the current directory
        if os.path.isdir(path):  # noqa: PTH112
            return NOT_EXECUTABLE, "it is a directory"
        if os.path.exists(path):  # noqa: PTH110
            return NOT_EXECUTABLE, "it is not executable"
    if os.path.dirname(name):  # noqa: PTH120
        return NOT_FOUND, "no such file"
    return NOT_FOUND, "no such program in PATH"


def _refusal(name: str, reason: str | None) -> str:
    """Return a one-line error for a command that cannot run."""
    return f"punchlab: command: {shown(name)} cannot be used; expected a program that can be run ({reason})"


def replace(command: Sequence[str], environment: Mapping[str, str] | None = None) -> NoReturn:
    """Execute the command in place of this process. On failure, print one line and exit with 127 or 126, as a shell
    does.
    """
    path = find(command[0])
    if path is None:
        status, reason = explain(command[0])
        print(_refusal(command[0], reason), file=sys.stderr, flush=True)
        os._exit(status)
    # Python ignores these two signals, and ignored signals stay ignored across exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    given = os.environ if environment is None else environment
    try:
        try:
            os.execve(path, list(command), given)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without a #! line.
            os.execve("/bin/sh", ["sh", path, *command[1:]], given)
    except OSError as error:
        print(_refusal(command[0], error.strerror), file=sys.stderr, flush=True)
        os._exit(NOT_EXECUTABLE)


def finish(status: int) -> NoReturn:
    """End this process as Python does, but without freeing all modules, which takes 30 ms of CPU."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader has exited, or it is closed
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    replace(sys.argv[1:])
