"""A bus over WebSocket links between endpoints.

Each endpoint keeps the messages of the last `lifetime_s` seconds and passes every message that it sees for the first
time on to its other neighbours; so any connected graph of links will do, and neither loops nor two links between the
same two endpoints (both joined each other) do harm: a message is known by its id. When a link comes up, each end sends
what it keeps, so nothing is lost when endpoints start in any order or a link breaks. A message travels with its age;
it is forgotten at the same time everywhere, and cannot live on by being passed around.

A mesh has no passwords: whoever reaches an endpoint may join. That gives away who meets whom and lets sessions be
disturbed, but no more than that, since the secret never comes here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
import time
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from punch.edge.bus import Callback, Unsubscribe
from punch.endpoint import EdgeUrl
from punch.errors import FrameError
from punch.events import Reporter
from punch.frames import (
    Body,
    Hello,
    Message,
    SessionId,
    hello_frame,
    message_frame,
    parse_hello,
    parse_message,
)
from punch.websocket import open_websocket, resolve

PATH = "/mesh"
MAX_KEPT = 50_000  # messages, in all
MAX_KEPT_PER_SESSION = 64
HELLO_TIMEOUT_S = 10.0
DIAL_TIMEOUT_S = 5.0
_BACKOFF_S = (0.1, 5.0)  # first and longest pause between two tries to join

Connection = ClientConnection | ServerConnection


@dataclass(eq=False)
class _Kept:
    """A message, when it was published (on this machine's monotonic clock), and which neighbours had it first."""

    message: Message
    published: float
    known_to: set[str] = field(default_factory=set)


@dataclass(eq=False)
class _Link:
    """One WebSocket link that is up. Frames wait in `outbox` for its writer."""

    peer: Hello
    outbox: asyncio.Queue[_Kept] = field(default_factory=asyncio.Queue)


class Mesh:
    """One endpoint's part of the mesh: a `Bus`."""

    def __init__(self, name: str, lifetime_s: float, report: Reporter) -> None:
        self._hello = Hello(name, secrets.token_hex(8))
        self._lifetime_s = lifetime_s
        self._report = report
        self._kept: dict[SessionId, dict[str, _Kept]] = {}
        self._count = 0
        self._subscribers: dict[SessionId, list[Callback]] = {}
        self._links: dict[str, list[_Link]] = {}  # by the neighbour's instance; only the first of each is sent on

    def publish(self, session: SessionId, body: Body) -> None:
        """See `Bus.publish`."""
        self._keep(_Kept(Message(secrets.token_hex(8), session, 0.0, body), time.monotonic()))

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        """See `Bus.subscribe`."""
        for kept in list(self._kept.get(session, {}).values()):
            callback(kept.message.body)
        self._subscribers.setdefault(session, []).append(callback)

        def unsubscribe() -> None:
            self._subscribers[session].remove(callback)
            if not self._subscribers[session]:
                del self._subscribers[session]

        return unsubscribe

    async def maintain(self, url: EdgeUrl) -> None:
        """Keep a link to the endpoint at `url` up, for ever. Returns only if that endpoint is this one."""
        pause = _BACKOFF_S[0]
        while True:
            # A peer that is not there yet, or went away, is no news: try again.
            with contextlib.suppress(OSError, TimeoutError, WebSocketException):
                async with await self._dial(url) as connection:
                    pause = _BACKOFF_S[0]
                    if not await self.serve(connection, str(url)):
                        return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _BACKOFF_S[1])

    async def _dial(self, url: EdgeUrl) -> ClientConnection:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            address = await resolve(url)
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await asyncio.get_running_loop().sock_connect(sock, address)
                return await open_websocket(sock, url, PATH, ping_interval_s=10)
            except BaseException:
                sock.close()
                raise

    async def serve(self, connection: Connection, public: str) -> bool:
        """Run a link until it ends. False if the other end is this endpoint itself."""
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
            self._report("rejected", public=public, reason=reason)
            await connection.close(1008, reason[:123])
        except ConnectionClosed as closed:
            if closed.sent is not None and not closed.rcvd_then_sent and closed.sent.code not in (1000, 1001):
                self._report("rejected", public=public, reason=closed.sent.reason)
        return True

    async def _run(self, connection: Connection, peer: Hello) -> None:
        link = _Link(peer)
        self._up(link)
        writer = asyncio.create_task(self._write(connection, link))
        try:
            while True:
                message = parse_message(await connection.recv())
                self._report("bus_received", session=message.session, type=message.type, peer=peer.name)
                self._keep(_Kept(message, time.monotonic() - message.age_s, {peer.instance}))
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await writer
            self._down(link)

    async def _write(self, connection: Connection, link: _Link) -> None:
        while True:
            kept = await link.outbox.get()
            message = kept.message
            aged = Message(message.id, message.session, time.monotonic() - kept.published, message.body)
            await connection.send(message_frame(aged))
            self._report("bus_sent", session=message.session, type=message.type, peer=link.peer.name)

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
        for session in self._kept.values():
            for kept in session.values():
                if link.peer.instance not in kept.known_to:
                    link.outbox.put_nowait(kept)

    def _keep(self, kept: _Kept) -> None:
        """Keep a new message, tell the subscribers if it came from elsewhere, and pass it on."""
        session, left = kept.message.session, kept.published + self._lifetime_s - time.monotonic()
        messages = self._kept.get(session, {})
        known = messages.get(kept.message.id)
        if known is not None:
            known.known_to |= kept.known_to
            return
        if left <= 0 or self._count >= MAX_KEPT or len(messages) >= MAX_KEPT_PER_SESSION:
            return
        self._kept.setdefault(session, {})[kept.message.id] = kept
        self._count += 1
        asyncio.get_running_loop().call_later(left, self._forget, session, kept.message.id)
        for instance, links in self._links.items():
            if instance not in kept.known_to:
                links[0].outbox.put_nowait(kept)
        if kept.known_to:
            for callback in list(self._subscribers.get(session, ())):
                callback(kept.message.body)

    def _forget(self, session: SessionId, message: str) -> None:
        del self._kept[session][message]
        self._count -= 1
        if not self._kept[session]:
            del self._kept[session]
