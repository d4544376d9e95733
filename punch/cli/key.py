"""`punch key`."""

from __future__ import annotations

import argparse

from punch.argument import path
from punch.cli.terminal import Parser


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    key = commands.add_parser(
        "key",
        help="make a key file for --key-file",
        description="Make a file of 32 random bytes that only its owner may use. Copy it to the other computer, over "
        "ssh for instance, and give both sides --key-file FILE instead of a code.",
    )
    key.add_argument("file", metavar="FILE", type=path, help="the file to make, which may not be there yet")
    key.set_defaults(run=_key)


def _key(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from punch.client.keys import write_key_file

    write_key_file(Path(arguments.file))
    return 0
