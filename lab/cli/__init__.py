"""`punchlab`: the composition root. It alone knows the lab, the topologies and the reports, and imports them late."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import tempfile
from collections.abc import Sequence

from lab import sandbox
from lab.cli import arguments
from lab.errors import InputError, MissingCapabilityError, PunchlabError, SeveralInputsError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `punchlab ARGUMENTS`; the exit status: 0 fine, 1 it failed, 2 what was asked for cannot be done."""
    _settle_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            given = arguments.parse(words)
            return _run(given)
        finally:
            sys.stdout.flush()
    except SeveralInputsError as errors:
        for each in errors.errors:
            print(f"punchlab: {each}", file=sys.stderr)
        return 2
    except (InputError, MissingCapabilityError) as error:
        print(f"punchlab: {error}", file=sys.stderr)
        return 2
    except PunchlabError as error:
        print(f"punchlab: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # nobody reads the output any more
        _discard_output()
        return 1
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _discard_output()
        print(f"punchlab: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("punchlab: interrupted", file=sys.stderr)
        return 130


def _discard_output() -> None:
    """Keep the interpreter from flushing standard output at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _settle_streams() -> None:
    """Standard streams that are there, here and in children, and that take every character.

    One that was closed becomes /dev/null: otherwise the next socket or namespace would get its descriptor.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 (open until the process ends)
            os.set_inheritable(number, True)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _run(given: argparse.Namespace) -> int:
    from lab.cli import commands

    command = getattr(commands, f"{given.command}_command")
    # What can be refused is refused before there is a sandbox.
    check = getattr(commands, f"check_{given.command}", None)
    if check is not None:
        check(given)
    if given.needs_sandbox and not sandbox.inside():
        see = getattr(commands, f"view_{given.command}", None)
        sandbox.enter(None if see is None else see(given))
        if see is None:
            # On the sandbox's own tmpfs, which does not outlive a run that is killed.
            os.environ["TMPDIR"] = tempfile.tempdir = "/run"
    status: int = command(given)
    return status
