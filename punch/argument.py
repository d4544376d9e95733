"""Argument types for `argparse`."""

from __future__ import annotations

import argparse


def path(text: str) -> str:
    """Return a path. An empty string is an error, because `pathlib` treats it as the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("'' cannot be used; expected a path")
    return text
