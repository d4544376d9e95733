"""How two clients settle on one of the connections that hole punching may give them.

On every connection the two exchange hellos. The sender chooses the first on which that is done, by sending its proof on
it; the receiver verifies that and answers by its own, and this is the connection. If the chosen one dies before the
answer, the sender chooses the next. If the answer takes long, it chooses the next as well, and takes the answer that
comes first; the receiver answers once.

A receiver that has answered counts on that connection. So a sender whose time is up while it waits for the answer has
to wait on for a while, or each would go its own way (`settled`). For the receiver there is no such moment: where it
gives up before it is asked, it closes the connection, and the sender sees that.

Two hosts behind one address may meet on their LAN, or by way of the NAT, which turns them back: longer, and slower if
the NAT is a small box. Whichever is first is a matter of luck, so the sender gives the LAN a moment (`prefer`), as long
as others wait for what they like better: the Resolution Delay of RFC 8305 section 3, the pace of the checks of RFC 8445
section 14.2. On a LAN that is many round trips. All others choose at once. That moment does not depend on what answers
at the peer's private address: the edge, which names that address, sees when the client leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ChannelError, ConnectionLostError, WrongPeerError
from punchlab.punch.frames import Role
from punchlab.punch.punching.puncher import Connection, Verdict
from punchlab.punch.secure.channel import Channel, Introduction, Proofs, Stream, introduce
from punchlab.punch.secure.guesses import Exposure
from punchlab.punch.secure.keys import Introduced

PREFERENCE_S = 0.05
ANSWER_S = 3.0
"""A round trip of the slowest path, and a segment that is lost and sent again."""


class Agreement:
    """The choice of one connection among those that `examine` is called with; `chosen` gets it.

    `wrong_peers` says who spoke our protocol but does not hold the secret, by remote endpoint. What proofs take from
    the budget of guesses is in `exposure`.
    """

    def __init__(self, role: Role, exposure: Exposure) -> None:
        self._role = role
        self.exposure = exposure
        self._choosing = asyncio.Lock()
        self._undecided = 0
        self._decided = asyncio.Event()
        self._hopes: set[Endpoint] = set()
        self._hope_ended = asyncio.Event()
        self._introduced: Introduced | None = None
        self.chosen: asyncio.Future[tuple[Connection, Channel]] = asyncio.get_running_loop().create_future()
        self.wrong_peers: dict[str, str] = {}

    def begin(self, introduced: Introduced, finish_exchange: Callable[[], bytes]) -> None:
        """Compute the session key, in a thread, once. Call it before the first `examine`."""
        if self._introduced is not None:
            return
        self._introduced = introduced
        self._session_key = asyncio.get_running_loop().run_in_executor(None, finish_exchange)
        self._session_key.add_done_callback(_retrieve)

    def afresh(self) -> Agreement:
        """With the same key, another agreement, on other connections. Call `begin` before."""
        other = Agreement(self._role, self.exposure)
        other._introduced, other._session_key = self._introduced, self._session_key
        return other

    def prefer(self, remotes: Iterable[Endpoint]) -> None:
        """Give connections with these a moment's chance against those that come before them."""
        self._hopes = set(remotes)

    async def settled(self) -> None:
        """Return when no choice is under way, `ANSWER_S` from now at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                while self._undecided:
                    self._decided.clear()
                    await self._decided.wait()

    async def session_key(self) -> bytes:
        """The session key, once it is computed. Call `begin` before. Raises `WrongPeerError`."""
        return await asyncio.shield(self._session_key)  # a connection that ends must not take the key with it

    async def examine(self, connection: Connection) -> Verdict:
        """Authenticate a connection and offer it for the choice."""
        assert self._introduced is not None
        try:
            introduction = await introduce(Stream(connection.sock), self._role, self._introduced.tags)
            if self._role == "sender":
                with self._deciding():
                    await self._choose(connection, introduction)
            else:
                await self._answer(connection, introduction)
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

    async def _choose(self, connection: Connection, introduction: Introduction) -> None:
        """Prove, in turn, and hear the answer."""
        proofs = await self._proofs(introduction)
        await self._give_hopes_a_moment(connection.remote)
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

    async def _answer(self, connection: Connection, introduction: Introduction) -> None:
        """Prove to who has proved."""
        proofs = await self._proofs(introduction)
        try:
            channel = await self._verify(proofs)
        except WrongPeerError:
            await proofs.refuse()
            raise
        async with self._choosing:
            if not self.chosen.done():
                await proofs.prove()
                self._settle(connection, channel)

    async def _proofs(self, introduction: Introduction) -> Proofs:
        assert self._introduced is not None
        return introduction.agree(self._introduced.session, await self.session_key())

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

    async def _give_hopes_a_moment(self, remote: Endpoint) -> None:
        if remote in self._hopes:
            self._hopes.clear()  # it has come
            self._hope_ended.set()
        elif self._hopes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PREFERENCE_S):
                    await self._hope_ended.wait()


def _retrieve(future: asyncio.Future[bytes]) -> None:
    """If no connection ever came to need the key, what went wrong with it is of no interest."""
    if not future.cancelled():
        future.exception()
