"""How two clients agree on one of the connections that hole punching produces.

The clients exchange hellos on every connection. The sender chooses the first connection on which that is complete, by
sending its proof on it. The receiver verifies the proof and answers with its own; the clients have then agreed on this
connection. If the chosen connection fails before the answer, or if the answer is late, the sender also sends its proof
on the next one, and uses the connection of the first answer. The receiver answers only once.

A receiver that has answered uses that connection. A sender whose deadline passes while it waits for the answer must
therefore wait a little longer, or the two could disagree (`settled`). The receiver has no such state: if it gives up
before it receives a proof, it closes the connection, and the sender detects that.

Two hosts behind one public address may connect on their LAN or through the hairpinning of their NAT, which is longer,
and slower if the NAT is a small device. Either may come first, so the sender waits briefly for the LAN (`prefer`).
Comparable delays are the Resolution Delay of RFC 8305 section 3 and the pacing of checks in RFC 8445 section 14.2; on a
LAN this is many round trips. Other hosts do not wait. The delay does not depend on what answers at the peer's host
candidate, because the edge supplies that address and can observe when the client closes the rendezvous.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ChannelError, ConnectionLostError, WrongPeerError
from punchlab.punch.frames import Role
from punchlab.punch.punching.puncher import Connection, Verdict
from punchlab.punch.secure.channel import Channel, HelloExchange, Proofs, Stream, exchange_hellos
from punchlab.punch.secure.guesses import Exposure
from punchlab.punch.secure.keys import ContactTranscript

PREFERENCE_S = 0.05
ANSWER_S = 3.0
"""A round trip of the slowest path, plus one retransmission."""


class Agreement:
    """The choice of one connection among those passed to `examine`; `chosen` gets the result.

    `wrong_peers` maps the remote endpoints that speak this protocol without holding the secret to the reasons.
    `exposure` counts the proofs against the budget of guesses.
    """

    def __init__(self, role: Role, exposure: Exposure) -> None:
        self._role = role
        self.exposure = exposure
        self._choosing = asyncio.Lock()
        self._undecided = 0
        self._decided = asyncio.Event()
        self._preferred: set[Endpoint] = set()
        self._preferred_connected = asyncio.Event()
        self._transcript: ContactTranscript | None = None
        self.chosen: asyncio.Future[tuple[Connection, Channel]] = asyncio.get_running_loop().create_future()
        self.wrong_peers: dict[str, str] = {}

    def begin(self, transcript: ContactTranscript, finish_exchange: Callable[[], bytes]) -> None:
        """Compute the session key once, in a thread. Call it before the first `examine`."""
        if self._transcript is not None:
            return
        self._transcript = transcript
        self._session_key = asyncio.get_running_loop().run_in_executor(None, finish_exchange)
        self._session_key.add_done_callback(_retrieve)

    def restarted(self) -> Agreement:
        """Return a new agreement with the same key, for other connections. Call `begin` before."""
        other = Agreement(self._role, self.exposure)
        other._transcript, other._session_key = self._transcript, self._session_key
        return other

    def prefer(self, remotes: Iterable[Endpoint]) -> None:
        """Wait `PREFERENCE_S` for a connection with one of these endpoints before choosing another."""
        self._preferred = set(remotes)

    async def settled(self) -> None:
        """Return when no choice is pending, after at most `ANSWER_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                while self._undecided:
                    self._decided.clear()
                    await self._decided.wait()

    async def session_key(self) -> bytes:
        """Return the session key when it is computed. Call `begin` before. Raises `WrongPeerError`."""
        return await asyncio.shield(self._session_key)  # other connections need the key if this one ends

    async def examine(self, connection: Connection) -> Verdict:
        """Authenticate a connection and make it available for the choice."""
        assert self._transcript is not None
        try:
            hellos = await exchange_hellos(Stream(connection.sock), self._role, self._transcript.tags)
            if self._role == "sender":
                with self._deciding():
                    await self._choose(connection, hellos)
            else:
                await self._answer(connection, hellos)
        except ConnectionLostError:
            return "lost"
        except ChannelError as error:
            if isinstance(error, WrongPeerError):
                self.wrong_peers[str(connection.remote)] = str(error)
            return "stranger"
        return "kept"

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[None]:
        self._undecided += 1
        try:
            yield
        finally:
            self._undecided -= 1
            self._decided.set()

    async def _choose(self, connection: Connection, hellos: HelloExchange) -> None:
        """Send the proof when it is this connection's turn, and wait for the answer."""
        proofs = await self._proofs(hellos)
        await self._wait_for_preferred(connection.remote)
        async with contextlib.AsyncExitStack() as turn:
            await turn.enter_async_context(self._choosing)
            if self.chosen.done():
                return
            async with self.exposure.proving():
                await proofs.prove()
                answer = asyncio.ensure_future(self._verify(proofs))
                try:
                    await asyncio.wait((answer,), timeout=ANSWER_S)
                    await turn.aclose()
                    self._settle(connection, await answer)
                finally:
                    answer.cancel()

    async def _answer(self, connection: Connection, hellos: HelloExchange) -> None:
        """Verify the sender's proof, then send our own."""
        proofs = await self._proofs(hellos)
        try:
            channel = await self._verify(proofs)
        except WrongPeerError:
            await proofs.refuse()
            raise
        async with self._choosing:
            if not self.chosen.done():
                await proofs.prove()
                self._settle(connection, channel)

    async def _proofs(self, hellos: HelloExchange) -> Proofs:
        assert self._transcript is not None
        return hellos.agree(self._transcript.session, await self.session_key())

    async def _verify(self, proofs: Proofs) -> Channel:
        try:
            channel = await proofs.verify()
        except WrongPeerError:
            self.exposure.refute()
            raise
        self.exposure.confirm()
        return channel

    def _settle(self, connection: Connection, channel: Channel) -> None:
        if not self.chosen.done():
            self.chosen.set_result((connection, channel))

    async def _wait_for_preferred(self, remote: Endpoint) -> None:
        if remote in self._preferred:
            self._preferred.clear()  # no need to wait any more
            self._preferred_connected.set()
        elif self._preferred:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PREFERENCE_S):
                    await self._preferred_connected.wait()


def _retrieve(future: asyncio.Future[bytes]) -> None:
    """Retrieve the exception, so that asyncio does not log it if no connection needed the key."""
    if not future.cancelled():
        future.exception()
