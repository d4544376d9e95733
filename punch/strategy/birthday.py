"""`birthday`: many open ports against many guesses, where a NAT allocates ports at random.

For one host whose mapping depends on the destination and whose ports are random, and a peer whose endpoint is the
registered one. The first opens `OPENED` ports towards the peer, each from a socket of its own; the peer dials
`PROBES` different ports, drawn at random, from its one address. A probe that goes to an open port finds a door,
whichever of the two SYNs was first; the probability that one does is `punch.nat.birthday.collision`: 0.98 for 256 and
1024. (D. Anderson, "How NAT traversal works", Tailscale 2020, "The benefits of birthdays", there for UDP.)

It needs NATs that drop unsolicited SYNs: a RST would shut each door at once. So every port is dialled once, and a
refusal ends it.

Budget. `PER_S` bounds new SYNs; the kernel repeats those that are unanswered about once a second, a probe's `_REPEATS`
times. Descriptors: one a port, the soft limit is raised as far as it goes; where that is not enough there are fewer
ports, which is said. Every probe goes to the IP address at which the edge saw the peer, and to no other.
Where neither host is such a one this is `reuse`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.nat.birthday import OPENED, PER_S, PROBES, collision
from punchlab.punch.net.descriptors import available
from punchlab.punch.net.sockets import PORTS
from punchlab.punch.punching.candidates import Candidate
from punchlab.punch.strategy.allocation import Allocation, measure
from punchlab.punch.strategy.meeting import Meeting, Preparation, Strategy
from punchlab.punch.strategy.reuse import Reuse

_GUESSED = range(1024, 65536)
_BURST = 8  # dials without a pause
_REPEATS = 2  # of the SYN of a probe, for the case that a port is opened, or the SYN lost, later

Item = TypeVar("Item")


class Birthday(Strategy):
    """See the top of this module."""

    def __init__(self, opened: int = OPENED, probes: int = PROBES, rate_per_s: float = PER_S) -> None:
        self._opened, self._probes, self._rate_per_s = opened, probes, rate_per_s
        self._own = Allocation()

    async def prepare(self, preparation: Preparation) -> str | None:
        """See `Strategy`."""
        self._own = (await measure(preparation.edge, preparation.stun)).allocation
        return self._own.encode()

    async def punch(self, meeting: Meeting) -> None:
        """See `Strategy`."""
        peer = Allocation.parse(meeting.peer.contact.traits)
        if self._own.dependent and not peer.dependent:
            await self._open(meeting)
        elif peer.dependent and not self._own.dependent:
            await self._guess(meeting)
        else:
            await Reuse().punch(meeting)

    async def _open(self, meeting: Meeting) -> None:
        """Open many ports towards the peer."""
        count = _budget(meeting, self._opened)
        target = Candidate(meeting.peer.contact.public, "guess")
        ip = meeting.rendezvous.local.ip
        locals_ = [Endpoint(ip, port) for port in random.sample(PORTS, count) if port != meeting.rendezvous.local.port]
        meeting.report("opening_ports", ports=count)
        await meeting.leave()
        await meeting.start()
        meeting.fire()
        async for local in _paced(locals_, self._rate_per_s):
            with contextlib.suppress(OSError):  # somebody else's port: one less
                meeting.puncher.dial(target, local=local, attempts=1)

    async def _guess(self, meeting: Meeting) -> None:
        """Dial many ports of the peer."""
        public = meeting.peer.contact.public
        count = _budget(meeting, self._probes)
        meeting.report(
            "strategy", does="guesses ports", ports=count, probability=round(collision(self._opened, count), 4)
        )
        await meeting.leave()
        await meeting.start()
        meeting.fire()
        ports = random.sample([port for port in _GUESSED if port != public.port], count)
        async for port in _paced(ports, self._rate_per_s):
            guess = Candidate(Endpoint(public.ip, port), "guess")
            meeting.puncher.dial(guess, attempts=1, repeats=_REPEATS)


def _budget(meeting: Meeting, wanted: int) -> int:
    """How many of the wanted ports there are descriptors for; says so where they are fewer."""
    had = available(wanted)
    if had < wanted:
        meeting.report("few_descriptors", wanted=wanted, had=had, reason="the hard limit of open files (ulimit -Hn)")
    return had


async def _paced(items: Sequence[Item], rate_per_s: float) -> AsyncIterator[Item]:
    """The items, no more than so many a second."""
    begun = time.monotonic()
    for number, item in enumerate(items):
        if number % _BURST == 0:
            await asyncio.sleep(max(0.0, begun + number / rate_per_s - time.monotonic()))
        yield item
