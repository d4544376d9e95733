"""A rendezvous that survives the loss of its edge.

Until the peer is known, the client can use any edge. If the connection is lost, or a ping is not answered, the client
connects again from the same local address: to the next edge of its list, or to the same anycast address, which leads to
another edge once the failed one is no longer announced. There it registers again as the same client, and the edges
continue its session.

The session may change its name meanwhile (`rename`). The client then leaves and registers with the new name.

A lost connection may also mean that the network has changed, for instance that a NAT has rebooted or has a new address.
Therefore the client repeats all measurements of the network before it registers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Self

from websockets.asyncio.client import ClientConnection

from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import EdgeLostError, EdgeUnreachableError, PunchFailedError
from punchlab.punch.events import Reporter
from punchlab.punch.frames import Peer, Register, SessionId, Welcome
from punchlab.punch.net.closing import close_by_reset
from punchlab.punch.net.websocket import abort, until_unresponsive
from punchlab.punch.punching.quota import Servers
from punchlab.punch.rendezvous.connection import CONNECT_TIMEOUT_S, Rendezvous, dial
from punchlab.punch.rendezvous.reflexive import discover_reflexive_address

PING_S = (4.0, 4.0)
"""Interval of pings, and timeout of their answers, in seconds."""

GIVE_UP_S = 30.0
"""How long the client tries to reach an edge before the session fails, in seconds."""

_DIAL_S = (1.5, CONNECT_TIMEOUT_S)
"""First and longest timeout of connecting, in seconds. The first is short, because late packets of the lost edge to the
same addresses may disturb the first attempt in a NAT on the path."""

_BACKOFF_S = (0.1, 2.0)  # first and longest pause after trying all edges


class ReconnectingRendezvous(Rendezvous):
    """A `Rendezvous` that uses one of several edges at a time. Made by `connect_any`."""

    _edges: Iterator[EdgeUrl]
    _count: int
    _report: Reporter
    _register: Register
    local6: Endpoint | None = None
    """The IPv6 address whose reflexive address the edge has seen, if any."""
    servers6: Servers
    """Counts the IPv6 addresses that edges supply."""
    measure: Callable[[], Awaitable[str | None]] | None = None
    """Returns the traits of the network in its present state; called before each registration except the first."""
    rename: Callable[[], tuple[SessionId, float | None]] | None = None
    """Returns the name of the session, and how many seconds it is valid (None: forever)."""
    welcome: Welcome
    """The answer to the latest registration."""
    _waits = _outdated = False
    _name_for_s: float | None = None

    @classmethod
    async def connect_any(cls, edges: Sequence[EdgeUrl], bind: Endpoint | None, report: Reporter) -> Self:
        """Connect to the first of `edges` that can be reached. Raises what `connect` raises for the first of them."""
        for number, url in enumerate(edges):
            try:
                made = await cls.connect(url, bind)
            except EdgeUnreachableError as error:
                if number == 0:
                    first = error
                continue
            # The present edge comes last: if it is lost, the others are more likely to be reachable.
            made._edges = itertools.cycle([*edges[number + 1 :], *edges[: number + 1]])
            made._count, made._report = len(edges), report
            return made
        raise first

    @property
    def traits(self) -> str | None:
        """The traits in the latest registration."""
        return self._register.traits

    def outdate(self) -> None:
        """Measure and register again, because the traits are no longer correct; unless the peer is already known."""
        self._outdated = True
        if self._waits:
            abort(self._connection)

    async def register(self, register: Register) -> Welcome:
        """See `Rendezvous.register`."""
        self._register = register
        self._update_name()
        try:
            self.welcome = await super().register(self._register)
        except EdgeLostError as lost:
            self._report("edge_lost", reason=lost.reason)
            await self._register_again(lost)
        return self.welcome

    async def listen(self) -> Peer:
        """See `Rendezvous.listen`."""
        while True:
            watch = asyncio.create_task(self._watch(self._connection))
            self._waits = True
            if self._outdated:
                abort(self._connection)
            try:
                async with asyncio.timeout(self._name_for_s):
                    return await super().listen()
            except EdgeLostError as lost:
                self._waits = False
                self._report("edge_lost", reason=lost.reason)
                await self._register_again(lost)
            except TimeoutError:
                self._waits = False
                with contextlib.suppress(PunchFailedError):
                    return await self._leave_unless_peer()
                await self._register_again(EdgeLostError("no_rendezvous", "the session changed its name"), self.url)
            finally:
                self._waits = False
                watch.cancel()
            self._report(
                "registered",
                local=str(self.local),
                public=str(self.welcome.public),
                edge=self.welcome.edge,
                session=self._register.session,
                **({} if self._register.public6 is None else {"public6": str(self._register.public6)}),
            )

    def _update_name(self) -> None:
        if self.rename is not None:
            name, self._name_for_s = self.rename()
            self._register = replace(self._register, session=name)

    async def _leave_unless_peer(self) -> Peer:
        """Leave; return the peer's contact if the edge sent it first. Raises `PunchFailedError` if it did not."""
        close_by_reset(self._connection.transport.get_extra_info("socket"), True)
        await self._connection.close(1000, "the session changed its name")
        return await super().listen()

    async def _discover_again(self) -> None:
        """Discover the reflexive IPv6 address again, because a new edge does not know it."""
        if self.local6 is None:
            return
        seen = await discover_reflexive_address(self, self.local6, self.servers6)
        named = (None, None) if seen is None else (seen.public, seen.proof)
        self._register = replace(self._register, public6=named[0], proof6=named[1])

    async def _measure_again(self) -> None:
        self._outdated = False
        if self.measure is not None:
            self._register = replace(self._register, traits=await self.measure())

    async def _watch(self, connection: ClientConnection) -> None:
        await until_unresponsive(connection, *PING_S)
        abort(connection)

    async def _register_again(self, lost: EdgeLostError, *before: EdgeUrl) -> None:
        """Register at the next reachable edge, trying `before` first. Raises `PunchFailedError`."""
        give_up, pause = time.monotonic() + GIVE_UP_S, _BACKOFF_S[0]
        self.trouble = f": {lost.reason}"
        for number, url in enumerate(itertools.chain(before, self._edges), start=1):
            abort(self._connection)
            try:
                timeout_s = min(_DIAL_S[0] * 2 ** ((number - 1) // self._count), _DIAL_S[1])
                self._connection, _ = await dial(url, self.local, own=True, timeout_s=timeout_s)
                self.url, self.edge_ip = url, Endpoint.of(self._connection.remote_address).ip
                await self._discover_again()
                await self._measure_again()
                self._update_name()
                self.welcome = await super().register(self._register)
            except (EdgeLostError, EdgeUnreachableError) as error:
                self.trouble = f": {lost.reason}, and no other edge was reachable: {error.reason}"
            else:
                self.trouble = ""
                return
            if time.monotonic() >= give_up:
                raise PunchFailedError("no_rendezvous", f"no reachable edge for {GIVE_UP_S:g} s{self.trouble}")
            if number % self._count == 0:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, _BACKOFF_S[1])
