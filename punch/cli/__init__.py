"""The command `punch`: `edge`, `send`, `receive`, `pipe`, `forward`, `key`, `probe`.

Exit status: 0 success, 1 failure, 2 bad input (or an unreachable edge), 129, 130 and 143 interrupted by a signal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from punchlab.punch.argument import Version
from punchlab.punch.cli.command import Parser, print_error
from punchlab.punch.cli.edge import EDGE
from punchlab.punch.cli.files import RECEIVE, SEND
from punchlab.punch.cli.key import KEY
from punchlab.punch.cli.probe import PROBE
from punchlab.punch.cli.streams import FORWARD, PIPE
from punchlab.punch.errors import ArgumentError, EdgeUnreachableError, PunchFailedError
from punchlab.punch.stdio import settle

_COMMANDS = (EDGE, SEND, RECEIVE, PIPE, FORWARD, KEY, PROBE)


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: the arguments of the process) and return its exit status."""
    settle()
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser(words).parse_args(words)
    try:
        status: int = arguments.run(arguments)
    except (ArgumentError, EdgeUnreachableError) as error:
        print_error(str(error))
        return 2
    except PunchFailedError as error:
        if not arguments.json:
            print_error(str(error))
        return 1
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has gone; keep the interpreter from flushing to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser(words: Sequence[str]) -> Parser:
    """Return a parser with the options of the commands in `words` only, because each option costs start-up time."""
    parser = Parser(prog="punch", description="Send files directly to another computer, through the NATs of both.")
    parser.add_argument("--version", action=Version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in _COMMANDS:
        added = commands.add_parser(command.name, help=command.help, description=command.description)
        if command.name in words:
            command.add_options(added)
            added.set_defaults(run=command.run)
    return parser
