"""`punchlab`: the composition root. Only this package imports the lab, the topologies and the reports, and it does so
late.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import sys
import tempfile
from collections.abc import Sequence

from punchlab.lab.cli import arguments
from punchlab.lab.confinement import sandbox
from punchlab.lab.errors import InputError, MissingCapabilityError, PunchlabError, SeveralInputsError
from punchlab.lab.kernel import packages, programs
from punchlab.punch.stdio import settle
from punchlab.punch.text import printable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `punchlab ARGUMENTS` and return the exit status: 0 success, 1 failure, 2 invalid request.

    Without `argv`, use the arguments of the process, and end it.
    """
    settle()
    if argv is None:
        gc.set_threshold(_COLLECTED_AFTER)
        programs.finish(_status(sys.argv[1:]))
    return _status(list(argv))


_COLLECTED_AFTER = 50_000
"""Allocations until a garbage collection: imported modules are never freed, so early collections are useless."""


def _status(words: list[str]) -> int:
    try:
        try:
            given = arguments.parse(words)
            packages.require()
            return _run(given)
        finally:
            sys.stdout.flush()
    except SeveralInputsError as errors:
        for each in errors.errors:
            _complain(each)
        return 2
    except (InputError, MissingCapabilityError) as error:
        _complain(error)
        return 2
    except PunchlabError as error:
        _complain(error)
        return 1
    except BrokenPipeError:  # the reader of the output has exited
        _discard_output()
        return 1
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _discard_output()
        _complain(f"{error.filename or 'standard output'}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130


def _complain(what: object) -> None:
    """Print a one-line error to standard error."""
    print(f"punchlab: {printable(str(what))}", file=sys.stderr)


def _discard_output() -> None:
    """Keep Python from flushing standard output at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(given: argparse.Namespace) -> int:
    from punchlab.lab.cli import commands

    command = getattr(commands, f"{given.command}_command")
    # Reject invalid requests before the sandbox is created.
    check = getattr(commands, f"check_{given.command}", None)
    if check is not None:
        check(given)
    if given.needs_sandbox and not sandbox.inside():
        see = getattr(commands, f"view_{given.command}", None)
        sandbox.enter(None if see is None else see(given))
        if see is None:
            # On the sandbox's tmpfs, which disappears with a killed run.
            os.environ["TMPDIR"] = tempfile.tempdir = "/run"
    status: int = command(given)
    return status
