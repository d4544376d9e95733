"""What a NAT remembers, begun between two instants, and whether a packet still comes in after a time of idling."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from punchlab.lab.check.segments import PATIENCE_S, SILENCE_S
from punchlab.lab.check.waiting import within
from punchlab.punch.nat.probe import NotTested

MARGIN_S = 0.5
"""A state must live for its time less this, and be dead after its time and this."""
TOO_BUSY = NotTested("the machine is too busy to idle to the second")


Pilot = Callable[[], Awaitable[float | None]]
"""Sends a packet to where one is certain to come through; the moment at which it has, None if it does not."""

_PREPARATION_S = 0.5


class NotBegunError(Exception):
    """What was to be looked at did not come to be: no packet, or no answer, came through."""


@dataclass(frozen=True, slots=True)
class State:
    """Something that the NAT remembers, begun between two instants, and one packet that comes in as long as it does."""

    since: float
    until: float
    knock: Callable[[], Awaitable[object | None]]

    @classmethod
    def made(cls, since: float, knock: Callable[[], Awaitable[object | None]]) -> State:
        """A state whose last packet was sent after `since`, and has been heard by now."""
        return cls(since, time.monotonic(), knock)

    async def lives(self, idle_s: float, prepare: Callable[[], Awaitable[Pilot]]) -> bool | NotTested:
        """Whether the packet comes in so long after `since`.

        `TOO_BUSY` where a machine that was late may have decided that: what lives may have begun later, what is dead
        may have been asked later. A pilot is sent right after the packet: when it comes through, the NAT has decided.
        """
        due = self.since + idle_s
        await asyncio.sleep(due - _PREPARATION_S - time.monotonic())
        pilot = await prepare()
        await asyncio.sleep(due - time.monotonic())
        came, decided = await asyncio.gather(heard(self.knock()), pilot())
        if came:
            return True if self.until - self.since < MARGIN_S else TOO_BUSY
        return False if decided is not None and decided - due < MARGIN_S else TOO_BUSY


async def heard(what: Awaitable[object | None]) -> bool:
    """Whether anything came."""
    return await what is not None


async def datagram(
    sender: socket.socket, receiver: socket.socket, to: tuple[str, int], *, must: bool = True
) -> tuple[str, int] | None:
    """Send one; where it comes from as the receiver sees it, None if it does not come.

    Send it again if it `must` come; raises `NotBegunError` if it does not.
    """
    deadline, token = time.monotonic() + (PATIENCE_S if must else 0), os.urandom(8)
    while True:
        sender.sendto(token, to)
        source = await within(SILENCE_S, _source_of(token, receiver))
        if source is not None:
            return source
        if time.monotonic() >= deadline:
            if must:
                raise NotBegunError(f"no datagram from {sender.getsockname()[0]} came through the NAT")
            return None


async def _source_of(token: bytes, receiver: socket.socket) -> tuple[str, int]:
    while True:
        data, source = await asyncio.get_running_loop().sock_recvfrom(receiver, len(token))
        if data == token:
            return str(source[0]), int(source[1])
