"""`punch pipe` and `punch forward`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from punchlab.punch.cli.client import CODE_HELP, add_common, options_of, pake, preshared, run_client
from punchlab.punch.cli.terminal import Command, Parser
from punchlab.punch.cli.values import CODE_VARIABLE, checked_code, code_given, read_code
from punchlab.punch.errors import ArgumentError

if TYPE_CHECKING:
    from punchlab.punch.frames import Role


def _add_options_of_pipe(parser: Parser) -> None:
    parser.add_argument(
        "code", metavar="CODE", nargs="?", help=f"the code of the other side (default: ${CODE_VARIABLE})"
    )
    parser.add_argument("--new", action="store_true", help="begin: make a code (told on stderr), or use --key-file")
    add_common(parser)


def _add_options_of_forward(parser: Parser) -> None:
    parser.add_argument("code", metavar="CODE", nargs="?", help=CODE_HELP.format("the code of the side with --to"))
    parser.add_argument("--to", metavar="HOST:PORT", help="(one side) let the other side connect there from here")
    parser.add_argument("--listen", metavar="IP:PORT", help="(other side) where to take connections; port 0: any")
    add_common(parser)


def _pipe(arguments: argparse.Namespace) -> int:
    from punchlab.punch.secure.code import Code
    from punchlab.punch.transfer.pipe import pipe

    given = arguments.code if arguments.new else code_given(arguments)
    if sum((given is not None, arguments.new or arguments.key_file is not None)) != 1:
        raise ArgumentError("code", given, "either a code, or --new on the side that begins, or --key-file")
    role: Role = "sender" if arguments.new else "receiver"
    exchange = preshared(arguments)
    if exchange is None:
        code = Code.generate() if given is None else read_code(given, stdin_is="what is sent")
        exchange = pake(code, role)
    options = options_of(arguments, sys.stderr, "pipe {code}")
    return run_client(pipe(options, exchange(), role, 0, 1), options.report)


def _forward(arguments: argparse.Namespace) -> int:
    from punchlab.punch.endpoint import Endpoint
    from punchlab.punch.secure.code import Code
    from punchlab.punch.transfer.forward import expose, listen, parse_target

    if (arguments.to is None) == (arguments.listen is None):
        raise ArgumentError("to", arguments.to, "either --to HOST:PORT, or a code and --listen IP:PORT")
    other = "forward {code} --listen IP:PORT"
    exchange = preshared(arguments)
    if arguments.to is not None:
        if arguments.code is not None and exchange is not None:
            raise ArgumentError("code", arguments.code, "no code together with --key-file")
        target = parse_target(arguments.to)
        checked_code(arguments.code)
        options = options_of(arguments, other=other)
        if exchange is None:
            exchange = pake(Code.generate() if arguments.code is None else read_code(arguments.code), "sender")
        return run_client(expose(options, exchange(), target), options.report)
    given = code_given(arguments)
    if (given is None) == (exchange is None):
        raise ArgumentError("code", given, "either a code or --key-file")
    at = Endpoint.parse(arguments.listen, field="listen", any_port=True)
    options = options_of(arguments, other=other)
    if given is not None:  # everything else has been checked before the code is read
        exchange = pake(read_code(given), "receiver")
    assert exchange is not None
    return run_client(listen(options, exchange(), at), options.report)


PIPE = Command(
    "pipe", help="join standard input and output of two computers", add_options=_add_options_of_pipe, run=_pipe
)
FORWARD = Command(
    "forward", help="a TCP port of the other computer, at this one", add_options=_add_options_of_forward, run=_forward
)
