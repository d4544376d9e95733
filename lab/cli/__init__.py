"""`punchlab`: the composition root. It alone knows the lab, the topologies and the reports, and imports them late."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lab import sandbox
from lab.cli import arguments
from lab.errors import InputError, MissingCapabilityError, PunchlabError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `punchlab ARGUMENTS`; the exit status: 0 fine, 1 it failed, 2 what was asked for cannot be done."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        given = arguments.parse(words)
        return _run(given, words)
    except (InputError, MissingCapabilityError) as error:
        print(f"punchlab: {error}", file=sys.stderr)
        return 2
    except PunchlabError as error:
        print(f"punchlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("punchlab: interrupted", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace, words: list[str]) -> int:
    from lab.cli import commands

    command = getattr(commands, f"{given.command}_command")
    # What can be refused is refused before there is a sandbox.
    check = getattr(commands, f"check_{given.command}", None)
    if check is not None:
        check(given)
    if given.needs_sandbox and not sandbox.inside():
        sandbox.enter([sys.executable, "-m", "lab.cli", *words])
    status: int = command(given)
    return status
