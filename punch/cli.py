"""The command `punch`: `edge`, `send`, `receive`, `probe`.

Exit status: 0 done, 1 failed, 2 bad input (or an edge that cannot be reached), 129, 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from punch.errors import EdgeUnreachableError, InputError, PunchFailedError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from punch.client.keys import KeyExchange
    from punch.client.session import Options
    from punch.code import Code
    from punch.events import Reporter
    from punch.frames import Role
    from punch.probe.responder import StunAddresses

EDGE_VARIABLE = "PUNCH_EDGE"


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return its exit status."""
    _settle_streams()
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except (InputError, EdgeUnreachableError) as error:
        _complain(str(error))
        return 2
    except PunchFailedError as error:
        if not arguments.json:
            _complain(str(error))
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:  # whoever read our output has gone; keep the interpreter from flushing to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may have gone
        print(f"punch: {text}", file=sys.stderr)


def _settle_streams() -> None:
    """Standard streams that are there, and that take every character.

    One that was closed becomes /dev/null: otherwise the next socket or file would get its descriptor.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 (open until the process ends)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="punch", description="Send files straight to another computer, through the NATs of both.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    edge = commands.add_parser("edge", help="run an edge endpoint, where clients meet")
    edge.add_argument("--listen", metavar="IP:PORT", required=True, help="address to listen at; port 0 is any free one")
    edge.add_argument("--name", help="what to call this endpoint (default: its address)")
    edge.add_argument("--join", metavar="ws://HOST:PORT", action="append", default=[], help="link to another endpoint")
    edge.add_argument(
        "--session-lifetime",
        metavar="S",
        default="600",
        help="seconds a client may wait for its peer (%(default)s)",
    )
    edge.add_argument(
        "--stun", metavar="IP:PORT", help="answer STUN there and at the next port, and dial back for `punch probe`"
    )
    edge.add_argument(
        "--stun-alternate", metavar="IP:PORT", help="a second address and port of this machine, for RFC 5780"
    )
    edge.add_argument("--json", action="store_true", help="one JSON event per line")
    edge.set_defaults(run=_edge)

    send = commands.add_parser("send", help="send files; prints the code for the receiver")
    send.add_argument("files", metavar="FILE", nargs="+")
    send.add_argument("--code", help="use this code instead of a fresh one")
    _add_common(send)
    send.set_defaults(run=_send)

    receive = commands.add_parser("receive", help="receive files with the sender's code")
    receive.add_argument("code", metavar="CODE", nargs="?", help="the sender's code, or - to read it from stdin")
    receive.add_argument("--dir", metavar="D", default=".", help="directory to store the files in (default: this one)")
    receive.add_argument("--force", action="store_true", help="overwrite files that exist")
    _add_common(receive)
    receive.set_defaults(run=_receive)

    probe = commands.add_parser("probe", help="find out what NAT this computer is behind")
    probe.add_argument(
        "--edge",
        metavar="SERVER",
        action="append",
        help="ws://HOST:PORT of an edge with --stun, or stun:HOST[:PORT] of a STUN server; a second one, at another "
        f"address, serves where the first has only one address (default: ${EDGE_VARIABLE})",
    )
    probe.add_argument("--patience", metavar="S", default="2", help="silence for so long means no (%(default)s)")
    probe.add_argument("--lifetime", metavar="S", help="find out how long idle mappings live, up to S seconds")
    probe.add_argument(
        "--time-scale", metavar="N", default="1", help="the NAT's clock runs N times faster (%(default)s)"
    )
    probe.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    probe.set_defaults(run=_probe)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--edge", metavar="ws://HOST:PORT", help=f"the edge to meet at (default: ${EDGE_VARIABLE})")
    parser.add_argument("--key-file", metavar="F", help="file of 32 random bytes on both sides, instead of a code")
    parser.add_argument("--bind", metavar="IP:PORT", help="local address to punch from (default: any suitable)")
    parser.add_argument(
        "--strategy",
        default="reuse",
        help="reuse: close the connection to the edge before punching from its address (default); keep: leave it open",
    )
    parser.add_argument("--deadline", metavar="S", default="10", help="seconds to try to punch (%(default)s)")
    parser.add_argument("--max-attempts", metavar="N", help="connects per address of the peer (default: no limit)")
    parser.add_argument("--start-at", metavar="T", help="CLOCK_MONOTONIC instant of the first connect, in seconds")
    parser.add_argument("--wait", metavar="S", default="600", help="seconds to wait for the peer (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON event per line")


def _edge(arguments: argparse.Namespace) -> int:
    import asyncio

    from punch.edge.server import Edge, serve_until_signal
    from punch.endpoint import EdgeUrl, Endpoint
    from punch.events import human_reporter, json_reporter, unfailing
    from punch.sentences import EDGE

    listen = Endpoint.parse(arguments.listen, field="listen", any_port=True)
    join = [EdgeUrl.parse(url, field="join") for url in arguments.join]
    lifetime = _seconds(arguments.session_lifetime, "session-lifetime")
    name = arguments.name
    if name is not None and not (1 <= len(name) <= 128 and name.isprintable()):
        raise InputError("name", name, "1 to 128 printable characters")
    stun = _stun(arguments)
    report = unfailing(json_reporter() if arguments.json else human_reporter(EDGE))
    asyncio.run(serve_until_signal(Edge(listen, report, name=name, lifetime_s=lifetime, stun=stun), join))
    return 0


def _stun(arguments: argparse.Namespace) -> StunAddresses | None:
    from punch.endpoint import Endpoint
    from punch.probe.responder import StunAddresses

    primary, alternate = (
        None if text is None else Endpoint.parse(text, field=field)
        for field, text in (("stun", arguments.stun), ("stun-alternate", arguments.stun_alternate))
    )
    if primary is None:
        if alternate is not None:
            raise InputError("stun-alternate", arguments.stun_alternate, "an address beside that of --stun")
        return None
    return StunAddresses.of(primary, alternate)


def _probe(arguments: argparse.Namespace) -> int:
    import asyncio

    from punch.probe.frames import MAX_PATIENCE_S
    from punch.probe.servers import parse_server
    from punch.probe.session import Options, run

    servers = arguments.edge if arguments.edge is not None else [os.environ.get(EDGE_VARIABLE, "")]
    patience = _seconds(arguments.patience, "patience")
    if patience > MAX_PATIENCE_S:
        raise InputError("patience", arguments.patience, f"at most {MAX_PATIENCE_S:g} seconds")
    options = Options(
        servers=[parse_server(each) for each in servers],
        patience_s=patience,
        lifetime_s=None if arguments.lifetime is None else _seconds(arguments.lifetime, "lifetime"),
        time_scale=_seconds(arguments.time_scale, "time-scale"),
    )
    report = asyncio.run(run(options))
    if arguments.json:
        print(report.to_json())
    else:
        from punch.probe.table import table

        print(table(report))
    return 0


def _send(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from punch.client.files import Outgoing
    from punch.client.session import send
    from punch.code import Code

    if arguments.code is not None and arguments.key_file is not None:
        raise InputError("code", arguments.code, "no code beside --key-file")
    with Outgoing([Path(each) for each in arguments.files]) as outgoing:
        options = _options(arguments)
        exchange = _preshared(arguments)
        if exchange is None:
            exchange = _pake(Code.generate() if arguments.code is None else Code.parse(arguments.code), "sender")
        return _run_client(send(options, exchange, outgoing), options.report)


def _receive(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from punch.client.files import Inbox
    from punch.client.session import receive
    from punch.code import Code

    if (arguments.code is None) == (arguments.key_file is None):
        raise InputError("code", arguments.code, "either a code or --key-file")
    with Inbox(Path(arguments.dir), force=arguments.force) as inbox:
        options = _options(arguments)
        exchange = _preshared(arguments)
        if exchange is None:  # everything else has been looked at before the code is read
            exchange = _pake(Code.parse(sys.stdin.readline() if arguments.code == "-" else arguments.code), "receiver")
        return _run_client(receive(options, exchange, inbox), options.report)


def _options(arguments: argparse.Namespace) -> Options:
    from punch.client.rendezvous import STRATEGIES
    from punch.client.session import Options
    from punch.endpoint import EdgeUrl, Endpoint
    from punch.events import human_reporter, json_reporter
    from punch.sentences import CLIENT

    url = arguments.edge if arguments.edge is not None else os.environ.get(EDGE_VARIABLE, "")
    if arguments.strategy not in STRATEGIES:
        raise InputError("strategy", arguments.strategy, " or ".join(STRATEGIES))
    bind = arguments.bind
    return Options(
        edge=EdgeUrl.parse(url),
        strategy=STRATEGIES[arguments.strategy](),
        report=json_reporter() if arguments.json else human_reporter(CLIENT),
        bind=None if bind is None else Endpoint.parse(bind, field="bind", any_port=True),
        deadline_s=_seconds(arguments.deadline, "deadline"),
        max_attempts=None if arguments.max_attempts is None else _count(arguments.max_attempts, "max-attempts"),
        start_at=None if arguments.start_at is None else _seconds(arguments.start_at, "start-at"),
        wait_s=_seconds(arguments.wait, "wait"),
        bar=not arguments.json,
    )


def _preshared(arguments: argparse.Namespace) -> KeyExchange | None:
    from pathlib import Path

    from punch.client.keys import PresharedKey, read_key_file

    return None if arguments.key_file is None else PresharedKey(read_key_file(Path(arguments.key_file)))


def _pake(code: Code, role: Role) -> KeyExchange:
    from punch.client.keys import PakeExchange

    return PakeExchange(code, role)


def _seconds(text: str, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e12:
        raise InputError(field, text, "a positive number of seconds")
    return value


def _count(text: str, field: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:10]) >= 1 and len(text) <= 9):
        raise InputError(field, text, "a positive whole number")
    return int(text)


def _run_client(work: Coroutine[None, None, None], report: Reporter) -> int:
    import asyncio

    # The key exchange computes in a thread while packets arrive: let the event loop have its turn sooner.
    sys.setswitchinterval(0.0005)
    try:
        stopped_by = asyncio.run(_terminable(work))
    except PunchFailedError as error:
        report("failed", outcome=error.outcome, reason=error.reason)
        raise
    if stopped_by is not None:
        _complain("terminated")
        return 128 + stopped_by
    return 0


async def _terminable(work: Coroutine[None, None, None]) -> int | None:
    """Await `work`; SIGTERM and SIGHUP cancel it, so that it cleans up as it does on SIGINT, and are returned."""
    import asyncio
    import signal

    task = asyncio.ensure_future(work)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        return received[0]
    return None
