"""What an endpoint remembers of a bus: the messages of each session, once each, for as long as a session lives.

A message travels with its age, and each endpoint reckons from that, on its own monotonic clock, when it was published.
So it is forgotten at the same time everywhere, cannot live on by being passed around, and the endpoints' clocks need
not agree. (The way from one endpoint to the next makes it seem younger, by less than a second.)

Anybody can have messages published, by registering and leaving again. So when there is no room the oldest message makes
way for a new one: clients that come at about the same time still meet. A message that is older than all the others is
not taken in: one that has made way does not come back and go round for ever.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from punchlab.punch.edge.bus.interface import Callback, Unsubscribe
from punchlab.punch.frames import Body, Message, SessionId, message_frame

MAX_KEPT = 50_000  # messages, in all
MAX_KEPT_BYTES = 64 * 1024 * 1024  # of memory for them
MAX_KEPT_PER_SESSION = 256  # the signals of both clients, and some rounds of announcements


@dataclass(eq=False)
class Kept:
    """A message, when it was published (on this machine's monotonic clock), and which endpoints had it first.

    Those are known by their instance; there are none if the message is this endpoint's own.
    """

    message: Message
    published: float
    known_to: set[str] = field(default_factory=set)

    @classmethod
    def own(cls, session: SessionId, body: Body) -> Kept:
        """A message that is published now."""
        return cls(Message(secrets.token_hex(8), session, 0.0, body), time.monotonic())

    @classmethod
    def received(cls, message: Message, sender: str) -> Kept:
        """A message that has just come from another endpoint."""
        return cls(message, time.monotonic() - message.age_s, {sender})

    @functools.cached_property
    def cost(self) -> int:
        """How many bytes of memory it needs, at most: mostly those of the objects around what is in its frame."""
        return 1600 + 5 * len(message_frame(self.message)) // 2

    @property
    def is_own(self) -> bool:
        """Whether it was published here."""
        return not self.known_to

    def aged(self) -> Message:
        """The message with the age that it has now."""
        return Message(self.message.id, self.message.session, time.monotonic() - self.published, self.message.body)


class Memory:
    """The messages of the last `lifetime_s` seconds, and who wants to hear of them."""

    def __init__(self, lifetime_s: float) -> None:
        self._lifetime_s = lifetime_s
        self._kept: dict[SessionId, dict[str, Kept]] = {}
        self._oldest: list[tuple[float, SessionId, str]] = []  # a heap; its first one is always there
        self._expiries: dict[tuple[SessionId, str], asyncio.TimerHandle] = {}
        self._cost = 0
        self._subscribers: dict[SessionId, list[Callback]] = {}

    def __iter__(self) -> Iterator[Kept]:
        for session in list(self._kept.values()):
            yield from list(session.values())

    def keep(self, kept: Kept) -> bool:
        """Take in a message; whether it was new, and there was a place for it."""
        session, left = kept.message.session, kept.published + self._lifetime_s - time.monotonic()
        messages = self._kept.get(session, {})
        known = messages.get(kept.message.id)
        if known is not None:
            if not known.is_own:
                known.known_to |= kept.known_to
            return False
        if left <= 0 or len(messages) >= MAX_KEPT_PER_SESSION:
            return False
        while len(self._expiries) >= MAX_KEPT or self._cost + kept.cost > MAX_KEPT_BYTES:
            if not self._make_room(kept.published):
                return False
        self._cost += kept.cost
        identity = session, kept.message.id
        self._kept.setdefault(session, {})[kept.message.id] = kept
        heapq.heappush(self._oldest, (kept.published, *identity))
        self._expiries[identity] = asyncio.get_running_loop().call_later(left, self._forget, *identity)
        return True

    def _make_room(self, published: float) -> bool:
        """Forget the oldest message, if it is older than one that was published then."""
        if not self._oldest or self._oldest[0][0] >= published:
            return False
        _, session, message = self._oldest[0]
        self._forget(session, message)
        return True

    def tell(self, kept: Kept) -> None:
        """Hand a message from elsewhere to the subscribers of its session."""
        for callback in list(self._subscribers.get(kept.message.session, ())):
            callback(kept.message.body, kept.message.age_s)

    def is_wanted(self, session: SessionId) -> bool:
        """Whether anybody here subscribes to the session."""
        return session in self._subscribers

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        """See `Bus.subscribe`."""
        for kept in sorted(self._kept.get(session, {}).values(), key=lambda each: each.published):
            callback(kept.message.body, time.monotonic() - kept.published)
        self._subscribers.setdefault(session, []).append(callback)

        def unsubscribe() -> None:
            self._subscribers[session].remove(callback)
            if not self._subscribers[session]:
                del self._subscribers[session]

        return unsubscribe

    def _forget(self, session: SessionId, message: str) -> None:
        self._expiries.pop((session, message)).cancel()
        self._cost -= self._kept[session].pop(message).cost
        if not self._kept[session]:
            del self._kept[session]
        while self._oldest and self._oldest[0][1:] not in self._expiries:
            heapq.heappop(self._oldest)
