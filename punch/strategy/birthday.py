"""`birthday`: many open ports against many guesses, if a NAT allocates ports at random.

This is for a host with destination-dependent mapping and random ports, and a peer whose endpoint is the registered one.
The host opens `OPENED` ports towards the peer, each from its own socket. The peer connects from its one address to
`PROBES` different random ports. A probe to an open port finds a pinhole, whichever of the two SYNs was first. The
probability of a hit is `punch.nat.birthday.collision`: 0.98 for 256 and 1024. (D. Anderson, "How NAT traversal works",
Tailscale 2020, "The benefits of birthdays", there for UDP.)

It needs NATs that silently drop unsolicited SYNs, because a RST would close each pinhole at once. So the client
connects to each port once, and does not repeat a rejected attempt.

Limits. `PER_S` limits new SYNs; the kernel retransmits unanswered ones about once a second, those of a probe `_REPEATS`
times. Each port needs a descriptor: the soft limit is raised as far as possible, and the client reports if the number
of ports must be lower. All probes go to the IP address at which the edge saw the peer. If neither host has such a NAT,
the strategy is the same as `reuse`.
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
from punchlab.punch.strategy.context import Preparation, PunchContext, Strategy
from punchlab.punch.strategy.reuse import Reuse

_GUESSED = range(1024, 65536)
_BURST = 8  # connects without a pause
_REPEATS = 2  # retransmissions of a probe's SYN, in case a port is opened later or the SYN is lost

Item = TypeVar("Item")


class Birthday(Strategy):
    """See the module docstring."""

    def __init__(self, opened: int = OPENED, probes: int = PROBES, rate_per_s: float = PER_S) -> None:
        self._opened, self._probes, self._rate_per_s = opened, probes, rate_per_s
        self._own = Allocation()

    async def prepare(self, preparation: Preparation) -> str | None:
        """See `Strategy`."""
        self._own = (await measure(preparation.edge, preparation.stun)).allocation
        return self._own.encode()

    async def punch(self, context: PunchContext) -> None:
        """See `Strategy`."""
        peer = Allocation.parse(context.peer.contact.traits)
        if self._own.dependent and not peer.dependent:
            await self._open(context)
        elif peer.dependent and not self._own.dependent:
            await self._guess(context)
        else:
            await Reuse().punch(context)

    async def _open(self, context: PunchContext) -> None:
        """Open many ports towards the peer."""
        count = _budget(context, self._opened)
        target = Candidate(context.peer.contact.public, "guess")
        ip = context.rendezvous.local.ip
        locals_ = [Endpoint(ip, port) for port in random.sample(PORTS, count) if port != context.rendezvous.local.port]
        context.report("opening_ports", ports=count)
        await context.leave()
        await context.start()
        context.connect_all()
        async for local in _paced(locals_, self._rate_per_s):
            with contextlib.suppress(OSError):  # the port is in use by another process
                context.puncher.dial(target, local=local, attempts=1)

    async def _guess(self, context: PunchContext) -> None:
        """Connect to many ports of the peer."""
        public = context.peer.contact.public
        count = _budget(context, self._probes)
        context.report(
            "strategy", does="guesses ports", ports=count, probability=round(collision(self._opened, count), 4)
        )
        await context.leave()
        await context.start()
        context.connect_all()
        ports = random.sample([port for port in _GUESSED if port != public.port], count)
        async for port in _paced(ports, self._rate_per_s):
            guess = Candidate(Endpoint(public.ip, port), "guess")
            context.puncher.dial(guess, attempts=1, repeats=_REPEATS)


def _budget(context: PunchContext, wanted: int) -> int:
    """Return how many of the wanted ports there are descriptors for; report it if they are fewer."""
    had = available(wanted)
    if had < wanted:
        context.report("few_descriptors", wanted=wanted, had=had, reason="hard limit of open files (ulimit -Hn)")
    return had


async def _paced(items: Sequence[Item], rate_per_s: float) -> AsyncIterator[Item]:
    """Yield the items, at most `rate_per_s` per second."""
    started = time.monotonic()
    for number, item in enumerate(items):
        if number % _BURST == 0:
            await asyncio.sleep(max(0.0, started + number / rate_per_s - time.monotonic()))
        yield item
