"""The relay of last resort: bytes between two clients that could not be brought together, through this endpoint.

Only an endpoint whose operator wants it relays, and only for clients that both ask for it by `--relay`. Each opens a
WebSocket at `/relay` and names the token that both derive from their session key (which the edge never learns): two
connections with one token are joined, and whatever comes on one goes out on the other. What passes is the same
encrypted and authenticated channel as over a punched connection, so a relay can cut it and count it, but neither read
nor change it.

    client -> edge   relay   {token}
    edge -> client   joined  {}           the peer is there; binary messages from now on

Nothing is stored: a message is taken from one side when the other has room for it, at most `rate` bytes per second
and direction (a short message counts as `_LEAST_BYTES`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from punch.edge.connection import POLICY_VIOLATION
from punch.endpoint import EdgeUrl, Endpoint
from punch.errors import RefusedError
from punch.events import Reporter
from punch.relay import joined_frame, parse_relay

MAX_WAITING = 1000  # clients whose peer has not come
MAX_PAIRS = 200
WAIT_S = 30.0
DEFAULT_RATE = 1_000_000.0
_LEAST_BYTES = 1024  # what a message counts at least: each has its price, also one with nothing in it
_BURST_S = 0.1  # how many seconds' worth may pass at once


@dataclass(eq=False)
class _Waiting:
    """A client whose peer has not come yet; `peer` gets the peer's connection, `over` when the two are done."""

    connection: ServerConnection
    peer: asyncio.Future[ServerConnection] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class RelayOffer:
    """`url` is where clients anywhere reach this endpoint itself (no anycast address), `rate` in bytes per second."""

    url: EdgeUrl
    rate: float = DEFAULT_RATE


class Relay:
    """Joins clients. `rate` is in bytes per second, for each direction of each pair."""

    def __init__(self, rate: float, report: Reporter) -> None:
        self._rate = rate
        self._report = report
        self._waiting: dict[str, _Waiting] = {}
        self._pairs = 0

    async def serve(self, connection: ServerConnection) -> None:
        """Serve one client until it leaves. Raises `FrameError`, `RefusedError`, `TimeoutError`, `ConnectionClosed`."""
        async with asyncio.timeout(WAIT_S):
            token = parse_relay(await connection.recv())
        first = self._waiting.pop(token, None)
        if first is None:
            await self._wait(token, connection)
        else:
            await self._join(first, connection)

    async def _wait(self, token: str, connection: ServerConnection) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise RefusedError("this relay has too many clients")
        waiting = self._waiting[token] = _Waiting(connection)
        gone = asyncio.create_task(connection.wait_closed())
        try:
            await asyncio.wait((waiting.peer, gone), timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
            if waiting.peer.done():
                await waiting.over.wait()  # the peer's task does the work
            elif not gone.done():
                raise RefusedError(f"the peer did not come to the relay within {WAIT_S:g} s")
        finally:
            gone.cancel()
            if self._waiting.get(token) is waiting:
                del self._waiting[token]

    async def _join(self, first: _Waiting, second: ServerConnection) -> None:
        first.peer.set_result(second)
        try:
            if self._pairs >= MAX_PAIRS:
                await first.connection.close(1013, "this relay has too many sessions")
                raise RefusedError("this relay has too many sessions")
            self._pairs += 1
            try:
                await self._relay(first.connection, second)
            finally:
                self._pairs -= 1
        finally:
            first.over.set()

    async def _relay(self, one: ServerConnection, other: ServerConnection) -> None:
        self._report("relaying", pairs=self._pairs)
        passed = [0, 0]
        try:
            for connection in (one, other):
                await connection.send(joined_frame())
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(one, other, passed, 0))
                group.create_task(self._pass(other, one, passed, 1))
        except* ConnectionClosed:
            pass
        finally:
            await asyncio.gather(one.close(), other.close())
            self._report("relayed", bytes=sum(passed))

    async def _reject(self, connection: ServerConnection, reason: str) -> None:
        """End one side of a pair, for what it sent."""
        if connection.remote_address is not None:
            self._report("rejected", public=str(Endpoint.of(connection.remote_address)), reason=reason, kind="frame")
        await connection.close(POLICY_VIOLATION, reason)

    async def _pass(self, source: ServerConnection, sink: ServerConnection, passed: list[int], index: int) -> None:
        """Everything from `source` to `sink`, until `source` ends; then `sink` is ended too."""
        loop = asyncio.get_running_loop()
        free_at = loop.time()
        async for message in source:
            if not isinstance(message, bytes):
                await self._reject(source, "expected a binary message on a relay")
                break
            await sink.send(message)
            passed[index] += len(message)
            free_at = max(free_at, loop.time() - _BURST_S) + max(len(message), _LEAST_BYTES) / self._rate
            if free_at > loop.time():
                await asyncio.sleep(free_at - loop.time())
        await sink.close()
