"""Who may use the relay of an edge: two clients that have met, of which one at least is registered at this edge.

A client at this edge has a ticket, which is made of its session and its name, so that it is the same one when the
client registers again. The edge gives it to the client itself, and with the client's contact to its peer, who may be at
another edge. It opens the relay from the moment when the client is given its peer until `KEPT_S` after the client has
left, and for one pair of connections only: clients whose tunnel breaks meet again, with new names and a new ticket.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from punchlab.punch.errors import RefusedError

KEPT_S = 60.0
EARLY_S = 5.0
"""How long a ticket waits to be opened: a peer at another edge may hear of the client here before that hears of it."""
MAX_LEFT = 10_000  # tickets of clients that have left; the oldest are forgotten first
_DIGITS = 32


@dataclass(eq=False)
class _Ticket:
    clients: int = 0  # registrations; two while a client registers again and its old connection is still there
    met: asyncio.Event = field(default_factory=asyncio.Event)


class Tickets:
    """The tickets of clients that are here, and of those that have left a short time ago. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock
        self._here: dict[str, _Ticket] = {}
        self._left: OrderedDict[str, float] = OrderedDict()  # ticket -> when it ends, the first to end first

    def __len__(self) -> int:
        return len(self._here) + len(self._left)

    @contextlib.contextmanager
    def issue(self, session: str, client: str) -> Iterator[str]:
        """The ticket of a client, 32 hex digits, for as long as it is registered here."""
        ticket = hmac.digest(self._key, f"{session} {client}".encode(), "sha256").hex()[:_DIGITS]
        held = self._here.setdefault(ticket, _Ticket())
        held.clients += 1
        if self._left.pop(ticket, None) is not None:
            held.met.set()
        try:
            yield ticket
        finally:
            held.clients -= 1
            if not held.clients:
                del self._here[ticket]
                self._leave(ticket, held)

    def open(self, ticket: str) -> None:
        """The client has been given its peer."""
        self._here[ticket].met.set()

    def _leave(self, ticket: str, held: _Ticket) -> None:
        if held.met.is_set():
            self._left[ticket] = self._clock() + KEPT_S
            while len(self._left) > MAX_LEFT:
                self._left.popitem(last=False)

    async def check(self, ticket: str) -> None:
        """Return when it is open. Raises `RefusedError` for one that is not, and is not about to be."""
        now = self._clock()
        while self._left and next(iter(self._left.values())) <= now:
            self._left.popitem(last=False)
        if ticket in self._left:
            return
        held = self._here.get(ticket)
        try:
            if held is None:
                raise TimeoutError
            async with asyncio.timeout(EARLY_S):
                await held.met.wait()
        except TimeoutError:
            text = "the ticket is not that of two clients who have met, or it was used before"
            raise RefusedError(text) from None

    def use(self, ticket: str) -> None:
        """It has joined two clients, and is good no more. Raises `RefusedError` if it was not good any more."""
        held = self._here.get(ticket)
        if held is not None and held.met.is_set():
            held.met.clear()
        elif self._left.pop(ticket, None) is None:
            raise RefusedError("the ticket was used before")
