"""One run of the client, from the first connection to the last byte, over as many tunnels as that takes.

A tunnel can die under a transfer: a NAT reboots, a computer changes its network, the other process is killed. Then
both sides meet at the edge again, under the same code or key, punch a new tunnel and go on. Each meeting is a key
exchange of its own; the budget of guesses (`punch.secure.guesses`) is one for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from punchlab.punch.client.tunnel import TunnelOptions, open_tunnel
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import PunchFailedError, TunnelBrokenError
from punchlab.punch.events import Reporter
from punchlab.punch.frames import Role
from punchlab.punch.secure.channel import Channel
from punchlab.punch.secure.keys import KeyExchange
from punchlab.punch.transfer.consent import Consent
from punchlab.punch.transfer.file_sink import FileSink
from punchlab.punch.transfer.offer import FileDone
from punchlab.punch.transfer.outgoing import Outgoing
from punchlab.punch.transfer.progress import Progress
from punchlab.punch.transfer.stdin_source import StdinSource
from punchlab.punch.transfer.stdout_sink import StdoutSink, receive_to
from punchlab.punch.transfer.transfer import receive_files, send_files

RETRY_S = 1.0  # between two attempts at a new tunnel
MAX_TUNNELS = 1000
TELL_AGAIN_S = 30.0
"""How long a receiver that has stored everything stays for a sender that may not have heard so: a path that has died is
noticed within some ten seconds, and then the sender comes again."""

NewExchange = Callable[[], KeyExchange]
"""Makes a fresh key exchange of the same code or key, with the same budget of guesses: each serves one meeting."""


async def send(options: TunnelOptions, new_exchange: NewExchange, outgoing: Outgoing | StdinSource) -> None:
    """Meet the receiver and send it `outgoing`. Raises `PunchFailedError` and `ArgumentError`."""

    async def work(channel: Channel) -> list[FileDone]:
        return await send_files(
            channel,
            outgoing,
            lambda total: Progress(total, options.report, bar=options.bar),
            asked=lambda: options.report("asked"),
        )

    await _run(options, new_exchange, "sender", work)


async def receive(
    options: TunnelOptions, new_exchange: NewExchange, target: FileSink | StdoutSink, consent: Consent | None = None
) -> None:
    """Meet the sender and store its files, if the user consents. Raises `PunchFailedError` and `ArgumentError`."""
    told = True

    def progress(total: int | None) -> Progress:
        return Progress(total, options.report, bar=options.bar)

    async def work(channel: Channel) -> list[FileDone]:
        nonlocal told
        if isinstance(target, FileSink):
            files, told = await receive_files(channel, target, progress, consent)
        else:
            files, told = await receive_to(channel, target, progress)
        return files

    await _run(options, new_exchange, "receiver", work)
    if not told:
        await _tell_again(options, new_exchange, work)


async def _tell_again(
    options: TunnelOptions, new_exchange: NewExchange, work: Callable[[Channel], Awaitable[list[FileDone]]]
) -> None:
    """Let the sender hear that everything is stored, if it comes again.

    It is stored in any case: whoever interrupts this changes nothing, and the run has succeeded.
    """
    patience_s = min(TELL_AGAIN_S, options.resume_for_s)
    options.report("untold", tell_for_s=patience_s)
    with contextlib.suppress(PunchFailedError, asyncio.CancelledError):
        broken = TunnelBrokenError("the sender did not say goodbye")
        await _next_tunnel(replace(options, resume_for_s=patience_s), new_exchange, "receiver", work, broken)


async def _run(
    options: TunnelOptions, new_exchange: NewExchange, role: Role, work: Callable[[Channel], Awaitable[list[FileDone]]]
) -> None:
    start: float | None = None
    exchange = new_exchange()

    async def timed(channel: Channel) -> list[FileDone]:
        nonlocal start
        start = time.monotonic() if start is None else start
        return await work(channel)

    with exchange.guesses.warning():
        try:
            async with open_tunnel(options, exchange, role) as channel:
                done = await timed(channel)
        except TunnelBrokenError as error:
            done = await _resume(options, new_exchange, role, timed, error)
    _report_done(options.report, done, start or time.monotonic())


async def _resume(
    options: TunnelOptions,
    new_exchange: NewExchange,
    role: Role,
    work: Callable[[Channel], Awaitable[list[FileDone]]],
    broken: TunnelBrokenError,
) -> list[FileDone]:
    """Open new tunnels until the work is done. Raises `PunchFailedError`."""
    for _ in range(MAX_TUNNELS):
        options.report("broken", reason=broken.reason, resume_for_s=options.resume_for_s)
        try:
            return await _next_tunnel(options, new_exchange, role, work, broken)
        except TunnelBrokenError as error:
            broken = error
    raise broken


async def _next_tunnel(
    options: TunnelOptions,
    new_exchange: NewExchange,
    role: Role,
    work: Callable[[Channel], Awaitable[list[FileDone]]],
    broken: TunnelBrokenError,
) -> list[FileDone]:
    """Try to get one more tunnel, for `resume_for_s`, and work in it."""
    until = time.monotonic() + options.resume_for_s
    while (left := until - time.monotonic()) > 0:
        exchange = new_exchange()
        exchange.code = None  # it has been told
        try:
            async with open_tunnel(_again(options, left), exchange, role) as channel:
                return await work(channel)
        except TunnelBrokenError:
            raise
        except PunchFailedError as error:
            if error.outcome == "wrong_peer":
                raise
            options.report("not_resumed", outcome=error.outcome, reason=error.reason)
        await asyncio.sleep(min(RETRY_S, max(0.0, until - time.monotonic())))
    raise PunchFailedError(broken.outcome, f"{broken.reason}; no new tunnel within {options.resume_for_s:g} s")


def _again(options: TunnelOptions, left: float) -> TunnelOptions:
    """The same, from another port: the old one may have a connection to the edge that is still closing."""
    bind = None if options.bind is None else Endpoint(options.bind.ip, 0)
    return replace(options, bind=bind, start_at=None, wait_s=left)


def _report_done(report: Reporter, done: list[FileDone], start: float) -> None:
    report("done", files=[each._asdict() for each in done], seconds=round(time.monotonic() - start, 6))
