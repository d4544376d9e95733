"""A bus over WebSocket links between endpoints.

Each endpoint keeps the messages of a session's lifetime (`memory`) and passes every message that it sees for the first
time on to its other neighbours; so any connected graph of links will do, and neither loops nor two links between the
same two endpoints (both joined each other) do harm: a message is known by its id. When a link comes up, each end sends
what it keeps, so nothing is lost when endpoints start in any order or a link breaks. A link that has gone deaf, or
hears but is not heard, is noticed by pings that nobody answers, and made anew.

A mesh has no passwords: whoever reaches an endpoint may join. That gives away who meets whom and lets sessions be
disturbed, but no more than that, since the secret never comes here.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from punchlab.punch.edge.bus.interface import Callback, Unsubscribe
from punchlab.punch.edge.bus.memory import Kept, Memory
from punchlab.punch.endpoint import EdgeUrl
from punchlab.punch.errors import FrameError, NoConnectionError
from punchlab.punch.events import Reporter
from punchlab.punch.frames import Body, Hello, SessionId, hello_frame, message_frame, parse_hello, parse_message
from punchlab.punch.net.websocket import abort, open_websocket, protocol_violation, until_deaf
from punchlab.punch.text import LONGEST_VALUE, printable

PATH = "/mesh"
HELLO_TIMEOUT_S = 10.0
DIAL_TIMEOUT_S = 5.0
PING_S = (2.0, 3.0)  # pause between two pings, and how long an answer may take
_BACKOFF_S = (0.1, 2.0)  # first and longest pause between two tries to join
_STEADY_S = 10.0  # a link that has lasted for so long is made anew at once

Connection = ClientConnection | ServerConnection


@dataclass(eq=False)
class _Link:
    """One WebSocket link that is up. Frames wait in `outbox` for its writer."""

    peer: Hello
    outbox: asyncio.Queue[Kept] = field(default_factory=asyncio.Queue)


class Mesh:
    """One endpoint's part of the mesh: a `Bus`. While it runs it links itself to those it joins; others link to it."""

    def __init__(self, name: str, lifetime_s: float, report: Reporter) -> None:
        self._hello = Hello(name, secrets.token_hex(8))
        self._report = report
        self._joined: list[EdgeUrl] = []
        self._memory = Memory(lifetime_s)
        self._links: dict[str, list[_Link]] = {}  # by the neighbour's instance; only the first of each is sent on

    def publish(self, session: SessionId, body: Body) -> None:
        """See `Bus.publish`."""
        self._take(Kept.own(session, body))

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        """See `Bus.subscribe`."""
        return self._memory.subscribe(session, callback)

    def join(self, url: EdgeUrl) -> None:
        """Link to the endpoint at `url` as well, from when this runs."""
        self._joined.append(url)

    async def run(self) -> None:
        """See `Bus.run`."""
        async with asyncio.TaskGroup() as links:
            for url in self._joined:
                links.create_task(self._maintain(url))
            await asyncio.Event().wait()

    async def _maintain(self, url: EdgeUrl) -> None:
        """Keep a link to the endpoint at `url` up, for ever. Returns only if that endpoint is this one.

        Whatever it answers ends one attempt. Why no link came about is reported once, and again when that changes.
        """
        pause = _BACKOFF_S[0]
        told = reason = ""

        def reject(why: str) -> None:
            nonlocal told, reason
            reason = printable(why, LONGEST_VALUE)
            if reason != told:
                self._report("not_joined", edge=str(url), reason=reason)
                told = reason

        while True:
            begun, reason = time.monotonic(), ""
            try:
                async with await open_websocket(url, PATH, timeout_s=DIAL_TIMEOUT_S) as connection:
                    if not await self._link(connection, reject):
                        return
            except NoConnectionError as error:
                reject(str(error))
            except Exception as error:  # the other links go on, whatever this is
                reject(f"{type(error).__name__}: {error}")
            told = reason
            if time.monotonic() - begun > _STEADY_S:
                pause = _BACKOFF_S[0]
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _BACKOFF_S[1])

    async def serve(self, connection: Connection, public: str) -> None:
        """Run a link that another endpoint has made until it ends."""
        await self._link(connection, lambda why: self._report("rejected", public=public, reason=why, kind="mesh"))

    async def _link(self, connection: Connection, reject: Callable[[str], None]) -> bool:
        """Run a link until it ends. False if the other end is this endpoint itself.

        `reject` gets the reason if that is what the other end sent, or did not send.
        """
        try:
            await connection.send(hello_frame(self._hello))
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                peer = parse_hello(await connection.recv())
            if peer.instance == self._hello.instance:
                await connection.close(1008, "this is the same endpoint")
                return False
            await self._run(connection, peer)
        except (FrameError, TimeoutError) as error:
            reason = str(error) or "no hello in time"
            reject(reason)
            await connection.close(1008, reason[:123])
        except ConnectionClosed as closed:
            if (violation := protocol_violation(closed)) is not None:
                reject(violation)
        return True

    async def _run(self, connection: Connection, peer: Hello) -> None:
        link = _Link(peer)
        self._up(link)
        tasks = [
            asyncio.create_task(self._write(connection, link)),
            asyncio.create_task(self._watch(connection, peer)),
        ]
        try:
            while True:
                message = parse_message(await connection.recv())
                self._report("bus_received", session=message.session, type=message.type, peer=peer.name)
                self._take(Kept.received(message, peer.instance))
        finally:
            self._down(link)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, connection: Connection, link: _Link) -> None:
        while True:
            message = (await link.outbox.get()).aged()
            await connection.send(message_frame(message))
            self._report("bus_sent", session=message.session, type=message.type, peer=link.peer.name)

    async def _watch(self, connection: Connection, peer: Hello) -> None:
        await until_deaf(connection, *PING_S)
        self._report("deaf", peer=peer.name)
        abort(connection)

    def _up(self, link: _Link) -> None:
        links = self._links.setdefault(link.peer.instance, [])
        links.append(link)
        if len(links) == 1:
            self._report("joined", peer=link.peer.name)
            self._send_kept(link)

    def _down(self, link: _Link) -> None:
        links = self._links[link.peer.instance]
        was_first = links[0] is link
        links.remove(link)
        if not links:
            del self._links[link.peer.instance]
            self._report("left", peer=link.peer.name)
        elif was_first:
            self._send_kept(links[0])

    def _send_kept(self, link: _Link) -> None:
        for kept in self._memory:
            if link.peer.instance not in kept.known_to:
                link.outbox.put_nowait(kept)

    def _take(self, kept: Kept) -> None:
        """Keep a new message, pass it on, and tell the subscribers if it came from elsewhere."""
        if not self._memory.keep(kept):
            return
        for instance, links in self._links.items():
            if instance not in kept.known_to:
                links[0].outbox.put_nowait(kept)
        if not kept.is_own:
            self._memory.tell(kept)
