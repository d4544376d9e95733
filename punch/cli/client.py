"""Options and helpers of the commands that connect to another client."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TextIO

from punchlab.punch.argument import path
from punchlab.punch.cli.command import print_error
from punchlab.punch.cli.values import CODE_VARIABLE, EDGE_VARIABLE, count, edges, seconds
from punchlab.punch.errors import ArgumentError, PunchFailedError
from punchlab.punch.punching.quota import CONNECTS
from punchlab.punch.suggestion import one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from punchlab.punch.client.tunnel import TunnelOptions
    from punchlab.punch.endpoint import EdgeUrl
    from punchlab.punch.events import Reporter
    from punchlab.punch.frames import Role
    from punchlab.punch.secure.code import Code
    from punchlab.punch.secure.keys import KeyExchange


CODE_HELP = f"{{}}; - reads it from standard input; other users can see arguments (default: ${CODE_VARIABLE})"


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the common options to `parser`."""
    parser.add_argument(
        "--edge",
        metavar="ws[s]://HOST:PORT",
        action="append",
        help="edge to register at; if several are given (repeated or comma-separated), the nearest is used and the "
        f"others are fallbacks (default: ${EDGE_VARIABLE})",
    )
    parser.add_argument(
        "--key-file", metavar="F", type=path, help="key file shared by both sides (see `punch key`), instead of a code"
    )
    parser.add_argument(
        "--bind", metavar="IP:PORT", help="local address to punch from; port 0 or at least 1024 (default: any)"
    )
    parser.add_argument(
        "--strategy",
        default="auto",
        help="auto: measure both NATs and choose a strategy (default); keep: connect at once, from the address that "
        "the edge sees; reuse: the same, after closing the connection to the edge; sync: both connect at an agreed "
        "instant; lowttl: open a pinhole with a SYN that expires before the peer's NAT; predict: predict the next "
        "port of a sequence; birthday: try many random ports; portmap: request a port mapping from the NAT. The last "
        "three fall back to reuse",
    )
    parser.add_argument("--deadline", metavar="S", default="10", help="timeout of the punch in seconds (%(default)s)")
    parser.add_argument(
        "--max-attempts", metavar="N", help=f"connects per address of the peer (default and maximum: {CONNECTS})"
    )
    parser.add_argument("--start-at", metavar="T", help="CLOCK_MONOTONIC instant of the first connect, in seconds")
    parser.add_argument("--wait", metavar="S", default="600", help="timeout for the peer in seconds (%(default)s)")
    parser.add_argument(
        "--resume-for", metavar="S", default="120", help="seconds to retry after the tunnel broke (%(default)s)"
    )
    parser.add_argument("--relay", action="store_true", help="allow a relay as last resort (both sides must set it)")
    parser.add_argument("--json", action="store_true", help="one JSON event per line")


def options_of(arguments: argparse.Namespace, stream: TextIO | None = None, other: str | None = None) -> TunnelOptions:
    """Return the options of the command line, with events to `stream`; `other` is the command of the other side.

    Raises `ArgumentError`.
    """
    from punchlab.punch.client.tunnel import TunnelOptions
    from punchlab.punch.endpoint import EdgeUrl, Endpoint
    from punchlab.punch.events import human_reporter, json_reporter
    from punchlab.punch.sentences import CLIENT, client
    from punchlab.punch.strategy.catalog import STRATEGIES

    urls = [EdgeUrl.parse(url) for url in edges(arguments)]
    if arguments.strategy not in STRATEGIES:
        raise ArgumentError("strategy", arguments.strategy, one_of(arguments.strategy, STRATEGIES))
    bind = arguments.bind
    report = json_reporter(stream) if arguments.json else human_reporter(client(other) if other else CLIENT, stream)
    options = TunnelOptions(
        edge=urls[0],
        strategy=STRATEGIES[arguments.strategy](),
        report=report,
        bind=None if bind is None else Endpoint.parse(bind, field="bind", any_port=True),
        deadline_s=seconds(arguments.deadline, "deadline"),
        max_attempts=None if arguments.max_attempts is None else count(arguments.max_attempts, "max-attempts"),
        start_at=None if arguments.start_at is None else seconds(arguments.start_at, "start-at"),
        wait_s=seconds(arguments.wait, "wait"),
        resume_for_s=seconds(arguments.resume_for, "resume-for"),
        relay=arguments.relay,
        bar=not arguments.json,
    )
    edge, *other_edges = _by_distance(urls, report)
    return replace(options, edge=edge, other_edges=tuple(other_edges))


def _by_distance(urls: list[EdgeUrl], report: Reporter) -> list[EdgeUrl]:
    """Return the edges, the nearest first."""
    if len(urls) == 1:
        return urls
    import asyncio

    from punchlab.punch.rendezvous.edges import nearest_first

    found = asyncio.run(nearest_first(urls))
    shown = [{"edge": str(url), "round_trip_s": None if math.isinf(trip) else round(trip, 6)} for url, trip in found]
    report("edges_measured", edges=shown)
    return [url for url, _trip in found]


def key_of(arguments: argparse.Namespace) -> bytes | None:
    """Return the key in the key file, if one was given. Raises `ArgumentError`."""
    from pathlib import Path

    from punchlab.punch.secure.keys import read_key_file

    return None if arguments.key_file is None else read_key_file(Path(arguments.key_file))


def preshared(arguments: argparse.Namespace) -> Callable[[], KeyExchange] | None:
    """Return a function that makes exchanges with the key file, if one was given. Raises `ArgumentError`."""
    from punchlab.punch.secure.keys import PresharedKey

    key = key_of(arguments)
    return None if key is None else partial(PresharedKey, key)


def pake(code: Code, role: Role) -> Callable[[], KeyExchange]:
    """Return a function that makes exchanges with a code; they share one budget of guesses."""
    from punchlab.punch.secure.guesses import Guesses
    from punchlab.punch.secure.keys import PakeExchange

    return partial(PakeExchange, code, role, Guesses())


def run_client(work: Coroutine[None, None, None], report: Reporter) -> int:
    """Run `work` and return the exit status. Raises `PunchFailedError`, after reporting it."""
    import asyncio

    # The key exchange computes in a thread while packets arrive. A shorter interval lets the event loop run sooner.
    sys.setswitchinterval(0.0005)
    try:
        stopped_by = asyncio.run(_terminable(work))
    except PunchFailedError as error:
        report("failed", outcome=error.outcome, reason=error.reason)
        raise
    if stopped_by is not None:
        print_error("terminated")
        return 128 + stopped_by
    return 0


async def _terminable(work: Coroutine[None, None, None]) -> int | None:
    """Await `work`. SIGTERM and SIGHUP cancel it, so that it cleans up as on SIGINT; return the signal, if any."""
    import asyncio
    import signal

    task = asyncio.ensure_future(work)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        return received[0]
    return None
