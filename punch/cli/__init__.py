"""The command `punch`: `edge`, `send`, `receive`, `pipe`, `forward`, `key`, `probe`.

Exit status: 0 done, 1 failed, 2 bad input (or an edge that cannot be reached), 129, 130 and 143 interrupted.
"""

from __future__ import annotations

import os
import sys

from punch.cli import edge, files, key, probe, streams
from punch.cli.terminal import Parser, complain
from punch.errors import EdgeUnreachableError, InputError, PunchFailedError
from punch.stdio import settle


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return its exit status."""
    settle()
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except (InputError, EdgeUnreachableError) as error:
        complain(str(error))
        return 2
    except PunchFailedError as error:
        if not arguments.json:
            complain(str(error))
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except BrokenPipeError:  # whoever read our output has gone; keep the interpreter from flushing to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> Parser:
    parser = Parser(prog="punch", description="Send files straight to another computer, through the NATs of both.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for module in (edge, files, streams, key, probe):
        module.add_to(commands)
    return parser
