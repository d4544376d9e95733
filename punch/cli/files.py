"""`punch send` and `punch receive`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING

from punchlab.punch.argument import path
from punchlab.punch.cli.client import CODE_HELP, add_common, key_of, options_of, pake, preshared, run_client
from punchlab.punch.cli.command import Command, Parser
from punchlab.punch.cli.values import STDIN, ExclusiveError, checked_code, code_given, read_code
from punchlab.punch.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from punchlab.punch.cli.prompt import Terminal
    from punchlab.punch.secure.keys import KeyExchange
    from punchlab.punch.transfer.files.file_sink import FileSink
    from punchlab.punch.transfer.files.file_source import FileSource
    from punchlab.punch.transfer.stdin_source import StdinSource
    from punchlab.punch.transfer.stdout_sink import StdoutSink

STDIN_NAME = "stdin"


def _add_options_of_send(parser: Parser) -> None:
    parser.add_argument(
        "files", metavar="FILE", type=path, nargs="+", help="a file or a directory, or - for standard input"
    )
    parser.add_argument("--name", metavar="NAME", help=f"file name to send for standard input (default: {STDIN_NAME})")
    parser.add_argument("--code", help="use this code instead of a new one; - reads it from standard input")
    add_common(parser)


def _add_options_of_receive(parser: Parser) -> None:
    parser.add_argument("code", metavar="CODE", nargs="?", help=CODE_HELP.format("the sender's code"))
    parser.add_argument("--dir", metavar="D", type=path, help="directory to store the files in (default: current)")
    parser.add_argument("--force", action="store_true", help="overwrite existing files and add to existing directories")
    parser.add_argument(
        "--yes",
        action="store_true",
        help="store the offered files without asking; required if there is no terminal",
    )
    parser.add_argument(
        "--stdout",
        action="store_true",
        help="write the single received file to standard output, and all messages to standard error",
    )
    add_common(parser)


def _send(arguments: argparse.Namespace) -> int:
    from punchlab.punch.secure.code import Code
    from punchlab.punch.transfer.session import send

    if arguments.code is not None and arguments.key_file is not None:
        raise ExclusiveError("--code", "--key-file")
    checked_code(arguments.code)
    with _source(arguments) as source:
        exchange = preshared(arguments)
        options = options_of(arguments)
        if exchange is None:
            stdin_is = "the data to send" if STDIN in arguments.files else None
            code = Code.generate() if arguments.code is None else read_code(arguments.code, stdin_is=stdin_is)
            exchange = pake(code, "sender")
        if source.skipped:
            options.report("skipped", entries=[each._asdict() for each in source.skipped])
        return run_client(send(options, exchange, source), options.report)


def _source(arguments: argparse.Namespace) -> FileSource | StdinSource:
    from pathlib import Path

    from punchlab.punch.transfer.files.file_source import FileSource
    from punchlab.punch.transfer.stdin_source import StdinSource

    if STDIN in arguments.files:
        if len(arguments.files) > 1:
            raise ArgumentError("FILE", STDIN, "- as the only FILE (a file of that name is ./-)")
        return StdinSource(STDIN_NAME if arguments.name is None else arguments.name, 0)
    if arguments.name is not None:
        raise ArgumentError("name", arguments.name, "--name only with - (standard input) as FILE")
    return FileSource([Path(each) for each in arguments.files])


def _receive(arguments: argparse.Namespace) -> int:
    from punchlab.punch.secure.keys import PresharedKey
    from punchlab.punch.transfer.consent import Consent
    from punchlab.punch.transfer.files.partial_names import PartialNames
    from punchlab.punch.transfer.session import receive
    from punchlab.punch.transfer.stdout_sink import StdoutSink

    given = code_given(arguments)
    for option, is_set in (("--dir", arguments.dir is not None), ("--force", arguments.force)):
        if arguments.stdout and is_set:
            raise ExclusiveError("--stdout", option)
    with contextlib.ExitStack() as stack:
        target = _target(arguments)
        stack.enter_context(target)
        key = key_of(arguments)
        terminal = stack.enter_context(_terminal(arguments))
        options = options_of(arguments, sys.stderr if arguments.stdout else None)
        exchange: Callable[[], KeyExchange]
        if key is not None:
            partial_names, exchange = PartialNames.of_key(key), partial(PresharedKey, key)
        else:
            assert given is not None
            code = read_code(given)  # last, because it may read standard input
            partial_names, exchange = PartialNames.of_code(code), pake(code, "receiver")
        consent = None
        if not isinstance(target, StdoutSink):
            target.partial_names = partial_names
            question = None if terminal is None else partial(terminal.accepts, directory=target.path)
            consent = Consent(options.report, question)
        return run_client(receive(options, exchange, target, consent), options.report)


def _terminal(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[Terminal | None]:
    """Return the terminal to ask at, or None if no question is needed. Raises `ArgumentError`."""
    if arguments.yes or arguments.stdout:
        return contextlib.nullcontext()
    from punchlab.punch.cli.prompt import Terminal

    terminal = Terminal.open()
    if terminal is None:
        raise ArgumentError("yes", None, "--yes, because there is no terminal to ask at")
    return terminal


def _target(arguments: argparse.Namespace) -> FileSink | StdoutSink:
    from pathlib import Path

    from punchlab.punch.transfer.files.file_sink import FileSink
    from punchlab.punch.transfer.stdout_sink import StdoutSink

    if arguments.stdout:
        return StdoutSink(1)
    return FileSink(Path("." if arguments.dir is None else arguments.dir), force=arguments.force)


SEND = Command(
    "send",
    help="send files, directories or standard input; print the code for the receiver",
    description="Send files and directories, or standard input, and print the code for the receiver. A directory is "
    "sent with all files and directories in it, including empty directories and executable bits. Symbolic links, "
    "FIFOs, sockets and devices in it are skipped and listed.",
    add_options=_add_options_of_send,
    run=_send,
)
RECEIVE = Command(
    "receive",
    help="receive files with the sender's code",
    description="Receive files with the sender's code. Shows the offer and asks at the terminal whether to store it, "
    "before any file data is received. If the answer is no, both sides end with exit status 1.",
    add_options=_add_options_of_receive,
    run=_receive,
)
