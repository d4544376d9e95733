"""How two clients settle on one of the connections that hole punching may give them.

Every connection is authenticated. The sender chooses the first that is, and says so on it; the receiver confirms on
it. If the chosen one dies before it is confirmed, the sender chooses the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from punch.client.channel import Channel, Kind, Stream, handshake
from punch.client.puncher import Connection, Verdict
from punch.errors import ChannelError, ConnectionLostError, WrongPeerError
from punch.frames import Role, SessionId


class Agreement:
    """The choice of one connection among those that `examine` is called with; `chosen` gets it.

    `wrong_peers` says who spoke our protocol but does not hold the secret, by remote endpoint.
    """

    def __init__(self, session: SessionId, role: Role) -> None:
        self._session = session
        self._role = role
        self._choosing = asyncio.Lock()
        self.chosen: asyncio.Future[tuple[Connection, Channel]] = asyncio.get_running_loop().create_future()
        self.wrong_peers: dict[str, str] = {}

    def begin(self, finish_exchange: Callable[[], bytes]) -> None:
        """Compute the session key, in a thread. Call it before the first `examine`, with the first SYN on its way."""
        self._session_key = asyncio.get_running_loop().run_in_executor(None, finish_exchange)
        self._session_key.add_done_callback(_retrieve)

    async def examine(self, connection: Connection) -> Verdict:
        """Authenticate a connection and offer it for the choice."""
        try:
            key = asyncio.shield(self._session_key)  # a connection that ends must not take the key with it
            channel = await handshake(Stream(connection.sock), self._session, self._role, key)
            if self._role == "sender":
                await self._choose(channel)
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

    async def _choose(self, channel: Channel) -> None:
        async with self._choosing:
            if self.chosen.done():
                return
            await channel.send(Kind.CHOOSE)
            await channel.expect(Kind.CONFIRM)


def _retrieve(future: asyncio.Future[bytes]) -> None:
    """If no connection ever came to need the key, what went wrong with it is of no interest."""
    if not future.cancelled():
        future.exception()
