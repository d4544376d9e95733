"""What is typed on the command line, as values. All raise `InputError`."""

from __future__ import annotations

import argparse
import math
import os

from punch.errors import InputError

MAX_SECONDS = 1e9
EDGE_VARIABLE = "PUNCH_EDGE"


def seconds(text: str, field: str) -> float:
    """A positive number of seconds."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_SECONDS:
        raise InputError(field, text, f"a positive number of seconds, at most {MAX_SECONDS:g}")
    return value


def count(text: str, field: str) -> int:
    """A positive whole number."""
    if not (text.isascii() and text.isdigit() and int(text[:10]) >= 1 and len(text) <= 9):
        raise InputError(field, text, "a positive whole number")
    return int(text)


def edges(arguments: argparse.Namespace) -> list[str]:
    """The edges that were given, or else those of the environment."""
    given = arguments.edge
    if given is None:
        default = os.environ.get(EDGE_VARIABLE)
        if default is None:
            raise InputError("edge", None, f"--edge URL, or {EDGE_VARIABLE} in the environment")
        if not default:
            raise InputError(EDGE_VARIABLE, default, "the URL of an edge")
        given = [default]
    return [url for urls in given for url in urls.split(",")]
