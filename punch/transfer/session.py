"""One transfer, from the first connection to the last byte, over as many tunnels as it takes.

A tunnel can break during a transfer: a NAT reboots, a computer changes its network, the other process is killed. Then
both sides connect to the edge again, with the same code or key, punch a new tunnel and resume. Each tunnel has its own
key exchange; all of them share one budget of guesses (`punch.secure.guesses`).
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
from punchlab.punch.transfer.file_transfer import receive_files, send_files
from punchlab.punch.transfer.files.file_sink import FileSink
from punchlab.punch.transfer.files.file_source import FileSource
from punchlab.punch.transfer.offer import FileDone
from punchlab.punch.transfer.progress import Progress
from punchlab.punch.transfer.stdin_source import StdinSource
from punchlab.punch.transfer.stdout_sink import StdoutSink, receive_to

RETRY_S = 1.0  # pause between two attempts to open a new tunnel
MAX_TUNNELS = 1000
CONFIRM_AGAIN_S = 30.0
"""How long a receiver that has stored everything waits for a sender that may not know it, in seconds. The sender
detects a dead path within some ten seconds, and then opens a new tunnel."""

NewExchange = Callable[[], KeyExchange]
"""Makes a key exchange of the same code or key with the same budget of guesses. Each is for one tunnel."""


async def send(options: TunnelOptions, new_exchange: NewExchange, source: FileSource | StdinSource) -> None:
    """Connect to the receiver and send it `source`. Raises `PunchFailedError` and `ArgumentError`."""

    async def work(channel: Channel) -> list[FileDone]:
        return await send_files(
            channel,
            source,
            lambda total: Progress(total, options.report, bar=options.bar),
            asked=lambda: options.report("asked"),
        )

    await _run(options, new_exchange, "sender", work)


async def receive(
    options: TunnelOptions, new_exchange: NewExchange, target: FileSink | StdoutSink, consent: Consent | None = None
) -> None:
    """Connect to the sender and store its files with the user's consent. Raises `PunchFailedError`, `ArgumentError`."""
    confirmed = True

    def progress(total: int | None) -> Progress:
        return Progress(total, options.report, bar=options.bar)

    async def work(channel: Channel) -> list[FileDone]:
        nonlocal confirmed
        if isinstance(target, FileSink):
            files, confirmed = await receive_files(channel, target, progress, consent)
        else:
            files, confirmed = await receive_to(channel, target, progress)
        return files

    await _run(options, new_exchange, "receiver", work)
    if not confirmed:
        await _confirm_again(options, new_exchange, work)


async def _confirm_again(
    options: TunnelOptions, new_exchange: NewExchange, work: Callable[[Channel], Awaitable[list[FileDone]]]
) -> None:
    """Wait for the sender to open a new tunnel, and confirm that everything is stored.

    The run has succeeded in any case, also if the user interrupts this.
    """
    patience_s = min(CONFIRM_AGAIN_S, options.resume_for_s)
    options.report("unconfirmed", wait_s=patience_s)
    with contextlib.suppress(PunchFailedError, asyncio.CancelledError):
        broken = TunnelBrokenError("the sender did not send FINAL")
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
    """Try to open a new tunnel for `resume_for_s`, and run `work` in it."""
    until = time.monotonic() + options.resume_for_s
    while (left := until - time.monotonic()) > 0:
        exchange = new_exchange()
        exchange.code = None  # it has already been reported
        try:
            async with open_tunnel(_options_for_retry(options, left), exchange, role) as channel:
                return await work(channel)
        except TunnelBrokenError:
            raise
        except PunchFailedError as error:
            if error.outcome == "wrong_peer":
                raise
            options.report("not_resumed", outcome=error.outcome, reason=error.reason)
        await asyncio.sleep(min(RETRY_S, max(0.0, until - time.monotonic())))
    raise PunchFailedError(broken.outcome, f"{broken.reason}; no new tunnel within {options.resume_for_s:g} s")


def _options_for_retry(options: TunnelOptions, left: float) -> TunnelOptions:
    """Return the options for a new tunnel, with another port, because the old connection may still be closing."""
    bind = None if options.bind is None else Endpoint(options.bind.ip, 0)
    return replace(options, bind=bind, start_at=None, wait_s=left)


def _report_done(report: Reporter, done: list[FileDone], start: float) -> None:
    report("done", files=[each._asdict() for each in done], seconds=round(time.monotonic() - start, 6))
