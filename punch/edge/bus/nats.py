"""A bus over NATS servers, one or a cluster, for edge networks whose operators already run NATS, or with too many edges
to link by hand.

It uses core NATS only (no JetStream, no storage): servers deliver a message to the current subscribers and do not store
it. So each endpoint stores what it published, as in a mesh, and publishes it again on request:

    punch.session.ID     messages of session ID; every endpoint subscribes to all sessions
    punch.sync           an endpoint that has connected to a server requests what it missed
    punch.edge.INSTANCE  answers to this endpoint only

Endpoints subscribe to all sessions instead of those of their clients, because a new subscription takes a while to reach
the other servers of a cluster: two clients that register at the same moment would not get each other.

A message is lost if the server fails that holds it, or while the servers cannot reach each other. After the failure of
a server its endpoints connect to another one, publish their messages again and request what they missed. Endpoints
cannot detect a network partition between servers. Therefore messages of sessions that still have a client here are
repeated, new ones every second, older ones every few seconds. Duplicates are recognized by their id.

NATS is untrusted: every message is validated like any frame. Its servers can disturb sessions and see which clients are
paired, as endpoints can; use the authentication of NATS to exclude others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from punchlab.punch.codec import decode, encode
from punchlab.punch.edge.bus.interface import Callback, Unsubscribe
from punchlab.punch.edge.bus.natsclient import BoundedClient
from punchlab.punch.edge.bus.store import MessageStore, StoredMessage
from punchlab.punch.errors import FrameError
from punchlab.punch.events import Reporter
from punchlab.punch.frames import (
    MAX_FRAME,
    Body,
    Hello,
    Message,
    SessionId,
)
from punchlab.punch.text import printable

RESEND_S = 1.0
RESEND_OLD_S = 5.0  # for messages that are at least this old
_CONNECT_TIMEOUT_S = 2
_RECONNECT_WAIT_S = 1  # between two attempts at the same server; another server is tried immediately
_PING_S = 2
_PATIENCE_S = 12.0  # per server: TCP, TLS, two answers and the delay before the next one; then with a new client
_CLOSE_TIMEOUT_S = 2.0
_CANCEL_AGAIN_S = 0.5
_PENDING_BYTES = 8 << 20  # received but not yet processed, per subject; more are dropped
_PINGS = 2  # unanswered pings after which the server counts as dead


class NatsBus:
    """The `Bus` of one endpoint. While it runs, it is connected to one of the `servers`, by preference the first."""

    def __init__(self, servers: Sequence[str], name: str, lifetime_s: float, report: Reporter) -> None:
        self._servers = list(servers)
        self._patience_s = _PATIENCE_S * len(self._servers)
        self._hello = Hello(name, secrets.token_hex(8))
        self._report = report
        self._store = MessageStore(lifetime_s)
        self._outbox: asyncio.Queue[tuple[str, StoredMessage]] = asyncio.Queue()
        self._at: str | None = None

    def publish(self, session: SessionId, body: Body) -> None:
        """See `Bus.publish`."""
        stored = StoredMessage.own(session, body)
        if self._store.add(stored):
            self._outbox.put_nowait((_subject(session), stored))

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        """See `Bus.subscribe`."""
        return self._store.subscribe(session, callback)

    async def run(self) -> None:
        """See `Bus.run`."""
        while True:
            client, closed = BoundedClient(), asyncio.Event()
            # Any error that a server causes in the library ends only this connection.
            try:
                await self._connect(client, closed)
                await self._use(client, closed)
            except Exception as error:
                await self._on_error(error)
            finally:
                with contextlib.suppress(Exception):
                    await _within(_CLOSE_TIMEOUT_S, client.close())
            await asyncio.sleep(_RECONNECT_WAIT_S)

    async def _connect(self, client: Client, closed: asyncio.Event) -> None:
        async def on_closed() -> None:
            closed.set()

        async def on_reconnected() -> None:
            await self._arrive(client)

        connecting = client.connect(
            self._servers,
            name=self._hello.name,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=on_reconnected,
            closed_cb=on_closed,
            connect_timeout=_CONNECT_TIMEOUT_S,
            reconnect_time_wait=_RECONNECT_WAIT_S,
            max_reconnect_attempts=-1,
            ping_interval=_PING_S,
            max_outstanding_pings=_PINGS,
            dont_randomize=True,
            no_echo=True,
        )
        await _within(self._patience_s, connecting)
        for subject, callback in (
            (_subject("*"), self._on_message),
            (f"punch.edge.{self._hello.instance}", self._on_message),
            ("punch.sync", self._on_sync),
        ):
            await client.subscribe(subject, cb=callback, pending_bytes_limit=_PENDING_BYTES)
        # The server must have these subscriptions before the endpoint announces itself. The library's PING may be sent
        # before the SUBs that are still buffered; only the answer to a second PING follows them.
        await client.flush()
        await client.flush()
        await self._arrive(client)

    async def _use(self, client: Client, closed: asyncio.Event) -> None:
        """Work until the client closes, which happens only if a server rejects it."""
        tasks = [
            asyncio.create_task(closed.wait()),
            asyncio.create_task(self._write(client)),
            asyncio.create_task(self._repeat()),
            asyncio.create_task(self._watch(client)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _arrive(self, client: Client) -> None:
        """On each connection to a server, publish again messages that may be lost, and request missed ones."""
        url = client.connected_url
        self._at = f"{url.hostname}:{url.port}" if url is not None else "a server"
        self._report("joined", peer=self._at)
        for stored in self._own():
            self._outbox.put_nowait((_subject(stored.message.session), stored))
        await client.publish("punch.sync", encode(self._hello).encode())

    async def _on_disconnected(self) -> None:
        if self._at is not None:
            self._report("left", peer=self._at)
            self._at = None

    async def _on_error(self, error: Exception) -> None:
        self._report("bus_error", reason=printable(str(error) or type(error).__name__, 200))

    async def _write(self, client: Client) -> None:
        while True:
            subject, stored = await self._outbox.get()
            if not client.is_connected:
                continue  # all stored messages are published again on the next connection
            message = stored.aged()
            await client.publish(subject, encode(message).encode())
            self._report("bus_sent", session=message.session, type=message.body.TYPE, peer=self._at or "a server")

    async def _repeat(self) -> None:
        for number in itertools.count(1):
            await asyncio.sleep(RESEND_S)
            old = number % (RESEND_OLD_S // RESEND_S) == 0
            for stored in self._own():
                if self._store.has_subscribers(stored.message.session) and (old or stored.aged().age_s < RESEND_OLD_S):
                    self._outbox.put_nowait((_subject(stored.message.session), stored))

    async def _watch(self, client: Client) -> None:
        """Raise `TimeoutError` if the client has been without a server for too long, so that it is replaced."""
        connected = time.monotonic()
        while True:
            await asyncio.sleep(_RECONNECT_WAIT_S)
            if client.is_connected:
                connected = time.monotonic()
            elif time.monotonic() - connected > self._patience_s:
                raise TimeoutError(f"no server for {self._patience_s:g} s")

    def _own(self) -> Iterator[StoredMessage]:
        return (stored for stored in self._store if stored.is_own)

    async def _on_sync(self, sent: Msg) -> None:
        with self._checked():
            asker = decode(_text(sent), Hello)
            if asker.instance != self._hello.instance:
                for stored in self._own():
                    self._outbox.put_nowait((f"punch.edge.{asker.instance}", stored))

    async def _on_message(self, sent: Msg) -> None:
        with self._checked():
            message = decode(_text(sent), Message)
            self._report("bus_received", session=message.session, type=message.body.TYPE, peer=self._at or "a server")
            self._take(message)

    def _take(self, message: Message) -> None:
        stored = StoredMessage.received(message, "nats")
        if self._store.add(stored):
            self._store.deliver(stored)

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except FrameError as error:
            self._report("rejected", public=self._at or "a server", reason=str(error))


async def _within(limit_s: float, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`. Raises `TimeoutError` if it takes longer, even if the library swallows a cancellation."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=limit_s)
        if not task.done():
            raise TimeoutError(f"no server for {limit_s:g} s")
        task.result()
    finally:
        task.add_done_callback(
            lambda ended: ended.cancelled() or ended.exception()
        )  # it may end while this function returns
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_CANCEL_AGAIN_S)


def _subject(session: str) -> str:
    return f"punch.session.{session}"


def _text(sent: Msg) -> str:
    """Return the frame in a NATS message. Raises `FrameError`."""
    if len(sent.data) > MAX_FRAME:
        raise FrameError(f"expected a frame of at most {MAX_FRAME} bytes")
    try:
        return sent.data.decode()
    except UnicodeDecodeError:
        raise FrameError("expected UTF-8") from None
