"""How often somebody may test a guess of the code: the budget of a session, and what one meeting takes from it.

Theory of operation
-------------------
A SPAKE2 message alone tests no guess: it is a uniformly random element of the group, whatever the code (Abdalla and
Pointcheval, CT-RSA 2005; RFC 9382). Who takes the peer's place commits to one guess in the message of their own, and
learns whether it is right from the first thing that depends on the session key: our proof on a connection, a sealed
signal, or our answer to such a thing of theirs. All of that is one guess as long as the key exchange is the same.

So nothing that depends on the session key leaves before it is drawn from the budget. The first thing of the peer's that
authenticates confirms the key of that meeting: who is there knows the code, what was drawn in the meeting is
returned, and nothing more is drawn. What is not confirmed is lost for the life of the session, over all of its
meetings, and a failure of the session after that says so (`Guesses.warning`). The budget counts proofs, not key
exchanges, and so more than guesses.

The sender proves first, on one connection at a time, and the receiver proves nothing to who has not: on an honest path
a proof is lost only if the path dies in the round trip between the two proofs, in a meeting that fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from punchlab.punch.errors import PunchFailedError, WrongPeerError

MAX_GUESSES = 2
SPENT = (
    "{count} authentications ended without the peer's valid proof: someone may be guessing the code; start both sides "
    "again with a new code"
)
TESTED = "someone may have tested a guess of the code: use a new code"


class Guesses:
    """The budget of one session, over all of its meetings; `limit` is None where the secret cannot be guessed."""

    def __init__(self, limit: int | None = MAX_GUESSES) -> None:
        self._limit = limit
        self._used = 0

    @property
    def spent(self) -> bool:
        """Whether nothing may be proved any more."""
        return self._limit is not None and self._used >= self._limit

    def take(self) -> bool:
        """Draw one, if one is left."""
        if self.spent:
            return False
        self._used += 1
        return True

    def give_back(self, count: int) -> None:
        """Return what was drawn for a peer that knows the code."""
        self._used -= count

    @contextlib.contextmanager
    def warning(self) -> Iterator[None]:
        """Add `TESTED` to the reason of a failure if something that was drawn has not been confirmed."""
        try:
            yield
        except PunchFailedError as error:
            told = TESTED in error.reason or str(self.error()) in error.reason
            if self._limit is not None and self._used and not told:
                error.add(TESTED)
            raise

    def error(self) -> WrongPeerError:
        """Why the session is over."""
        return WrongPeerError(SPENT.format(count=self._limit))


class Exposure:
    """What one meeting has drawn from the budget.

    `over` is done when nothing is left of it and nothing that was drawn can be confirmed any more.
    """

    def __init__(self, guesses: Guesses) -> None:
        self._guesses = guesses
        self._drawn = self._pending = 0
        self._signalled = False
        self._signalling = asyncio.Lock()
        self._news = asyncio.Event()
        self.confirmed = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @contextlib.asynccontextmanager
    async def proving(self) -> AsyncIterator[None]:
        """Draw for one proof, which ends with the context. Raises `WrongPeerError` if nothing is left."""
        await self._draw()
        try:
            yield
        finally:
            self._pending -= 1
            self._tell()

    async def signal(self) -> None:
        """Draw for the signals of this meeting, all of them together. Raises `WrongPeerError` if nothing is left."""
        async with self._signalling:
            if not self._signalled:
                await self._draw()
                self._signalled = True

    def confirm(self) -> None:
        """Something authenticates that only a peer that knows the code can have made."""
        self.confirmed = True
        self._guesses.give_back(self._drawn)
        self._drawn = 0
        self._tell()

    def refute(self) -> None:
        """Something does not authenticate: who made it has tested a guess, by our answer."""
        if not self.confirmed and not self._drawn and self._guesses.take():
            self._drawn = 1
        self._tell()

    async def _draw(self) -> None:
        while not self.confirmed and not self._guesses.take():
            if not self._pending:
                raise self._guesses.error()
            self._news.clear()
            await self._news.wait()
        self._drawn += not self.confirmed
        self._pending += 1

    def _tell(self) -> None:
        self._news.set()
        if self._guesses.spent and not self.confirmed and not self._pending and not self.over.done():
            self.over.set_result(None)
