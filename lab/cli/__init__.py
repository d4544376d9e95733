"""`punchlab`: the composition root. It alone knows the lab, the topologies and the reports, and imports them late."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from lab import sandbox
from lab.cli import arguments
from lab.errors import InputError, LabError, MissingCapabilityError, PunchlabError, SeveralInputsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `punchlab ARGUMENTS`; the exit status: 0 fine, 1 it failed, 2 what was asked for cannot be done."""
    _settle_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            given = arguments.parse(words)
            return _run(given, words)
        finally:
            _flush()
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
    except BrokenPipeError:  # the reader of our output has gone; keep the interpreter from flushing to it at exit
        _drop_output()
        return 1
    except KeyboardInterrupt:
        print("punchlab: interrupted", file=sys.stderr)
        return 130


def _flush() -> None:
    """Write what is left of the output. Raises `LabError` where there is no room for it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise LabError(f"standard output: {error.strerror}") from error


def _drop_output() -> None:
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


def _run(given: argparse.Namespace, words: list[str]) -> int:
    from lab.cli import commands

    command = getattr(commands, f"{given.command}_command")
    # What can be refused is refused before there is a sandbox.
    check = getattr(commands, f"check_{given.command}", None)
    if check is not None:
        check(given)
    if given.needs_sandbox and not sandbox.inside():
        sandbox.enter([sys.executable, "-P", "-m", "lab.cli", *words])
    status: int = command(given)
    return status
