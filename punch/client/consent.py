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

from punch.client.channel import Channel, Kind
from punch.client.conversation import hear
from punch.client.offer import Offered
from punch.errors import PunchError, TamperedError

ASK_AGAIN_S = 10.0

Question = Callable[[Sequence[Offered]], Awaitable[bool]]
"""Asks the user whether to accept an offer. Cancelled when there is nothing to answer any more."""


class DeclinedError(PunchError):
    """The user does not accept the offer."""


class Consent:
    """The answers of one session: what was accepted is not asked about again when another tunnel brings it."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._accepted: list[Offered] | None = None

    async def obtain(self, channel: Channel, offered: Sequence[Offered]) -> None:
        """Ask. Raises `DeclinedError`; `ChannelError` and `AbortedError` if the sender goes away meanwhile."""
        if self._accepted == list(offered):
            return
        asking = asyncio.ensure_future(self._question(offered))
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
        self._accepted = list(offered)
