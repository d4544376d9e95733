"""An edge as a process: its signals and its limit of descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal

from punchlab.punch.edge.server import Edge
from punchlab.punch.endpoint import EdgeUrl


async def serve_until_signal(edge: Edge, join: list[EdgeUrl]) -> None:
    """Run `edge` until SIGTERM or SIGINT; a second signal skips draining. SIGHUP reloads the certificate."""
    # Each waiting client needs a descriptor. The usual soft limit, 1024 (because of select(2)), is too low for that.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(edge.on_loop_error)
    run = asyncio.ensure_future(edge.run(join, stop))
    received: list[int] = []

    def on_signal(number: int) -> None:
        if received:  # the second signal: do not wait for sessions to end
            run.cancel()
        received.append(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, edge.reload)
    with contextlib.suppress(asyncio.CancelledError):
        await run
