"""The commands of the command line, and its one-line errors."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from punchlab.punch import argument
from punchlab.punch.text import printable


def print_error(text: str) -> None:
    """Print `text` as one line on standard error."""
    with contextlib.suppress(OSError):  # the terminal may have closed
        print(f"punch: {printable(text)}", file=sys.stderr)


class Parser(argument.Parser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {printable(message)}\n")


@dataclass(frozen=True)
class Command:
    """A command of `punch`."""

    name: str
    help: str
    """One line, for the list of commands."""
    add_options: Callable[[Parser], object]
    run: Callable[[argparse.Namespace], int]
    """Returns the exit status."""
    description: str | None = None
