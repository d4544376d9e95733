"""The limit on guesses of the code: the budget of a session, and what one punch charges to it.

Theory of operation
-------------------
A SPAKE2 message alone tests no guess: it is a uniformly random element of the group for every code (Abdalla and
Pointcheval, CT-RSA 2005; RFC 9382). An attacker who takes the peer's place commits to one guess in its own message. It
learns whether the guess is right from the first data that depend on the session key: our proof on a connection, our
signal, or our answer to a proof or signal of the attacker. All of these are one guess as long as the key exchange is
the same.

Therefore data that depend on the session key are sent only after they are charged to the budget. The first valid proof
or signal of the peer confirms the key: the other end knows the code, so the charges of this punch are returned and no
further ones are made. Charges that are not confirmed remain for the session, including all of its punches, and a later
failure of the session reports them (`Guesses.warning`). The budget counts proofs rather than key exchanges, which is at
least the number of guesses.

The sender sends its proof first, on one connection at a time, and the receiver sends no proof to an end that has not
authenticated. With an honest peer, a charge remains only if the path fails within the round trip between the two
proofs, and the punch fails.
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
    """The budget of one session, for all of its punches; `limit` is None if the secret cannot be guessed."""

    def __init__(self, limit: int | None = MAX_GUESSES) -> None:
        self._limit = limit
        self._used = 0

    @property
    def spent(self) -> bool:
        """Whether no proof may be sent any more."""
        return self._limit is not None and self._used >= self._limit

    def take(self) -> bool:
        """Charge one guess and return True, if the budget allows it."""
        if self.spent:
            return False
        self._used += 1
        return True

    def give_back(self, count: int) -> None:
        """Return the charges for a peer that knows the code."""
        self._used -= count

    @contextlib.contextmanager
    def warning(self) -> Iterator[None]:
        """Add `TESTED` to the reason of a failure if a charge has not been confirmed."""
        try:
            yield
        except PunchFailedError as error:
            reported = TESTED in error.reason or str(self.error()) in error.reason
            if self._limit is not None and self._used and not reported:
                error.add(TESTED)
            raise

    def error(self) -> WrongPeerError:
        """Return the error of a session whose budget is spent."""
        return WrongPeerError(SPENT.format(count=self._limit))


class Exposure:
    """The charges of one punch to the budget.

    `over` is done when the budget is spent and no pending proof can be confirmed any more.
    """

    def __init__(self, guesses: Guesses) -> None:
        self._guesses = guesses
        self._drawn = self._pending = 0
        self._signalled = False
        self._signalling = asyncio.Lock()
        self._changed = asyncio.Event()
        self.confirmed = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @contextlib.asynccontextmanager
    async def proving(self) -> AsyncIterator[None]:
        """Charge one proof, which is pending within the context. Raises `WrongPeerError` if the budget is spent."""
        await self._draw()
        try:
            yield
        finally:
            self._pending -= 1
            self._notify()

    async def signal(self) -> None:
        """Charge the signals of this punch, once for all of them. Raises `WrongPeerError` if the budget is spent."""
        async with self._signalling:
            if not self._signalled:
                await self._draw()
                self._signalled = True

    def confirm(self) -> None:
        """Record a valid proof or signal of a peer that knows the code, and return the charges."""
        self.confirmed = True
        self._guesses.give_back(self._drawn)
        self._drawn = 0
        self._notify()

    def refute(self) -> None:
        """Record an invalid proof or signal; its author tests a guess by our answer."""
        if not self.confirmed and not self._drawn and self._guesses.take():
            self._drawn = 1
        self._notify()

    async def _draw(self) -> None:
        while not self.confirmed and not self._guesses.take():
            if not self._pending:
                raise self._guesses.error()
            self._changed.clear()
            await self._changed.wait()
        self._drawn += not self.confirmed
        self._pending += 1

    def _notify(self) -> None:
        self._changed.set()
        if self._guesses.spent and not self.confirmed and not self._pending and not self.over.done():
            self.over.set_result(None)
