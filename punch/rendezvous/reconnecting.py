"""A rendezvous that outlives the edge it was made at.

Until the peer is known, the client needs some edge, no particular one. If the connection is lost, or nobody answers a
ping any more, it connects again from the same local address: to the next edge of its list, or to the same anycast
address, which leads elsewhere once the dead edge is no longer announced. There it registers as the same client, and the
edges go on with its session.

A session may have to take another name meanwhile (`rename`): then the client leaves and registers under that.

A lost connection may also mean that the network has changed: a NAT has rebooted, or has another address. So everything
that was learned from the network is learned again before the client registers again.
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
from punchlab.punch.net.websocket import abort, until_deaf
from punchlab.punch.punching.quota import Servers
from punchlab.punch.rendezvous.connection import CONNECT_TIMEOUT_S, Rendezvous, dial
from punchlab.punch.rendezvous.reflexive import sight

PING_S = (4.0, 4.0)
"""Pause between two pings, and how long an answer may take, in seconds."""

GIVE_UP_S = 30.0
"""How long no edge may be reached before the session has failed."""

_DIAL_S = (1.5, CONNECT_TIMEOUT_S)
"""First and longest time that a connection may take. Short at first: what the lost edge still sends comes to the same
addresses, and may spoil the first try in a NAT on the way."""

_BACKOFF_S = (0.1, 2.0)  # first and longest pause after all edges have been tried in vain


class ReconnectingRendezvous(Rendezvous):
    """A `Rendezvous` at one of several edges at a time. Made by `connect_any`."""

    _edges: Iterator[EdgeUrl]
    _count: int
    _report: Reporter
    _register: Register
    local6: Endpoint | None = None
    """The IPv6 address that was shown to the edge, if any, and:"""
    servers6: Servers
    """The count of the IPv6 addresses that edges name."""
    learn: Callable[[], Awaitable[str | None]] | None = None
    """Returns the traits of the network as it is now; called before each registration but the first."""
    rename: Callable[[], tuple[SessionId, float | None]] | None = None
    """Returns the name of the session, and for how many seconds it serves (None: for ever)."""
    welcome: Welcome
    """The answer to the latest registration."""
    _waits = _outdated = False
    _name_for_s: float | None = None

    @classmethod
    async def connect_any(cls, edges: Sequence[EdgeUrl], bind: Endpoint | None, report: Reporter) -> Self:
        """Connect to the first of `edges` that can be reached. Raises what `connect` raises for the very first."""
        for number, url in enumerate(edges):
            try:
                made = await cls.connect(url, bind)
            except EdgeUnreachableError as error:
                if number == 0:
                    first = error
                continue
            # The one that was lost comes last: it is the others that are likely to be there.
            made._edges = itertools.cycle([*edges[number + 1 :], *edges[: number + 1]])
            made._count, made._report = len(edges), report
            return made
        raise first

    @property
    def traits(self) -> str | None:
        """The traits in the latest registration."""
        return self._register.traits

    def outdate(self) -> None:
        """What was learned is no longer correct: learn it again and register again, unless the peer is known."""
        self._outdated = True
        if self._waits:
            abort(self._connection)

    async def register(self, register: Register) -> Welcome:
        """See `Rendezvous.register`."""
        self._register = register
        self._take_name()
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
                    return await self._last_word()
                await self._register_again(EdgeLostError("no_rendezvous", "the session's next name"), self.url)
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

    def _take_name(self) -> None:
        if self.rename is not None:
            name, self._name_for_s = self.rename()
            self._register = replace(self._register, session=name)

    async def _last_word(self) -> Peer:
        """Leave; the peer, if the edge has named it before it knew. Raises `PunchFailedError` if not."""
        close_by_reset(self._connection.transport.get_extra_info("socket"), True)
        await self._connection.close(1000, "the session's next name")
        return await super().listen()

    async def _show_again(self) -> None:
        """What one edge has seen, another does not know."""
        if self.local6 is None:
            return
        seen = await sight(self, self.local6, self.servers6)
        named = (None, None) if seen is None else (seen.public, seen.proof)
        self._register = replace(self._register, public6=named[0], proof6=named[1])

    async def _learn_again(self) -> None:
        self._outdated = False
        if self.learn is not None:
            self._register = replace(self._register, traits=await self.learn())

    async def _watch(self, connection: ClientConnection) -> None:
        await until_deaf(connection, *PING_S)
        abort(connection)

    async def _register_again(self, lost: EdgeLostError, *before: EdgeUrl) -> None:
        """Register at the next edge that can be reached, `before` all others. Raises `PunchFailedError`."""
        give_up, pause = time.monotonic() + GIVE_UP_S, _BACKOFF_S[0]
        self.trouble = f": {lost.reason}"
        for number, url in enumerate(itertools.chain(before, self._edges), start=1):
            abort(self._connection)
            try:
                timeout_s = min(_DIAL_S[0] * 2 ** ((number - 1) // self._count), _DIAL_S[1])
                self._connection, _ = await dial(url, self.local, own=True, timeout_s=timeout_s)
                self.url, self.edge_ip = url, Endpoint.of(self._connection.remote_address).ip
                await self._show_again()
                await self._learn_again()
                self._take_name()
                self.welcome = await super().register(self._register)
            except (EdgeLostError, EdgeUnreachableError) as error:
                self.trouble = f": {lost.reason}, and no other could be had: {error.reason}"
            else:
                self.trouble = ""
                return
            if time.monotonic() >= give_up:
                raise PunchFailedError("no_rendezvous", f"no edge for {GIVE_UP_S:g} s{self.trouble}")
            if number % self._count == 0:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, _BACKOFF_S[1])
