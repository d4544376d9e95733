"""A state of a NAT, such as a mapping, and a test whether it still admits a packet after an idle time."""

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
"""A state must exist this long before its timeout ends, and must have expired this long after."""
TOO_BUSY = NotTested("the machine is too busy for precise idle times")


Pilot = Callable[[], Awaitable[float | None]]
"""Sends a packet that is certain to pass. Returns the time of its arrival, None if it does not arrive."""

_PREPARATION_S = 0.5


class NotBegunError(Exception):
    """The state to observe could not be created: no packet, or no answer, passed."""


@dataclass(frozen=True, slots=True)
class State:
    """A state of the NAT that was created between two instants. `probe` sends one packet that passes while it
    exists.
    """

    since: float
    until: float
    probe: Callable[[], Awaitable[object | None]]

    @classmethod
    def made(cls, since: float, probe: Callable[[], Awaitable[object | None]]) -> State:
        """Return a state whose last packet was sent after `since` and has arrived by now."""
        return cls(since, time.monotonic(), probe)

    async def lives(self, idle_s: float, prepare: Callable[[], Awaitable[Pilot]]) -> bool | NotTested:
        """Return whether the packet passes `idle_s` after `since`.

        Returns `TOO_BUSY` if a delay of this machine can have decided the result: a live state may have been created
        later, an expired one may have been tested later. A pilot follows the packet; when it arrives, the NAT has
        decided.
        """
        due = self.since + idle_s
        await asyncio.sleep(due - _PREPARATION_S - time.monotonic())
        pilot = await prepare()
        await asyncio.sleep(due - time.monotonic())
        came, decided = await asyncio.gather(arrived(self.probe()), pilot())
        if came:
            return True if self.until - self.since < MARGIN_S else TOO_BUSY
        return False if decided is not None and decided - due < MARGIN_S else TOO_BUSY


async def arrived(what: Awaitable[object | None]) -> bool:
    """Return whether anything arrived."""
    return await what is not None


async def datagram(
    sender: socket.socket, receiver: socket.socket, to: tuple[str, int], *, must: bool = True
) -> tuple[str, int] | None:
    """Send a datagram. Return its source as the receiver sees it, None if it does not arrive.

    With `must`, retransmit it, and raise `NotBegunError` if it never arrives.
    """
    deadline, token = time.monotonic() + (PATIENCE_S if must else 0), os.urandom(8)
    while True:
        sender.sendto(token, to)
        source = await within(SILENCE_S, _source_of(token, receiver))
        if source is not None:
            return source
        if time.monotonic() >= deadline:
            if must:
                raise NotBegunError(f"no datagram from {sender.getsockname()[0]} passed the NAT")
            return None


async def _source_of(token: bytes, receiver: socket.socket) -> tuple[str, int]:
    while True:
        data, source = await asyncio.get_running_loop().sock_recvfrom(receiver, len(token))
        if data == token:
            return str(source[0]), int(source[1])
