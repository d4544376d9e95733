"""An edge that guesses a code: it acts as the peer, receives a proof of the code, and disconnects without sending its
own.

In the sessions that `plan` calls a guess, it names itself at many addresses as the peer, also connects to the victim,
and offers its own relay. In the others, it introduces the real peer through a proxy and cuts the tunnel after a while,
so that both register again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Literal

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from punchlab.punch.codec import encode
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ConnectionLostError, StrangerError, WrongPeerError
from punchlab.punch.fields import Json
from punchlab.punch.frames import MAX_PRIVATE, Role
from punchlab.punch.relay import Joined
from punchlab.punch.secure.channel import Stream, exchange_hellos
from punchlab.punch.secure.code import Code
from punchlab.punch.secure.keys import ContactTranscript, PakeExchange
from scenarios.hostile.edge import OTHER

IP = "127.0.0.7"
ADDRESSES = 1 + MAX_PRIVATE
DIALS = 8
_PAUSE_S = 0.02

Step = Literal["cut", "guess", "whole"]
"""A session with the real peer whose tunnel is cut, one with the attacker, and one that is left alone."""


@dataclass
class Learned:
    """What the attacker has obtained."""

    proofs: int = 0
    """The number of messages on connections that test a guess."""
    signals: set[int] = field(default_factory=set)
    """The sessions with a sealed signal, which also tests a guess."""
    meetings: int = 0
    found: bool = False
    """Whether the guess was right."""


@dataclass(eq=False)
class _Client:
    """A registration."""

    connection: ServerConnection
    register: Json

    @property
    def address(self) -> Endpoint:
        return Endpoint(*self.connection.remote_address[:2])

    async def tell(self, public: Endpoint, private: Sequence[Endpoint], told: Json) -> None:
        contact = {"public": str(public), "private": [str(each) for each in private], **told}
        await self.connection.send(json.dumps({"type": "peer", **contact, "via": "local"}))


class Guesser:
    """See the module. The last step of `plan` is repeated.

    A guess takes at most `per_meeting` proofs. `told` are additional fields of the attacker's description.
    """

    def __init__(
        self, victim: Role, guess: Code, plan: Sequence[Step], *, per_meeting: int, cut_after: int, told: Json
    ) -> None:
        self.learned = Learned()
        self._victim, self._guess = victim, guess
        self._plan, self._per_meeting, self._cut_after, self._told = plan, per_meeting, cut_after, told
        self._peers: asyncio.Queue[_Client] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._proxies: contextlib.AsyncExitStack
        self._left = 0
        self._at_once = asyncio.Semaphore(per_meeting)
        self._attack: tuple[ContactTranscript, bytes] | None = None
        self._listeners = [socket.create_server((IP, 0)) for _ in range(ADDRESSES)]
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve until the context ends."""
        async with contextlib.AsyncExitStack() as stack:
            self._proxies = stack
            for each in self._listeners:
                stack.enter_context(each).setblocking(False)
                self._spawn(self._accept(each))
            server = await serve(self._serve, "127.0.0.1", 0)
            self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield
            finally:
                server.close()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _serve(self, connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            if connection.request is not None and connection.request.path == "/relay":
                await self._relay(connection)
                return
            client = _Client(connection, json.loads(await connection.recv()))
            public = str(client.address)
            await connection.send(json.dumps({"type": "welcome", "edge": "guesser", "public": public}))
            if client.register["role"] != self._victim:
                self._peers.put_nowait(client)
                await connection.wait_closed()
                return
            number = self.learned.meetings
            self.learned.meetings += 1
            step = self._plan[min(number, len(self._plan) - 1)]
            await (self._try_a_guess(client, number) if step == "guess" else self._introduce(client, cut=step == "cut"))

    async def _try_a_guess(self, client: _Client, number: int) -> None:
        exchange = PakeExchange(self._guess, OTHER[self._victim])
        own, theirs = (
            (exchange.message, self._told.get("traits")),
            (client.register["pake"], client.register.get("traits")),
        )
        introduced = ContactTranscript.of(exchange.session, OTHER[self._victim], own, theirs)
        key = introduced.bound(exchange.finish(client.register["pake"]))
        self._attack, self._left = (introduced, key), self._per_meeting
        public, *private = (Endpoint(*each.getsockname()) for each in self._listeners)
        relay = {"relay": self.url} if self._told.get("relay") else {}
        await client.tell(public, private, {"pake": exchange.message, **self._told, **relay})
        for _ in range(DIALS):
            self._spawn(self._dial(client.address, client.connection))
        async for frame in client.connection:
            if json.loads(frame)["type"] == "signal":
                self.learned.signals.add(number)

    async def _dial(self, victim: Endpoint, as_long_as: ServerConnection) -> None:
        loop = asyncio.get_running_loop()
        while as_long_as.state is State.OPEN:
            with socket.socket() as sock:
                sock.setblocking(False)
                with contextlib.suppress(OSError):
                    await loop.sock_connect(sock, victim)
                    await self._take_a_proof(sock)
            await asyncio.sleep(_PAUSE_S)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setblocking(False)

            async def serve_one(sock: socket.socket) -> None:
                with sock:
                    await self._take_a_proof(sock)

            self._spawn(serve_one(sock))

    async def _take_a_proof(self, sock: socket.socket) -> None:
        """Wait for the victim's proof, compare it with the guess, and disconnect."""
        async with self._at_once:
            if self._attack is None or self._left <= 0:
                return
            introduced, key = self._attack
            try:
                introduction = await exchange_hellos(Stream(sock), OTHER[self._victim], introduced.tags)
                await introduction.agree(introduced.session, key).verify()
            except (ConnectionLostError, StrangerError):
                return
            except WrongPeerError:
                pass
            else:
                self.learned.found = True
            self._left -= 1
            self.learned.proofs += 1

    async def _relay(self, connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(encode(Joined()))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            loop = asyncio.get_running_loop()

            async def out() -> None:
                while data := await loop.sock_recv(theirs, 4096):
                    await connection.send(data)

            async def back() -> None:
                async for message in connection:
                    await loop.sock_sendall(theirs, message if isinstance(message, bytes) else message.encode())
                theirs.shutdown(socket.SHUT_WR)

            carrying = [asyncio.create_task(out()), asyncio.create_task(back())]
            await self._take_a_proof(ours)
            for each in carrying:
                each.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)

    async def _introduce(self, client: _Client, *, cut: bool) -> None:
        """Introduce the victim to its peer through a proxy to which only the victim connects."""
        peer = await self._peers.get()
        nowhere = Endpoint(IP, 9)

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int | None) -> None:
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
                count = None if count is None else count - len(data)
                if count is not None and count <= 0:
                    raise ConnectionError
            writer.close()

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                peer_reader, peer_writer = await asyncio.open_connection(*peer.address)
                count = self._cut_after if cut else None
                try:
                    await asyncio.gather(carry(reader, peer_writer, count), carry(peer_reader, writer, count))
                finally:
                    writer.transport.abort()
                    peer_writer.transport.abort()

        proxy = await self._proxies.enter_async_context(await asyncio.start_server(between, IP, 0))
        at = Endpoint(*proxy.sockets[0].getsockname())
        fields = [{name: each.register.get(name) for name in ("pake", "traits")} for each in (client, peer)]
        await peer.tell(nowhere, [], fields[0])
        await client.tell(at, [], fields[1])
        for pair in ((client, peer), (peer, client)):
            self._spawn(_pass_on(*pair))
        await client.connection.wait_closed()


async def _pass_on(source: _Client, target: _Client) -> None:
    """Forward signals unchanged."""
    with contextlib.suppress(ConnectionClosed):
        async for frame in source.connection:
            await target.connection.send(frame)
