"""Values of options and arguments. All functions raise `ArgumentError`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING

from punchlab.punch.errors import ArgumentError
from punchlab.punch.text import printable

if TYPE_CHECKING:
    from punchlab.punch.secure.code import Code

MAX_SECONDS = 1e9
EDGE_VARIABLE = "PUNCH_EDGE"
CODE_VARIABLE = "PUNCH_CODE"
STDIN = "-"
_MAX_LINE = 200  # characters of a code on standard input


class ExclusiveError(ArgumentError):
    """Options that are mutually exclusive were given together."""

    def __init__(self, *options: str) -> None:
        super().__init__(options[0], None, f"no {options[1]}")
        self.args = (printable(f"{' and '.join(options)} are mutually exclusive"),)


def seconds(text: str, field: str) -> float:
    """Return a positive number of seconds."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_SECONDS:
        raise ArgumentError(field, text, f"a positive number of seconds, at most {MAX_SECONDS:g}")
    return value


def count(text: str, field: str) -> int:
    """Return a positive whole number."""
    if not (text.isascii() and text.isdigit() and int(text[:10]) >= 1 and len(text) <= 9):
        raise ArgumentError(field, text, "a whole number from 1 to 999999999")
    return int(text)


def edges(arguments: argparse.Namespace) -> list[str]:
    """Return the edges of the command line, or else those of the environment."""
    given = arguments.edge
    if given is None:
        default = os.environ.get(EDGE_VARIABLE)
        if default is None:
            raise ArgumentError("edge", None, f"--edge URL, or {EDGE_VARIABLE} in the environment")
        if not default:
            raise ArgumentError(EDGE_VARIABLE, default, "the URL of an edge")
        given = [default]
    return [url for urls in given for url in urls.split(",")]


def code_given(arguments: argparse.Namespace, expected: str = "a code or --key-file") -> str | None:
    """Return the code of the command line, or else that of the environment; None with a key file.

    Only for the side that does not make the code: that side would use a leftover variable in each of its sessions.
    """
    if arguments.key_file is not None:
        if arguments.code is not None:
            raise ExclusiveError("CODE", "--key-file")
        return None
    if arguments.code is not None:
        return checked_code(arguments.code)
    default = os.environ.get(CODE_VARIABLE)
    if not default:
        raise ArgumentError("code" if default is None else CODE_VARIABLE, default, expected)
    return checked_code(default)


def checked_code(text: str | None) -> str | None:
    """Check a code and return it. `-` is not checked, because `read_code` reads it from standard input."""
    from punchlab.punch.secure.code import Code

    if text not in (None, STDIN):
        Code.parse(text)
    return text


def read_code(text: str, *, stdin_is: str | None = None) -> Code:
    """Return the code; `-` reads the first line of standard input, unless `stdin_is` names its other content."""
    from punchlab.punch.secure.code import Code

    if text != STDIN:
        return Code.parse(text)
    if stdin_is is not None:
        raise ArgumentError(
            "code", text, f"a code, or {CODE_VARIABLE} in the environment: standard input is {stdin_is}"
        )
    if sys.stdin.isatty():
        print("Code: ", end="", file=sys.stderr, flush=True)
    try:
        return Code.parse(sys.stdin.readline(_MAX_LINE))
    except UnicodeDecodeError:
        raise ArgumentError("code", text, "a code in UTF-8 on standard input") from None
