"""What the commands have in common that meet another client."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TextIO

from punchlab.punch.argument import path
from punchlab.punch.cli.terminal import complain
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


CODE_HELP = f"{{}}; - reads it from standard input; arguments can be seen by every user (default: ${CODE_VARIABLE})"


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add their options."""
    parser.add_argument(
        "--edge",
        metavar="ws[s]://HOST:PORT",
        action="append",
        help="the edge to meet at; of several (repeated, or with commas between) the nearest, the others in case it "
        f"is lost (default: ${EDGE_VARIABLE})",
    )
    parser.add_argument(
        "--key-file", metavar="F", type=path, help="key file that both sides have (see `punch key`), instead of a code"
    )
    parser.add_argument(
        "--bind", metavar="IP:PORT", help="local address to punch from, port 0 or from 1024 (default: any)"
    )
    parser.add_argument(
        "--strategy",
        default="auto",
        help="auto: look at both NATs and choose (default); keep: dial at once, from the address that the edge sees; "
        "reuse: the same, but leave the edge first; sync: dial at an agreed instant; lowttl: open one NAT by a SYN "
        "that ends on the way; predict, birthday, portmap: the next port of a sequence, many guesses, a port that the "
        "NAT lends, and else what reuse does",
    )
    parser.add_argument("--deadline", metavar="S", default="10", help="seconds to try to punch (%(default)s)")
    parser.add_argument(
        "--max-attempts", metavar="N", help=f"connects per address of the peer (default, and at most: {CONNECTS})"
    )
    parser.add_argument("--start-at", metavar="T", help="CLOCK_MONOTONIC instant of the first connect, in seconds")
    parser.add_argument("--wait", metavar="S", default="600", help="seconds to wait for the peer (%(default)s)")
    parser.add_argument(
        "--resume-for", metavar="S", default="120", help="seconds to try to go on after the tunnel broke (%(default)s)"
    )
    parser.add_argument(
        "--relay", action="store_true", help="if both sides say so, an edge relays where nothing else helps"
    )
    parser.add_argument("--json", action="store_true", help="one JSON event per line")


def options_of(arguments: argparse.Namespace, stream: TextIO | None = None, other: str | None = None) -> TunnelOptions:
    """What was chosen; events go to `stream`, and `other` is what to type on the other side. Raises `ArgumentError`."""
    from punchlab.punch.client.tunnel import TunnelOptions
    from punchlab.punch.endpoint import EdgeUrl, Endpoint
    from punchlab.punch.events import human_reporter, json_reporter
    from punchlab.punch.sentences import CLIENT, client
    from punchlab.punch.strategy.catalog import STRATEGIES

    urls = [EdgeUrl.parse(url) for url in edges(arguments)]
    if arguments.strategy not in STRATEGIES:
        raise ArgumentError("strategy", arguments.strategy, one_of(arguments.strategy, list(STRATEGIES)))
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
    """The nearest of several edges first."""
    if len(urls) == 1:
        return urls
    import asyncio

    from punchlab.punch.rendezvous.edges import nearest_first

    found = asyncio.run(nearest_first(urls))
    shown = [{"edge": str(url), "round_trip_s": None if math.isinf(trip) else round(trip, 6)} for url, trip in found]
    report("edges_measured", edges=shown)
    return [url for url, _trip in found]


def key_of(arguments: argparse.Namespace) -> bytes | None:
    """The key of a file, if one was given. Raises `ArgumentError`."""
    from pathlib import Path

    from punchlab.punch.secure.keys import read_key_file

    return None if arguments.key_file is None else read_key_file(Path(arguments.key_file))


def preshared(arguments: argparse.Namespace) -> Callable[[], KeyExchange] | None:
    """Makes exchanges with the key of a file, if one was given. Raises `ArgumentError`."""
    from punchlab.punch.secure.keys import PresharedKey

    key = key_of(arguments)
    return None if key is None else partial(PresharedKey, key)


def pake(code: Code, role: Role) -> Callable[[], KeyExchange]:
    """Makes exchanges by a code, which share one budget of guesses."""
    from punchlab.punch.secure.guesses import Guesses
    from punchlab.punch.secure.keys import PakeExchange

    return partial(PakeExchange, code, role, Guesses())


def run_client(work: Coroutine[None, None, None], report: Reporter) -> int:
    """Run it, and return the exit status. Raises `PunchFailedError`, which has been reported."""
    import asyncio

    # The key exchange computes in a thread while packets arrive: let the event loop have its turn sooner.
    sys.setswitchinterval(0.0005)
    try:
        stopped_by = asyncio.run(_terminable(work))
    except PunchFailedError as error:
        report("failed", outcome=error.outcome, reason=error.reason)
        raise
    if stopped_by is not None:
        complain("terminated")
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
