"""Types of command-line arguments, for `argparse`."""

from __future__ import annotations

import argparse


def path(text: str) -> str:
    """A path: not the empty string, which `pathlib` takes for the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("'' cannot be used; expected a path")
    return text
