"""`punch pipe` and `punch forward`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from punchlab.punch.cli.client import CODE_HELP, add_common, options_of, pake, preshared, run_client
from punchlab.punch.cli.command import Command, Parser
from punchlab.punch.cli.values import CODE_VARIABLE, ExclusiveError, checked_code, code_given, read_code
from punchlab.punch.errors import ArgumentError

if TYPE_CHECKING:
    from punchlab.punch.frames import Role


def _add_options_of_pipe(parser: Parser) -> None:
    parser.add_argument("code", metavar="CODE", nargs="?", help=f"code of the other side (default: ${CODE_VARIABLE})")
    parser.add_argument(
        "--new", action="store_true", help="run as first side; prints a new code on stderr unless --key-file is set"
    )
    add_common(parser)


def _add_options_of_forward(parser: Parser) -> None:
    parser.add_argument("code", metavar="CODE", nargs="?", help=CODE_HELP.format("code of the side with --to"))
    parser.add_argument("--to", metavar="HOST:PORT", help="first side: destination of the forwarded connections")
    parser.add_argument("--listen", metavar="IP:PORT", help="second side: address to listen at; port 0 is any")
    add_common(parser)


def _pipe(arguments: argparse.Namespace) -> int:
    from punchlab.punch.secure.code import Code
    from punchlab.punch.transfer.pipe import pipe

    if arguments.new and arguments.code is not None:
        raise ExclusiveError("CODE", "--new")
    given = None if arguments.new else code_given(arguments, "a code, --new on the first side, or --key-file")
    role: Role = "sender" if arguments.new else "receiver"
    exchange = preshared(arguments)
    if exchange is None:
        code = Code.generate() if given is None else read_code(given, stdin_is="the data to send")
        exchange = pake(code, role)
    options = options_of(arguments, sys.stderr, "pipe {code}")
    return run_client(pipe(options, exchange(), role, 0, 1), options.report)


def _forward(arguments: argparse.Namespace) -> int:
    from punchlab.punch.endpoint import Endpoint
    from punchlab.punch.secure.code import Code
    from punchlab.punch.transfer.forward import expose, listen, parse_target

    if arguments.to is not None and arguments.listen is not None:
        raise ExclusiveError("--to", "--listen")
    if arguments.to is None and arguments.listen is None:
        raise ArgumentError("to", None, "--to HOST:PORT, or a code and --listen IP:PORT")
    other = "forward {code} --listen IP:PORT"
    exchange = preshared(arguments)
    if arguments.to is not None:
        if arguments.code is not None and exchange is not None:
            raise ExclusiveError("CODE", "--key-file")
        target = parse_target(arguments.to)
        checked_code(arguments.code)
        options = options_of(arguments, other=other)
        if exchange is None:
            exchange = pake(Code.generate() if arguments.code is None else read_code(arguments.code), "sender")
        return run_client(expose(options, exchange(), target), options.report)
    given = code_given(arguments)
    at = Endpoint.parse(arguments.listen, field="listen", any_port=True)
    options = options_of(arguments, other=other)
    if given is not None:  # last, because it may read standard input
        exchange = pake(read_code(given), "receiver")
    assert exchange is not None
    return run_client(listen(options, exchange(), at), options.report)


PIPE = Command(
    "pipe", help="connect standard input and output of two computers", add_options=_add_options_of_pipe, run=_pipe
)
FORWARD = Command(
    "forward", help="forward a TCP port to the other computer", add_options=_add_options_of_forward, run=_forward
)
