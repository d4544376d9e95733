"""`punch key`."""

from __future__ import annotations

import argparse

from punchlab.punch.argument import path
from punchlab.punch.cli.terminal import Command, Parser


def _add_options_of_key(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", type=path, help="the file to make, which may not be there yet")


def _key(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from punchlab.punch.secure.keys import write_key_file

    write_key_file(Path(arguments.file))
    return 0


KEY = Command(
    "key",
    help="make a key file for --key-file",
    description="Make a file of 32 random bytes that only its owner may use. Copy it to the other computer, over "
    "ssh for instance, and give both sides --key-file FILE instead of a code.",
    add_options=_add_options_of_key,
    run=_key,
)
