"""The relay of last resort: two clients that cannot connect directly exchange bytes through this endpoint.

An endpoint relays only if its operator enables it, and only for clients that both use `--relay`. Each client opens a
WebSocket at `/relay`, presents the ticket of the session (see `punch.edge.tickets`) and the token that both clients
derive from their session key (the edge never gets the key). Two connections with the same ticket and token are joined:
each message from one is sent to the other. The messages contain the same encrypted and authenticated channel as a
direct connection. A relay can close it and count its bytes, but neither read nor modify it.

    client -> edge   relay   {ticket, token}
    edge -> client   joined  {}           the peer is connected; binary messages follow

Nothing is stored: the relay reads a message from one side when the other side has room for it, at most `rate` bytes per
second and direction (a short message counts as `_LEAST_BYTES`). A pair is closed when it is idle for too long, lasts
too long, or has transferred too much. Clients that need more register again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from websockets.exceptions import ConnectionClosed

from punchlab.punch.codec import decode, encode
from punchlab.punch.edge.connection import POLICY_VIOLATION, EdgeConnection
from punchlab.punch.edge.limits import Held, RateLimiter
from punchlab.punch.edge.listener import widen
from punchlab.punch.edge.tickets import Tickets
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import RefusedError
from punchlab.punch.events import Reporter
from punchlab.punch.relay import Join, Joined

MAX_WAITING = 1000  # clients without their peer; one more replaces the one that has waited longest
MAX_OF_TICKET = 4  # of those, with the same ticket
MAX_PAIRS = 200
FRAME_TIMEOUT_S = 10.0
WAIT_S = 30.0
_LEAST_BYTES = 1024  # minimum size for which a message counts, because even an empty one costs work
_BURST_S = 0.1  # maximum burst, in seconds' worth of data


@dataclass(frozen=True)
class RelayTerms:
    """Limits of one pair: bytes per second in each direction, bytes in total, idle timeout, and duration."""

    rate: float = 1_000_000.0
    most_bytes: float = 4e9
    idle_s: float = 600.0
    lifetime_s: float = 3600.0


@dataclass(frozen=True)
class RelayOffer:
    """`url` reaches this endpoint itself from anywhere (it is no anycast address)."""

    url: EdgeUrl
    terms: RelayTerms = field(default_factory=RelayTerms)


@dataclass(eq=False)
class _Waiting:
    """A client that waits for its peer. `peer` gets the peer's connection; `over` is set when the pair has ended."""

    connection: EdgeConnection
    peer: asyncio.Future[EdgeConnection] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    over: asyncio.Event = field(default_factory=asyncio.Event)


class _OverError(Exception):
    """A pair has reached a limit; the message names it."""


class _Pair:
    """Counts the bytes of a pair, and records when the last message passed."""

    def __init__(self, terms: RelayTerms) -> None:
        self._terms = terms
        self._clock = asyncio.get_running_loop().time
        self._begun = self._last = self._clock()
        self.passed = 0

    def count(self, size: int) -> None:
        """Count `size` bytes. Raises `_OverError`."""
        self._last = self._clock()
        self.passed += size
        if self.passed > self._terms.most_bytes:
            raise _OverError(f"relayed {self._terms.most_bytes / 1e6:g} MB, which is the limit")

    async def end(self) -> None:
        """Wait until a time limit is reached. Raises `_OverError`."""
        terms = self._terms
        while True:
            now = self._clock()
            if now - self._begun >= terms.lifetime_s:
                raise _OverError(f"relayed for {terms.lifetime_s:g} s, which is the limit")
            if now - self._last >= terms.idle_s:
                raise _OverError(f"nothing to relay for {terms.idle_s:g} s")
            await asyncio.sleep(min(self._begun + terms.lifetime_s, self._last + terms.idle_s) - now)


