"""A bus through NATS servers, one or a cluster: for edge networks whose operators run NATS anyway, or too many edges to
link each to others by hand.

Core NATS only (no JetStream, no storage): servers deliver a message to who listens now, and forget it. So each endpoint
keeps what it published, as in a mesh, and says it again to whoever asks:

    punch.session.ID     what is said in session ID; every endpoint listens to all of them
    punch.sync           an endpoint that has (again) come to a server asks what it missed
    punch.edge.INSTANCE  what others answer to just that endpoint

Endpoints listen to all sessions rather than to those of their clients, because interest in a new subject takes a while
to reach the other servers of a cluster: two clients that register at the same moment would miss each other.

A message is lost when a server dies with it, or while servers are cut off from each other. After the death of a server
its endpoints come to another one, say again what they published, and ask. A cut between servers is seen by nobody; for
that, messages of sessions that still have a client here are said again, young ones every second, others every few
seconds. What comes twice is known by its id.

NATS is outside: all that comes is checked like any frame. Its servers can disturb sessions and see who meets whom, as
endpoints can; use its authentication to keep others out.
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

from punchlab.punch.edge.bus.interface import Callback, Unsubscribe
from punchlab.punch.edge.bus.memory import Kept, Memory
from punchlab.punch.edge.bus.natsclient import BoundedClient
from punchlab.punch.errors import FrameError
from punchlab.punch.events import Reporter
from punchlab.punch.frames import (
    MAX_FRAME,
    Body,
    Hello,
    Message,
    SessionId,
    hello_frame,
    message_frame,
    parse_hello,
    parse_message,
)
from punchlab.punch.text import printable

RESEND_S = 1.0
RESEND_OLD_S = 5.0  # messages that are as old
_CONNECT_TIMEOUT_S = 2
_RECONNECT_WAIT_S = 1  # between two tries at the same server; another one is tried at once
_PING_S = 2
_PATIENCE_S = 12.0  # for each server: TCP, TLS and two answers, and the wait before the next; then with a new client
_CLOSE_TIMEOUT_S = 2.0
_CANCEL_AGAIN_S = 0.5
_PENDING_BYTES = 8 << 20  # that have come and are not yet taken, for each subject; what is more is dropped
_PINGS = 2  # so many unanswered ones, and the server is taken for dead


class NatsBus:
    """One endpoint's part: a `Bus`. Connected to one of the `servers`, the first one by preference, while it runs."""

    def __init__(self, servers: Sequence[str], name: str, lifetime_s: float, report: Reporter) -> None:
        self._servers = list(servers)
        self._patience_s = _PATIENCE_S * len(self._servers)
        self._hello = Hello(name, secrets.token_hex(8))
        self._report = report
        self._memory = Memory(lifetime_s)
        self._outbox: asyncio.Queue[tuple[str, Kept]] = asyncio.Queue()
        self._at: str | None = None

    def publish(self, session: SessionId, body: Body) -> None:
        """See `Bus.publish`."""
        kept = Kept.own(session, body)
        if self._memory.keep(kept):
            self._outbox.put_nowait((_subject(session), kept))

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        """See `Bus.subscribe`."""
        return self._memory.subscribe(session, callback)

    async def run(self) -> None:
        """See `Bus.run`."""
        while True:
            client, closed = BoundedClient(), asyncio.Event()
            # Whatever a server says, and whatever the library raises about it, ends this one connection.
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
        # The server has to know what this listens to before anybody is told that it is there. The library's PING may
        # leave before the SUBs that wait to be written: only the answer to a second one comes after them.
        await client.flush()
        await client.flush()
        await self._arrive(client)

    async def _use(self, client: Client, closed: asyncio.Event) -> None:
        """Work until the client gives up, which it does only when a server turns it away."""
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
        """At a server, for the first time or again: say what may have been lost, ask for what was missed."""
        url = client.connected_url
        self._at = f"{url.hostname}:{url.port}" if url is not None else "a server"
        self._report("joined", peer=self._at)
        for kept in self._own():
            self._outbox.put_nowait((_subject(kept.message.session), kept))
        await client.publish("punch.sync", hello_frame(self._hello).encode())

    async def _on_disconnected(self) -> None:
        if self._at is not None:
            self._report("left", peer=self._at)
            self._at = None

    async def _on_error(self, error: Exception) -> None:
        self._report("bus_trouble", reason=printable(str(error) or type(error).__name__, 200))

    async def _write(self, client: Client) -> None:
        while True:
            subject, kept = await self._outbox.get()
            if not client.is_connected:
                continue  # all that is kept is said again as soon as there is a server
            message = kept.aged()
            await client.publish(subject, message_frame(message).encode())
            self._report("bus_sent", session=message.session, type=message.type, peer=self._at or "a server")

    async def _repeat(self) -> None:
        for number in itertools.count(1):
            await asyncio.sleep(RESEND_S)
            old = number % (RESEND_OLD_S // RESEND_S) == 0
            for kept in self._own():
                if self._memory.is_wanted(kept.message.session) and (old or kept.aged().age_s < RESEND_OLD_S):
                    self._outbox.put_nowait((_subject(kept.message.session), kept))

    async def _watch(self, client: Client) -> None:
        """Raises `TimeoutError` when the client has found no server for too long: then another one has to be made."""
        connected = time.monotonic()
        while True:
            await asyncio.sleep(_RECONNECT_WAIT_S)
            if client.is_connected:
                connected = time.monotonic()
            elif time.monotonic() - connected > self._patience_s:
                raise TimeoutError(f"no server for {self._patience_s:g} s")

    def _own(self) -> Iterator[Kept]:
        return (kept for kept in self._memory if kept.is_own)

    async def _on_sync(self, sent: Msg) -> None:
        with self._checked():
            asker = parse_hello(_text(sent))
            if asker.instance != self._hello.instance:
                for kept in self._own():
                    self._outbox.put_nowait((f"punch.edge.{asker.instance}", kept))

    async def _on_message(self, sent: Msg) -> None:
        with self._checked():
            message = parse_message(_text(sent))
            self._report("bus_received", session=message.session, type=message.type, peer=self._at or "a server")
            self._take(message)

    def _take(self, message: Message) -> None:
        kept = Kept.received(message, "nats")
        if self._memory.keep(kept):
            self._memory.tell(kept)

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except FrameError as error:
            self._report("rejected", public=self._at or "a server", reason=str(error))


async def _within(limit_s: float, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`. Raises `TimeoutError` if it takes longer, even where the library swallows a cancellation."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=limit_s)
        if not task.done():
            raise TimeoutError(f"no server for {limit_s:g} s")
        task.result()
    finally:
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # it may end while we leave
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_CANCEL_AGAIN_S)


def _subject(session: str) -> str:
    return f"punch.session.{session}"


def _text(sent: Msg) -> str:
    """The frame that a NATS message holds. Raises `FrameError`."""
    if len(sent.data) > MAX_FRAME:
        raise FrameError(f"expected a frame of at most {MAX_FRAME} bytes")
    try:
        return sent.data.decode()
    except UnicodeDecodeError:
        raise FrameError("expected UTF-8") from None
