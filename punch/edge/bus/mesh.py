"""A bus over WebSocket links between endpoints.

Each endpoint stores the messages of a session's lifetime (`store`) and forwards each new message to its other
neighbors. Any connected graph of links works; loops, and two links between the same endpoints (if both join each
other), do no harm, because messages are identified by an id. When a link is established, each end sends its stored
messages, so nothing is lost if endpoints start in any order or a link fails. Pings detect a link that no longer passes
packets in one direction or both. The endpoint then connects again.

A mesh has no authentication: every endpoint that can connect may join. A malicious endpoint sees which clients are
paired and can disturb sessions, but no more than that, because the secret is never sent to an edge.
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

from punchlab.punch.codec import decode, encode
from punchlab.punch.edge.bus.interface import Callback, Unsubscribe
from punchlab.punch.edge.bus.store import MessageStore, StoredMessage
from punchlab.punch.endpoint import EdgeUrl
from punchlab.punch.errors import FrameError, NoConnectionError
from punchlab.punch.events import Reporter
from punchlab.punch.frames import Body, Hello, Message, SessionId
from punchlab.punch.net.websocket import abort, open_websocket, protocol_violation, until_unresponsive
from punchlab.punch.text import LONGEST_VALUE, printable

PATH = "/mesh"
HELLO_TIMEOUT_S = 10.0
DIAL_TIMEOUT_S = 5.0
PING_S = (2.0, 3.0)  # interval between pings, and timeout of the answer
_BACKOFF_S = (0.1, 2.0)  # first and longest delay between connection attempts
_STEADY_S = 10.0  # a link that lasted this long is reconnected immediately

Connection = ClientConnection | ServerConnection


@dataclass(eq=False)
class _Link:
    """One established WebSocket link. `outbox` is the queue of its writer."""

    peer: Hello
    outbox: asyncio.Queue[StoredMessage] = field(default_factory=asyncio.Queue)


class Mesh:
    """The `Bus` of one endpoint. It connects to the endpoints that were passed to `join`; others connect to it."""

    def __init__(self, name: str, lifetime_s: float, report: Reporter) -> None:
        self._hello = Hello(name, secrets.token_hex(8))
        self._report = report
        self._joined: list[EdgeUrl] = []
        self._store = MessageStore(lifetime_s)
        self._links: dict[
            str, list[_Link]
        ] = {}  # by the neighbor's instance; only the first link of each is used for sending

    def publish(self, session: SessionId, body: Body) -> None:
        """See `Bus.publish`."""
        self._take(StoredMessage.own(session, body))

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        """See `Bus.subscribe`."""
        return self._store.subscribe(session, callback)

    def join(self, url: EdgeUrl) -> None:
        """Also connect to the endpoint at `url`, once `run` is called."""
        self._joined.append(url)

    async def run(self) -> None:
        """See `Bus.run`."""
        async with asyncio.TaskGroup() as links:
            for url in self._joined:
                links.create_task(self._maintain(url))
            await asyncio.Event().wait()

    async def _maintain(self, url: EdgeUrl) -> None:
        """Keep a link to the endpoint at `url`. Returns only if that endpoint is this one.

        Any invalid answer ends one attempt. The reason of a failure is reported once, and again when it changes.
        """
        pause = _BACKOFF_S[0]
        reported = reason = ""

        def reject(why: str) -> None:
            nonlocal reported, reason
            reason = printable(why, LONGEST_VALUE)
            if reason != reported:
                self._report("not_joined", edge=str(url), reason=reason)
                reported = reason

        while True:
            begun, reason = time.monotonic(), ""
            try:
                async with await open_websocket(url, PATH, timeout_s=DIAL_TIMEOUT_S) as connection:
                    if not await self._link(connection, reject):
                        return
            except NoConnectionError as error:
                reject(str(error))
            except Exception as error:  # must not end the other links
                reject(f"{type(error).__name__}: {error}")
            reported = reason
            if time.monotonic() - begun > _STEADY_S:
                pause = _BACKOFF_S[0]
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _BACKOFF_S[1])

    async def serve(self, connection: Connection, public: str) -> None:
        """Run a link that another endpoint has opened until it ends."""
        await self._link(connection, lambda why: self._report("rejected", public=public, reason=why, kind="mesh"))

    async def _link(self, connection: Connection, reject: Callable[[str], None]) -> bool:
        """Run a link until it ends. Returns False if the other end is this endpoint itself.

        `reject` is called with the reason if the other end violates the protocol or sends no hello.
        """
        try:
            await connection.send(encode(self._hello))
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                peer = decode(await connection.recv(), Hello)
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
                message = decode(await connection.recv(), Message)
                self._report("bus_received", session=message.session, type=message.body.TYPE, peer=peer.name)
                self._take(StoredMessage.received(message, peer.instance))
        finally:
            self._down(link)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, connection: Connection, link: _Link) -> None:
        while True:
            message = (await link.outbox.get()).aged()
            await connection.send(encode(message))
            self._report("bus_sent", session=message.session, type=message.body.TYPE, peer=link.peer.name)

    async def _watch(self, connection: Connection, peer: Hello) -> None:
        await until_unresponsive(connection, *PING_S)
        self._report("link_timed_out", peer=peer.name)
        abort(connection)

    def _up(self, link: _Link) -> None:
        links = self._links.setdefault(link.peer.instance, [])
        links.append(link)
        if len(links) == 1:
            self._report("joined", peer=link.peer.name)
            self._send_stored(link)

    def _down(self, link: _Link) -> None:
        links = self._links[link.peer.instance]
        was_first = links[0] is link
        links.remove(link)
        if not links:
            del self._links[link.peer.instance]
            self._report("left", peer=link.peer.name)
        elif was_first:
            self._send_stored(links[0])

    def _send_stored(self, link: _Link) -> None:
        for stored in self._store:
            if link.peer.instance not in stored.known_to:
                link.outbox.put_nowait(stored)

    def _take(self, stored: StoredMessage) -> None:
        """Store a new message, forward it, and deliver it to the subscribers if another endpoint published it."""
        if not self._store.add(stored):
            return
        for instance, links in self._links.items():
            if instance not in stored.known_to:
                links[0].outbox.put_nowait(stored)
        if not stored.is_own:
            self._store.deliver(stored)
