"""`sync`: both dial at an agreed instant, found by half of a measured round trip.

The way of DCUtR, Direct Connection Upgrade through Relay (libp2p specification relay/DCUtR, Working Draft, section "The
Protocol"; Seemann, Inden and Vyzovitis, "Decentralized Hole Punching", DINPS 2022): the two talk through the servers
that introduced them. The initiator, here the sender, asks, and measures how long the answer takes; then it says SYNC,
and dials half of that round trip later, when SYNC reaches the other, which dials at once. So the SYNs leave at about
the same time and cross, also where NATs answer a SYN that comes too early by RST. Up to three attempts, each with a
measurement of its own, one connect each; the listeners are open all along. After the third
one both dial as `keep` does.

DCUtR's own clock is that of the relayed path. If the edges' way is not symmetric the SYNs are apart by half of the
difference, which is what repeated attempts do not mend.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from punchlab.punch.errors import SignalError, TamperedError
from punchlab.punch.punching.puncher import sleep_until
from punchlab.punch.strategy.meeting import Meeting, Strategy

ATTEMPTS = 3
LEAST_PAUSE_S = 0.3
"""How long an attempt is given at least. In this time its SYN is not sent again, but may be answered."""

_READY, _CONNECT, _ANSWER, _SYNC = b"ready", b"connect ", b"answer ", b"sync "
_ANSWER_S = 3.0


class Sync(Strategy):
    """See the top of this module."""

    async def punch(self, meeting: Meeting) -> None:
        """See `Strategy`."""
        meeting.begin_key()
        meeting.puncher.accept()
        await meeting.start()
        try:
            await (_lead(meeting) if meeting.role == "sender" else _follow(meeting))
        except (SignalError, TamperedError, TimeoutError) as error:
            meeting.report("strategy", name="keep", why=f"no instant can be agreed on: {error or 'no answer in time'}")
        meeting.fire()


async def _lead(meeting: Meeting) -> None:
    while await meeting.next_signal() != _READY:
        pass
    for attempt in range(ATTEMPTS):
        number = str(attempt).encode()
        asked = time.monotonic()
        await meeting.signal(_CONNECT + number)
        async with asyncio.timeout(_ANSWER_S):
            while await meeting.next_signal() != _ANSWER + number:
                pass
        round_trip_s = time.monotonic() - asked
        await meeting.signal(_SYNC + number)
        await sleep_until(time.monotonic() + round_trip_s / 2)
        meeting.report("sync", attempt=attempt + 1, round_trip_s=round(round_trip_s, 6))
        await _dial(meeting, round_trip_s)


async def _follow(meeting: Meeting) -> None:
    await meeting.signal(_READY)
    begun = time.monotonic()
    while True:
        said = await meeting.next_signal()
        if said.startswith(_CONNECT):
            begun = time.monotonic()
            await meeting.signal(_ANSWER + said.removeprefix(_CONNECT))
        elif said.startswith(_SYNC):
            # From our answer to its SYNC is a round trip as well.
            await _dial(meeting, time.monotonic() - begun)
            if said == _SYNC + str(ATTEMPTS - 1).encode():
                return


async def _dial(meeting: Meeting, round_trip_s: float) -> None:
    """One connect to every candidate, and time for it to succeed."""
    for target in meeting.targets:
        with contextlib.suppress(OSError):
            meeting.puncher.dial(target, attempts=1)
    await asyncio.sleep(max(LEAST_PAUSE_S, 2 * round_trip_s))
