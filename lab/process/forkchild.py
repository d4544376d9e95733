"""The forked child that becomes a client: it sets namespaces, streams, directory, environment and privileges.

Errors before the client starts are the server's answer to the request, not errors of the client.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any, NoReturn

from punchlab.lab.confinement import privileges
from punchlab.lab.confinement.roles import Roles

Function = Callable[[], object]

_CLONE_NEWNET, _PR_SET_PDEATHSIG = 0x40000000, 1
_libc = ctypes.CDLL(None, use_errno=True)


def become(
    target: Function | None,
    name: str,
    request: dict[str, Any],
    space: int,
    streams: Sequence[int],
    trees: Sequence[int],
    confinement: Roles,
    report: IO[bytes],
) -> NoReturn:
    """Become the requested client: `target`, or a command without one. `space` is its network namespace."""
    status = 1
    try:
        try:
            _set_up(request, space, streams)
            if request["confined"] is not None:
                confinement.enter(request["confined"], trees)
            confinement.close()
            _enter_directory(request["directory"], confined=request["confined"] is not None)
            if request["confined"] is not None:
                privileges.reduce()
        except OSError as error:
            _give_up(report, "error", str(error))
        if target is None:
            _execute(request["arguments"], report)
        report.close()
        sys.argv = [name, *request["arguments"]]
        status = _call(target)
    except BaseException:  # never continue in the server's loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(_finalize(status))


def _set_up(request: dict[str, Any], space: int, descriptors: Sequence[int]) -> None:
    """Set network namespace, streams and environment. Raises OSError."""
    _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    os.setsid()  # leave the session, which identifies processes started by hand
    if _libc.setns(space, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    for number, stream in enumerate(descriptors):
        os.dup2(stream, number)
    for descriptor in (space, *descriptors):
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - descriptors, open until the process ends
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - as above
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - as above
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _enter_directory(path: str, *, confined: bool) -> None:
    """Enter the working directory, or the root if a confined client does not see it. Raises OSError."""
    try:
        os.chdir(path)
    except FileNotFoundError:
        if not confined:
            raise
        os.chdir("/")


def _execute(words: Sequence[str], report: IO[bytes]) -> NoReturn:
    """Execute the command. If it cannot start, the error is the answer."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # Python handles or ignores these signals
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(words[0], list(words))
    except (OSError, ValueError) as error:
        _give_up(report, "refused", getattr(error, "strerror", None) or str(error))


def _give_up(report: IO[bytes], kind: str, reason: str) -> NoReturn:
    report.write(json.dumps({kind: reason}).encode())
    os._exit(1)


def _call(target: Function) -> int:
    """Call the function and return its exit status, as Python would."""
    try:
        result = target()
    except SystemExit as ended:
        result = ended.code
    except KeyboardInterrupt:
        result = 130
    if result is None or isinstance(result, int):
        return int(result or 0) & 0xFF
    print(result, file=sys.stderr)
    return 1


def _finalize(status: int) -> int:
    """Do what Python does at exit: join threads, run exit functions, flush buffers."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        return status or 1
    return status
