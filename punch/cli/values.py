"""What is typed on the command line, as values. All raise `InputError`."""

from __future__ import annotations

import argparse
import math
import os

from punch.errors import InputError

EDGE_VARIABLE = "PUNCH_EDGE"


def seconds(text: str, field: str) -> float:
    """A positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e12:
        raise InputError(field, text, "a positive number of seconds")
    return value


def count(text: str, field: str) -> int:
    """A positive whole number."""
    if not (text.isascii() and text.isdigit() and int(text[:10]) >= 1 and len(text) <= 9):
        raise InputError(field, text, "a positive whole number")
    return int(text)


def edges(arguments: argparse.Namespace) -> list[str]:
    """The edges that were given, or else those of the environment."""
    given = arguments.edge if arguments.edge is not None else [os.environ.get(EDGE_VARIABLE, "")]
    if given == [""]:
        raise InputError("edge", None, f"--edge URL, or {EDGE_VARIABLE} in the environment")
    return [url for urls in given for url in urls.split(",")]
