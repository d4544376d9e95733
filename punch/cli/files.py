"""`punch send` and `punch receive`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING

from punchlab.punch.argument import path
from punchlab.punch.cli.client import CODE_HELP, add_common, key_of, options_of, pake, preshared, run_client
from punchlab.punch.cli.terminal import Command, Parser
from punchlab.punch.cli.values import STDIN, checked_code, code_given, read_code
from punchlab.punch.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from punchlab.punch.cli.asking import Terminal
    from punchlab.punch.secure.keys import KeyExchange
    from punchlab.punch.transfer.file_sink import FileSink
    from punchlab.punch.transfer.outgoing import Outgoing
    from punchlab.punch.transfer.stdin_source import StdinSource
    from punchlab.punch.transfer.stdout_sink import StdoutSink

STDIN_NAME = "stdin"


def _add_options_of_send(parser: Parser) -> None:
    parser.add_argument(
        "files", metavar="FILE", type=path, nargs="+", help="a file or a directory, or - for standard input"
    )
    parser.add_argument("--name", metavar="NAME", help=f"what to call standard input (default: {STDIN_NAME})")
    parser.add_argument("--code", help="use this code instead of a fresh one; - reads it from standard input")
    add_common(parser)


def _add_options_of_receive(parser: Parser) -> None:
    parser.add_argument("code", metavar="CODE", nargs="?", help=CODE_HELP.format("the sender's code"))
    parser.add_argument("--dir", metavar="D", type=path, help="directory to store the files in (default: this one)")
    parser.add_argument(
        "--force", action="store_true", help="overwrite files that exist; fill up directories that exist"
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="store what is offered without a question; required where there is no terminal to ask at",
    )
    parser.add_argument(
        "--stdout",
        action="store_true",
        help="write the one file that comes to standard output, and everything else that is said to standard error",
    )
    add_common(parser)


def _send(arguments: argparse.Namespace) -> int:
    from punchlab.punch.secure.code import Code
    from punchlab.punch.transfer.session import send

    if arguments.code is not None and arguments.key_file is not None:
        raise ArgumentError("code", arguments.code, "no code together with --key-file")
    checked_code(arguments.code)
    with _outgoing(arguments) as outgoing:
        exchange = preshared(arguments)
        options = options_of(arguments)
        if exchange is None:
            stdin_is = "what is sent" if STDIN in arguments.files else None
            code = Code.generate() if arguments.code is None else read_code(arguments.code, stdin_is=stdin_is)
            exchange = pake(code, "sender")
        if outgoing.skipped:
            options.report("skipped", entries=[each._asdict() for each in outgoing.skipped])
        return run_client(send(options, exchange, outgoing), options.report)


def _outgoing(arguments: argparse.Namespace) -> Outgoing | StdinSource:
    from pathlib import Path

    from punchlab.punch.transfer.outgoing import Outgoing
    from punchlab.punch.transfer.stdin_source import StdinSource

    if STDIN in arguments.files:
        if len(arguments.files) > 1:
            raise ArgumentError("FILE", STDIN, "standard input alone, without other files (a file of that name is ./-)")
        return StdinSource(STDIN_NAME if arguments.name is None else arguments.name, 0)
    if arguments.name is not None:
        raise ArgumentError("name", arguments.name, "no name but that of standard input (-)")
    return Outgoing([Path(each) for each in arguments.files])


def _receive(arguments: argparse.Namespace) -> int:
    from punchlab.punch.secure.keys import PresharedKey
    from punchlab.punch.transfer.consent import Consent
    from punchlab.punch.transfer.owner import Owner
    from punchlab.punch.transfer.session import receive
    from punchlab.punch.transfer.stdout_sink import StdoutSink

    given = code_given(arguments)
    if (given is None) == (arguments.key_file is None):
        raise ArgumentError("code", given, "either a code or --key-file")
    if arguments.stdout and (arguments.dir is not None or arguments.force):
        raise ArgumentError("stdout", arguments.dir or "--force", "neither --dir nor --force together with --stdout")
    with contextlib.ExitStack() as stack:
        target = _target(arguments)
        stack.enter_context(target)
        key = key_of(arguments)
        terminal = stack.enter_context(_terminal(arguments))
        options = options_of(arguments, sys.stderr if arguments.stdout else None)
        exchange: Callable[[], KeyExchange]
        if key is not None:
            owner, exchange = Owner.of_key(key), partial(PresharedKey, key)
        else:
            assert given is not None
            code = read_code(given)  # everything else has been checked before
            owner, exchange = Owner.of_code(code), pake(code, "receiver")
        consent = None
        if not isinstance(target, StdoutSink):
            target.owner = owner
            question = None if terminal is None else partial(terminal.accepts, directory=target.path)
            consent = Consent(options.report, question)
        return run_client(receive(options, exchange, target, consent), options.report)


def _terminal(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[Terminal | None]:
    """Where to ask whether to store what is offered; None if there is no question. Raises `ArgumentError`."""
    if arguments.yes or arguments.stdout:
        return contextlib.nullcontext()
    from punchlab.punch.cli.asking import Terminal

    terminal = Terminal.open()
    if terminal is None:
        raise ArgumentError("yes", None, "--yes, as there is no terminal to ask whether to store what is offered")
    return terminal


def _target(arguments: argparse.Namespace) -> FileSink | StdoutSink:
    from pathlib import Path

    from punchlab.punch.transfer.file_sink import FileSink
    from punchlab.punch.transfer.stdout_sink import StdoutSink

    if arguments.stdout:
        return StdoutSink(1)
    return FileSink(Path("." if arguments.dir is None else arguments.dir), force=arguments.force)


SEND = Command(
    "send",
    help="send files, directories or standard input; prints the code for the receiver",
    description="Send files and directories, or standard input; prints the code for the receiver. A directory is "
    "sent with everything in it, empty directories and executable bits included. Symbolic links, FIFOs, sockets "
    "and devices in it are not sent, nor is anything outside of it; what is left out is listed.",
    add_options=_add_options_of_send,
    run=_send,
)
RECEIVE = Command(
    "receive",
    help="receive files with the sender's code",
    description="Receive files with the sender's code. Shows what is offered and asks at the terminal whether to "
    "store it; nothing of it is received before. If the answer is no, both sides end with exit status 1.",
    add_options=_add_options_of_receive,
    run=_receive,
)
