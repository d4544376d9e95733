"""Tickets for the relay: only two paired clients may use it, of which at least one is registered at this edge.

Each client at this edge has a ticket, derived from its session and its name, so that it is the same when the client
registers again. The edge sends it to the client itself, and in the client's contact to its peer, which may be at
another edge. The ticket becomes valid when the client receives its peer, stays valid until `KEPT_S` after the client
has left, and admits one pair of connections. Clients whose tunnel breaks register again with new names and get a new
ticket.
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
"""How long `check` waits for a ticket to become valid: a peer at another edge may get its peer before the client here
does."""
MAX_LEFT = 10_000  # tickets of clients that have left; the oldest are removed first
_DIGITS = 32


@dataclass(eq=False)
class _Ticket:
    clients: int = 0  # registrations; two while a client registers again and its old connection is still open
    opened: asyncio.Event = field(default_factory=asyncio.Event)


class Tickets:
    """The tickets of the clients that are registered, and of those that left recently. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock
        self._here: dict[str, _Ticket] = {}
        self._left: OrderedDict[str, float] = OrderedDict()  # ticket -> when it expires, in that order

    def __len__(self) -> int:
        return len(self._here) + len(self._left)

    @contextlib.contextmanager
    def issue(self, session: str, client: str) -> Iterator[str]:
        """Yield the ticket of a client, 32 hex digits; it exists while the client is registered here."""
        ticket = hmac.digest(self._key, f"{session} {client}".encode(), "sha256").hex()[:_DIGITS]
        held = self._here.setdefault(ticket, _Ticket())
        held.clients += 1
        if self._left.pop(ticket, None) is not None:
            held.opened.set()
        try:
            yield ticket
        finally:
            held.clients -= 1
            if not held.clients:
                del self._here[ticket]
                self._leave(ticket, held)

    def open(self, ticket: str) -> None:
        """Make the ticket valid, because the client has received its peer."""
        self._here[ticket].opened.set()

    def _leave(self, ticket: str, held: _Ticket) -> None:
        if held.opened.is_set():
            self._left[ticket] = self._clock() + KEPT_S
            while len(self._left) > MAX_LEFT:
                self._left.popitem(last=False)

    async def check(self, ticket: str) -> None:
        """Wait until the ticket is valid. Raises `RefusedError` if it is not valid within `EARLY_S`."""
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
                await held.opened.wait()
        except TimeoutError:
            text = "the ticket does not belong to two paired clients, or it was used before"
            raise RefusedError(text) from None

    def use(self, ticket: str) -> None:
        """Invalidate the ticket, because it has joined two clients. Raises `RefusedError` if it was not valid."""
        held = self._here.get(ticket)
        if held is not None and held.opened.is_set():
            held.opened.clear()
        elif self._left.pop(ticket, None) is None:
            raise RefusedError("the ticket was used before")
