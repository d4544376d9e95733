"""Standard streams that may have gone, and parsers that say what is wrong in one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from typing import NoReturn


def complain(text: str) -> None:
    """Say `text` on standard error."""
    with contextlib.suppress(OSError):  # the terminal may have gone
        print(f"punch: {text}", file=sys.stderr)


def settle_streams() -> None:
    """Standard streams that are there, and that take every character.

    One that was closed becomes /dev/null: otherwise the next socket or file would get its descriptor.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 (open until the process ends)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")
