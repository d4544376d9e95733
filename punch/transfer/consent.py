"""The receiver's user decides whether to store an offer, before any file data is received.

    sender      OFFER…                            [ABORT]
    receiver            ASKING… (every 10 s)               HELD… ACCEPT, or DECLINED

Meanwhile the tunnel stays open: keepalives of the kernel refresh the mappings of the NATs (`punch.client.liveness`),
and ASKING keeps a relay from ending the pair as idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from punchlab.punch.errors import PunchError, TamperedError
from punchlab.punch.events import Reporter
from punchlab.punch.fields import Json
from punchlab.punch.secure.channel import Channel, Kind
from punchlab.punch.transfer.control_frames import receive_frame
from punchlab.punch.transfer.offer import Offered
from punchlab.punch.transfer.summary import summarize

ASK_AGAIN_S = 10.0

Question = Callable[[Json], Awaitable[bool]]
"""Asks the user whether to accept an offer, given its summary. Cancelled when no answer is needed any more."""


class DeclinedError(PunchError):
    """The user declined the offer."""


class Consent:
    """The answers of one session. An accepted offer that is repeated over a new tunnel needs no second answer.

    Every offer is reported as the event `offered`. Without a question each is accepted.
    """

    def __init__(self, report: Reporter, question: Question | None = None) -> None:
        self._report = report
        self._question = question
        self._accepted: list[Offered] | None = None

    async def obtain(self, channel: Channel, offered: Sequence[Offered]) -> None:
        """Ask the user. Raises `DeclinedError`; `ChannelError` and `AbortedError` if the sender leaves meanwhile."""
        if self._accepted == list(offered):
            return
        summary = summarize(offered)
        self._report("offered", asked=self._question is not None, **summary)
        if self._question is not None:
            await self._ask(channel, self._question(summary))
        self._accepted = list(offered)

    async def _ask(self, channel: Channel, question: Awaitable[bool]) -> None:
        asking = asyncio.ensure_future(question)
        receiving = asyncio.create_task(channel.readable())
        either: set[asyncio.Future[Any]] = {asking, receiving}
        try:
            done: set[asyncio.Future[Any]] = set()
            while not done:
                await channel.send(Kind.ASKING)
                done, _ = await asyncio.wait(either, timeout=ASK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                kind, _payload = await receive_frame(channel)
                raise TamperedError(f"expected nothing before ACCEPT, got {kind.name}")
            accepted = await asking
        finally:
            for task in (asking, receiving):
                task.cancel()
            await asyncio.gather(asking, receiving, return_exceptions=True)
        if not accepted:
            raise DeclinedError("the offer was declined, and nothing was stored")
