"""`sync`: both connect at an agreed instant, which is half a measured round trip away.

This is the procedure of DCUtR, Direct Connection Upgrade through Relay (libp2p specification relay/DCUtR, Working
Draft, section "The Protocol"; Seemann, Inden and Vyzovitis, "Decentralized Hole Punching", DINPS 2022). The clients
exchange messages through the servers that introduced them. The initiator, here the sender, sends CONNECT and measures
how long the answer takes. Then it sends SYNC and connects half of that round trip later; the receiver connects when
SYNC arrives. So the SYNs are sent at about the same time and cross, even if NATs reject an early SYN by a RST. There
are up to three attempts of one connect each, every one with its own measurement; the listeners accept connections all
the time. After the third attempt both connect as in `keep`.

As in DCUtR, the measured path is the relayed one. If it is not symmetric, the SYNs differ by half of the asymmetry,
which repeated attempts do not correct.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from punchlab.punch.errors import SignalError, TamperedError
from punchlab.punch.punching.puncher import sleep_until
from punchlab.punch.strategy.context import PunchContext, Strategy

ATTEMPTS = 3
LEAST_PAUSE_S = 0.3
"""Minimum duration of an attempt in seconds. Within it the SYN may be answered, but is not retransmitted."""

_READY, _CONNECT, _ANSWER, _SYNC = b"ready", b"connect ", b"answer ", b"sync "
_ANSWER_S = 3.0


class Sync(Strategy):
    """See the module docstring."""

    async def punch(self, context: PunchContext) -> None:
        """See `Strategy`."""
        context.begin_key()
        context.puncher.accept()
        await context.start()
        try:
            await (_lead(context) if context.role == "sender" else _follow(context))
        except (SignalError, TamperedError, TimeoutError) as error:
            context.report("strategy", name="keep", why=f"no agreement on an instant: {error or 'no answer in time'}")
        context.connect_all()


async def _lead(context: PunchContext) -> None:
    while await context.next_signal() != _READY:
        pass
    for attempt in range(ATTEMPTS):
        number = str(attempt).encode()
        asked = time.monotonic()
        await context.signal(_CONNECT + number)
        async with asyncio.timeout(_ANSWER_S):
            while await context.next_signal() != _ANSWER + number:
                pass
        round_trip_s = time.monotonic() - asked
        await context.signal(_SYNC + number)
        await sleep_until(time.monotonic() + round_trip_s / 2)
        context.report("sync", attempt=attempt + 1, round_trip_s=round(round_trip_s, 6))
        await _dial(context, round_trip_s)


async def _follow(context: PunchContext) -> None:
    await context.signal(_READY)
    started = time.monotonic()
    while True:
        received = await context.next_signal()
        if received.startswith(_CONNECT):
            started = time.monotonic()
            await context.signal(_ANSWER + received.removeprefix(_CONNECT))
        elif received.startswith(_SYNC):
            # The time from our answer to SYNC is a round trip as well.
            await _dial(context, time.monotonic() - started)
            if received == _SYNC + str(ATTEMPTS - 1).encode():
                return


async def _dial(context: PunchContext, round_trip_s: float) -> None:
    """Connect once to every candidate, and give the attempts time to succeed."""
    for target in context.targets:
        with contextlib.suppress(OSError):
            context.puncher.dial(target, attempts=1)
    await asyncio.sleep(max(LEAST_PAUSE_S, 2 * round_trip_s))
