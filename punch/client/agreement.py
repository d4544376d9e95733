"""How two clients settle on one of the connections that hole punching may give them.

Every connection is authenticated. The sender chooses the first that is, and says so on it; the receiver confirms on
it. If the chosen one dies before it is confirmed, the sender chooses the next.

A receiver that has confirmed counts on that connection. So a sender whose time is up while it waits for the answer has
to wait on for a while, or each would go its own way (`settled`). For the receiver there is no such moment: where it
gives up before it is asked, it closes the connection, and the sender sees that.

Two hosts behind one address may meet on their LAN, or by way of the NAT, which turns them back: longer, and slower if
the NAT is a small box. Whichever is first is a matter of luck, so the sender gives the LAN a moment (`prefer`), as long
as others wait for what they like better: the Resolution Delay of RFC 8305 section 3, the pace of the checks of RFC 8445
section 14.2. On a LAN that is many round trips. All others choose at once. That moment is the same whoever answers at
the peer's private address: the edge, which names that address, sees when the client leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator

from punch.client.channel import Channel, Kind, Stream, handshake
from punch.client.puncher import Connection, Verdict
from punch.endpoint import Endpoint
from punch.errors import ChannelError, ConnectionLostError, WrongPeerError
from punch.frames import Role, SessionId

PREFERENCE_S = 0.05
CONFIRM_S = 3.0
"""A round trip of the slowest path, and a segment that is lost and sent again."""


class Agreement:
    """The choice of one connection among those that `examine` is called with; `chosen` gets it.

    `wrong_peers` says who spoke our protocol but does not hold the secret, by remote endpoint.
    """

    def __init__(self, session: SessionId, role: Role) -> None:
        self._session = session
        self._role = role
        self._choosing = asyncio.Lock()
        self._undecided = 0
        self._decided = asyncio.Event()
        self._hopes: set[Endpoint] = set()
        self._hope_ended = asyncio.Event()
        self._begun = False
        self.chosen: asyncio.Future[tuple[Connection, Channel]] = asyncio.get_running_loop().create_future()
        self.wrong_peers: dict[str, str] = {}

    def begin(self, finish_exchange: Callable[[], bytes]) -> None:
        """Compute the session key, in a thread, once. Call it before the first `examine`."""
        if self._begun:
            return
        self._begun = True
        self._session_key = asyncio.get_running_loop().run_in_executor(None, finish_exchange)
        self._session_key.add_done_callback(_retrieve)

    def afresh(self) -> Agreement:
        """With the same key, another agreement, on other connections. Call `begin` before."""
        other = Agreement(self._session, self._role)
        other._begun, other._session_key = True, self._session_key
        return other

    def prefer(self, remotes: Iterable[Endpoint]) -> None:
        """Give connections with these a moment's chance against those that are authenticated before them."""
        self._hopes = set(remotes)

    async def settled(self) -> None:
        """Return when no choice is under way, `CONFIRM_S` from now at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_S):
                while self._undecided:
                    self._decided.clear()
                    await self._decided.wait()

    async def session_key(self) -> bytes:
        """The session key, once it is computed. Call `begin` before. Raises `WrongPeerError`."""
        return await asyncio.shield(self._session_key)

    async def examine(self, connection: Connection) -> Verdict:
        """Authenticate a connection and offer it for the choice."""
        try:
            key = asyncio.shield(self._session_key)  # a connection that ends must not take the key with it
            channel = await handshake(Stream(connection.sock), self._session, self._role, key)
            if self._role == "sender":
                with self._deciding():
                    await self._choose(connection.remote, channel)
            else:
                await channel.expect(Kind.CHOOSE)
                await channel.send(Kind.CONFIRM)
        except ConnectionLostError:
            return "lost"
        except ChannelError as error:
            if isinstance(error, WrongPeerError):
                self.wrong_peers[str(connection.remote)] = str(error)
            return "stranger"
        if not self.chosen.done():
            self.chosen.set_result((connection, channel))
        return "kept"

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[None]:
        self._undecided += 1
        try:
            yield
        finally:
            self._undecided -= 1
            self._decided.set()

    async def _choose(self, remote: Endpoint, channel: Channel) -> None:
        if remote in self._hopes:
            self._hopes.clear()  # it has come
            self._hope_ended.set()
        elif self._hopes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PREFERENCE_S):
                    await self._hope_ended.wait()
        async with self._choosing:
            if self.chosen.done():
                return
            await channel.send(Kind.CHOOSE)
            await channel.expect(Kind.CONFIRM)


def _retrieve(future: asyncio.Future[bytes]) -> None:
    """If no connection ever came to need the key, what went wrong with it is of no interest."""
    if not future.cancelled():
        future.exception()