class Relay:
    """Joins pairs of clients that have tickets, within the limits `terms`."""

    def __init__(self, terms: RelayTerms, limiter: RateLimiter, report: Reporter) -> None:
        self._terms, self._limiter, self._report = terms, limiter, report
        self.tickets = Tickets()
        self._waiting: dict[tuple[str, str], _Waiting] = {}  # by ticket and token
        self._pairs = 0

    async def serve(self, connection: EdgeConnection) -> None:
        """Serve one client until it disconnects. Raises `FrameError`, `RefusedError`, `TimeoutError`,
        `ConnectionClosed`."""
        async with asyncio.timeout(FRAME_TIMEOUT_S):
            join = decode(await connection.recv(), Join)
        ticket, token = join.ticket, join.token
        await self.tickets.check(ticket)
        connection.throttled = True  # the relay limits the rate itself
        first = self._waiting.pop((ticket, token), None)
        if first is None:
            await self._wait(ticket, token, connection)
        else:
            await self._join(ticket, first, connection)

    async def _wait(self, ticket: str, token: str, connection: EdgeConnection) -> None:
        if sum(each == ticket for each, _ in self._waiting) >= MAX_OF_TICKET:
            raise RefusedError("too many clients with this ticket")
        with self._held("waiting", connection):
            if len(self._waiting) >= MAX_WAITING:
                self._end_oldest()
            connection.settle()
            waiting = self._waiting[ticket, token] = _Waiting(connection)
            gone = asyncio.create_task(connection.wait_closed())
            try:
                await asyncio.wait((waiting.peer, gone), timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.peer.done() and not gone.done():
                    raise RefusedError(f"the peer did not connect to the relay within {WAIT_S:g} s")
            finally:
                gone.cancel()
                if self._waiting.get((ticket, token)) is waiting:
                    del self._waiting[ticket, token]
        if waiting.peer.done():
            waiting.peer.result()
            await waiting.over.wait()  # the peer's task relays

    def _end_oldest(self) -> None:
        oldest = self._waiting.pop(next(iter(self._waiting)))
        oldest.peer.set_exception(RefusedError("this relay has too many clients"))
        oldest.peer.exception()  # retrieved, or asyncio would report it if that client is just disconnecting

    async def _join(self, ticket: str, first: _Waiting, second: EdgeConnection) -> None:
        first.peer.set_result(second)
        try:
            with self._counted(first.connection, second):
                self.tickets.use(ticket)
                second.settle()
                await self._relay(first.connection, second)
        except RefusedError as error:
            await first.connection.close(1013, str(error)[:123])
            raise
        finally:
            first.over.set()

    @contextlib.contextmanager
    def _counted(self, *connections: EdgeConnection) -> Iterator[None]:
        """Count a pair, in total and for its addresses. Raises `RefusedError`."""
        if self._pairs >= MAX_PAIRS:
            raise RefusedError("this relay has too many sessions")
        with contextlib.ExitStack() as stack:
            for each in connections:
                stack.enter_context(self._held("pairs", each))
            self._pairs += 1
            try:
                yield
            finally:
                self._pairs -= 1

    @contextlib.contextmanager
    def _held(self, what: Held, connection: EdgeConnection) -> Iterator[None]:
        """Count `what` for the address of a connection. Raises `LimitError`."""
        if connection.remote_address is None:  # already closed
            yield
            return
        ip = Endpoint.of(connection.remote_address).ip
        self._limiter.hold(what, ip)
        try:
            yield
        finally:
            self._limiter.release(what, ip)

    async def _relay(self, one: EdgeConnection, other: EdgeConnection) -> None:
        self._report("relaying", pairs=self._pairs)
        pair, ended = _Pair(self._terms), ""
        try:
            for connection in (one, other):
                widen(connection.transport)
                await connection.send(encode(Joined()))
            async with asyncio.TaskGroup() as group:
                limit = group.create_task(pair.end())
                passing = [group.create_task(self._pass(*way, pair)) for way in ((one, other), (other, one))]
                await asyncio.wait(passing)
                limit.cancel()
        except* ConnectionClosed:
            pass
        except* _OverError as over:
            ended = str(over.exceptions[0])
        finally:
            code = POLICY_VIOLATION if ended else 1000
            await asyncio.gather(one.close(code, ended), other.close(code, ended))
            self._report("relayed", bytes=pair.passed, **({"ended": ended} if ended else {}))

    async def _reject(self, connection: EdgeConnection, reason: str) -> None:
        """Close one side of a pair that sent an invalid message."""
        if connection.remote_address is not None:
            self._report("rejected", public=str(Endpoint.of(connection.remote_address)), reason=reason, kind="frame")
        await connection.close(POLICY_VIOLATION, reason)

    async def _pass(self, source: EdgeConnection, sink: EdgeConnection, pair: _Pair) -> None:
        """Send each message from `source` to `sink` until `source` closes, then close `sink`."""
        loop = asyncio.get_running_loop()
        free_at = loop.time()
        async for message in source:
            if not isinstance(message, bytes):
                await self._reject(source, "expected a binary message")
                break
            await sink.send(message)
            pair.count(len(message))
            free_at = max(free_at, loop.time() - _BURST_S) + max(len(message), _LEAST_BYTES) / self._terms.rate
            if free_at > loop.time():
                await asyncio.sleep(free_at - loop.time())
        await sink.close()
