"""The messages of a bus that an endpoint stores: those of each session, without duplicates, for the session's lifetime.

A message is sent with its age, and each endpoint computes from that, on its own monotonic clock, when it was published.
So it expires everywhere at the same time, cannot live on by circulating, and the endpoints need no synchronized clocks.
(The transit time, less than a second, makes a message appear younger.)

Anybody can cause messages, by registering and leaving. If there is no room, the oldest message is replaced by a new
one, so that clients that register at about the same time still get each other. A message older than all others is
rejected, so that a replaced one does not come back and circulate forever.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from punchlab.punch.codec import encode
from punchlab.punch.edge.bus.interface import Callback, Unsubscribe
from punchlab.punch.frames import Body, Message, SessionId

MAX_STORED = 50_000  # messages in total
MAX_STORED_BYTES = 64 * 1024 * 1024  # memory for messages
MAX_STORED_PER_SESSION = 256  # the signals of both clients, and some rounds of announcements


@dataclass(eq=False)
class StoredMessage:
    """A message, the instant at which it was published (on this machine's monotonic clock), and the endpoints that have
    it.

    Endpoints are identified by their instance; `known_to` is empty for messages of this endpoint.
    """

    message: Message
    published: float
    known_to: set[str] = field(default_factory=set)

    @classmethod
    def own(cls, session: SessionId, body: Body) -> StoredMessage:
        """Return a message of this endpoint that is published now."""
        return cls(Message(secrets.token_hex(8), session, 0.0, body), time.monotonic())

    @classmethod
    def received(cls, message: Message, sender: str) -> StoredMessage:
        """Return a message that another endpoint has sent."""
        return cls(message, time.monotonic() - message.age_s, {sender})

    @functools.cached_property
    def cost(self) -> int:
        """How many bytes of memory the message needs at most, mostly for the objects that represent its frame."""
        return 1600 + 5 * len(encode(self.message)) // 2

    @property
    def is_own(self) -> bool:
        """Whether this endpoint published it."""
        return not self.known_to

    def aged(self) -> Message:
        """Return the message with its current age."""
        return Message(self.message.id, self.message.session, time.monotonic() - self.published, self.message.body)


class MessageStore:
    """The messages of the last `lifetime_s` seconds, and the subscribers of each session."""

    def __init__(self, lifetime_s: float) -> None:
        self._lifetime_s = lifetime_s
        self._stored: dict[SessionId, dict[str, StoredMessage]] = {}
        self._oldest: list[tuple[float, SessionId, str]] = []  # a heap; its first entry is always a stored message
        self._expiries: dict[tuple[SessionId, str], asyncio.TimerHandle] = {}
        self._cost = 0
        self._subscribers: dict[SessionId, list[Callback]] = {}

    def __iter__(self) -> Iterator[StoredMessage]:
        for session in list(self._stored.values()):
            yield from list(session.values())

    def add(self, stored: StoredMessage) -> bool:
        """Store a message; return whether it was new and there was room for it."""
        session, left = stored.message.session, stored.published + self._lifetime_s - time.monotonic()
        messages = self._stored.get(session, {})
        known = messages.get(stored.message.id)
        if known is not None:
            if not known.is_own:
                known.known_to |= stored.known_to
            return False
        if left <= 0 or len(messages) >= MAX_STORED_PER_SESSION:
            return False
        while len(self._expiries) >= MAX_STORED or self._cost + stored.cost > MAX_STORED_BYTES:
            if not self._make_room(stored.published):
                return False
        self._cost += stored.cost
        identity = session, stored.message.id
        self._stored.setdefault(session, {})[stored.message.id] = stored
        heapq.heappush(self._oldest, (stored.published, *identity))
        self._expiries[identity] = asyncio.get_running_loop().call_later(left, self._remove, *identity)
        return True

    def _make_room(self, published: float) -> bool:
        """Remove the oldest message if it is older than a message published at that instant."""
        if not self._oldest or self._oldest[0][0] >= published:
            return False
        _, session, message = self._oldest[0]
        self._remove(session, message)
        return True

    def deliver(self, stored: StoredMessage) -> None:
        """Pass a message from another endpoint to the subscribers of its session."""
        for callback in list(self._subscribers.get(stored.message.session, ())):
            callback(stored.message.body, stored.message.age_s)

    def has_subscribers(self, session: SessionId) -> bool:
        """Return whether the session has a subscriber here."""
        return session in self._subscribers

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        """See `Bus.subscribe`."""
        for stored in sorted(self._stored.get(session, {}).values(), key=lambda each: each.published):
            callback(stored.message.body, time.monotonic() - stored.published)
        self._subscribers.setdefault(session, []).append(callback)

        def unsubscribe() -> None:
            self._subscribers[session].remove(callback)
            if not self._subscribers[session]:
                del self._subscribers[session]

        return unsubscribe

    def _remove(self, session: SessionId, message: str) -> None:
        self._expiries.pop((session, message)).cancel()
        self._cost -= self._stored[session].pop(message).cost
        if not self._stored[session]:
            del self._stored[session]
        while self._oldest and self._oldest[0][1:] not in self._expiries:
            heapq.heappop(self._oldest)
