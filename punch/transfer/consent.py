"""The receiver's user decides what is stored: nothing of an offer is received before that.

    sender      OFFER…                            [ABORT]
    receiver            ASKING… (every 10 s)               HELD… ACCEPT, or DECLINED

Meanwhile the tunnel stays up: the kernel's keepalives hold the mappings of the NATs (`punch.client.liveness`), and
ASKING keeps a relay from taking the pair for idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from punchlab.punch.errors import PunchError, TamperedError
from punchlab.punch.events import Reporter
from punchlab.punch.fields import Json
from punchlab.punch.secure.channel import Channel, Kind
from punchlab.punch.transfer.conversation import hear
from punchlab.punch.transfer.offer import Offered
from punchlab.punch.transfer.summary import summarize

ASK_AGAIN_S = 10.0

Question = Callable[[Json], Awaitable[bool]]
"""Asks the user whether to accept an offer, by its summary. Cancelled when there is nothing to answer any more."""


class DeclinedError(PunchError):
    """The user does not accept the offer."""


class Consent:
    """The answers of one session: what was accepted is not asked about again when another tunnel brings it.

    Every offer is reported as the event `offered`. Without a question each is accepted.
    """

    def __init__(self, report: Reporter, question: Question | None = None) -> None:
        self._report = report
        self._question = question
        self._accepted: list[Offered] | None = None

    async def obtain(self, channel: Channel, offered: Sequence[Offered]) -> None:
        """Ask. Raises `DeclinedError`; `ChannelError` and `AbortedError` if the sender goes away meanwhile."""
        if self._accepted == list(offered):
            return
        summary = summarize(offered)
        self._report("offered", asked=self._question is not None, **summary)
        if self._question is not None:
            await self._ask(channel, self._question(summary))
        self._accepted = list(offered)

    async def _ask(self, channel: Channel, question: Awaitable[bool]) -> None:
        asking = asyncio.ensure_future(question)
        hearing = asyncio.create_task(channel.readable())
        either: set[asyncio.Future[Any]] = {asking, hearing}
        try:
            done: set[asyncio.Future[Any]] = set()
            while not done:
                await channel.send(Kind.ASKING)
                done, _ = await asyncio.wait(either, timeout=ASK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                kind, _payload = await hear(channel)
                raise TamperedError(f"expected nothing before ACCEPT, got {kind.name}")
            accepted = await asking
        finally:
            for task in (asking, hearing):
                task.cancel()
            await asyncio.gather(asking, hearing, return_exceptions=True)
        if not accepted:
            raise DeclinedError("what was offered was not accepted, and nothing was stored")
