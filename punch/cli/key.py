"""`punch key`."""

from __future__ import annotations

import argparse

from punchlab.punch.argument import path
from punchlab.punch.cli.command import Command, Parser


def _add_options_of_key(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", type=path, help="file to create; it must not exist")


def _key(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from punchlab.punch.secure.keys import write_key_file

    write_key_file(Path(arguments.file))
    return 0


KEY = Command(
    "key",
    help="create a key file for --key-file",
    description="Create a file of 32 random bytes that only its owner can read. Copy it to the other computer, for "
    "instance with scp, and run both sides with --key-file FILE instead of a code.",
    add_options=_add_options_of_key,
    run=_key,
)
