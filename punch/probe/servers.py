"""Where a probe looks from: STUN endpoints at one or two addresses, and edges that knock.

A server is either an edge, `ws[s]://HOST:PORT`, which names its STUN endpoints and dials back when asked, or any STUN
server, `stun:HOST[:PORT]` (RFC 7064), which names its other address if it is made for behavior discovery (RFC 5780).

The endpoints that a server names are used at the address that it was reached at. Those at other addresses, of which
RFC 5780 needs one, cannot be known to be its own. They have to be such as a server may name (`punch.net.reach`),
two addresses at most, and one that has not answered as a STUN server is tried twice in a session and no more
(`punch.punching.quota`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from punchlab.punch.endpoint import HOST_NAME, EdgeUrl, Endpoint
from punchlab.punch.errors import ArgumentError, EdgeUnreachableError, FrameError, NoConnectionError
from punchlab.punch.nat.probe import NotTested
from punchlab.punch.net.reach import Reach, refuses_server_port
from punchlab.punch.net.sockets import source_address
from punchlab.punch.net.websocket import abort, open_websocket, protocol_violation, resolve, why
from punchlab.punch.probe import stun
from punchlab.punch.probe.frames import (
    PATH,
    Dial,
    Dialled,
    Refused,
    Transport,
    Vantage,
    dial_frame,
    parse_outcome,
    parse_vantage,
)
from punchlab.punch.probe.udpsocket import UdpSocket
from punchlab.punch.punching.named import Named
from punchlab.punch.punching.quota import Servers as Uses
from punchlab.punch.text import printable

CONNECT_TIMEOUT_S = 5.0
MAX_ADDRESSES = 2
"""At which a server has endpoints."""
_STUN_URI = re.compile(rf"stun:(?P<host>{HOST_NAME})(?::(?P<port>[0-9]{{1,5}}))?")


@dataclass(frozen=True, slots=True)
class StunUri:
    """`stun:host:port`, RFC 7064."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"stun:{self.host}:{self.port}"


def parse_server(text: str) -> EdgeUrl | StunUri:
    """A server as the user typed it. Raises `ArgumentError`."""
    if text.startswith(("ws:", "wss:")):
        return EdgeUrl.parse(text)
    match = _STUN_URI.fullmatch(text)
    port = stun.PORT if match is None or match["port"] is None else int(match["port"])
    if match is None or not 1 <= port <= 65535:
        raise ArgumentError("edge", text, "ws://HOST:PORT or stun:HOST:PORT")
    return StunUri(match["host"], port)


class Knocker:
    """A connection to an edge that knocks from outside. Made by `connect`; always `close` it."""

    def __init__(self, connection: ClientConnection, vantage: Vantage) -> None:
        self.vantage = vantage
        self.local, self.remote = (
            Endpoint.of(address) for address in (connection.local_address, connection.remote_address)
        )
        self._connection = connection
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[Dialled | Refused]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, url: EdgeUrl) -> Knocker:
        """Raises `EdgeUnreachableError` if no edge answers there, or one that does not probe."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await open_websocket(url, PATH, timeout_s=CONNECT_TIMEOUT_S, families=(socket.AF_INET,))
                try:
                    return cls(connection, parse_vantage(await connection.recv()))
                except BaseException:
                    abort(connection)
                    raise
        except NoConnectionError as error:
            reason = "it runs without --stun" if error.status == HTTPStatus.NOT_FOUND else str(error)
        except TimeoutError:
            reason = f"no answer within {CONNECT_TIMEOUT_S:g} s"
        except FrameError as error:
            reason = str(error)
        except ConnectionClosed as closed:
            told = printable(closed.rcvd.reason) if closed.rcvd is not None else protocol_violation(closed)
            reason = told or "it closed the connection"
        raise EdgeUnreachableError(str(url), reason)

    async def knock(self, transport: Transport, ip: str, target: Endpoint, patience_s: float) -> Dialled | NotTested:
        """Have the edge dial `target` from a fresh port of its address `ip`."""
        if target.ip != self.vantage.public.ip:
            return NotTested(f"the edge sees this host at {self.vantage.public.ip}, and dials no other address")
        identity = next(self._ids)
        self._waiting[identity] = outcome = asyncio.get_running_loop().create_future()
        try:
            await self._connection.send(dial_frame(Dial(identity, transport, ip, target.port, patience_s)))
            await asyncio.wait([outcome], timeout=patience_s + CONNECT_TIMEOUT_S)
        except ConnectionClosed:
            pass
        finally:
            self._waiting.pop(identity, None)
        if not outcome.done():
            return NotTested("the edge does not answer the wish to dial")
        answer = outcome.result()
        return NotTested(f"the edge refused: {answer.reason}") if isinstance(answer, Refused) else answer

    async def close(self) -> None:
        """Leave the edge."""
        await self._connection.close()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed, FrameError):
            while True:
                told = parse_outcome(await self._connection.recv())
                future = self._waiting.get(told.id)
                if future is not None and not future.done():
                    future.set_result(told)


@dataclass(frozen=True, slots=True)
class Servers:
    """What RFC 5780 calls Da:Dp, Da:Ap, Aa:Dp and Aa:Ap, as far as they are to be had.

    `changes`: the primary answers from the other ones when asked by CHANGE-REQUEST. `knockers` by edge address.
    `named` are those at other addresses than the primary one.
    """

    primary: Endpoint
    other_port: Endpoint | None
    other_address: Endpoint | None
    other_both: Endpoint | None
    changes: bool
    knockers: dict[str, Knocker]
    named: Named

    def answered(self, endpoint: Endpoint) -> None:
        """There is a STUN server."""
        self.named.answered(endpoint.ip)

    @property
    def endpoints(self) -> list[Endpoint | None]:
        """Primary, other port, other address, other address and port."""
        return [self.primary, self.other_port, self.other_address, self.other_both]

    @property
    def knocks(self) -> list[Knocker]:
        """Every edge once."""
        return list(dict.fromkeys(self.knockers.values()))

    async def knock(
        self, transport: Transport, origin: Endpoint, target: Endpoint, patience_s: float
    ) -> Dialled | NotTested:
        """Have the edge at that address dial `target`, from there but from a fresh port."""
        knocker = self.knockers.get(origin.ip)
        if knocker is None:
            return NotTested("a STUN server does not dial back; an edge (ws://) does")
        return await knocker.knock(transport, origin.ip, target, patience_s)

    async def close(self) -> None:
        """Leave every edge."""
        await asyncio.gather(*(knocker.close() for knocker in self.knocks))


async def find(wanted: Sequence[EdgeUrl | StunUri], uses: Uses | None = None) -> Servers:
    """Ask every server what it has. The first one that has a second address serves alone, else the first two do.

    `uses` counts those of addresses that a server only names, over a session. Raises `EdgeUnreachableError`.
    """
    uses = uses or Uses()
    found: list[tuple[list[Endpoint], Reach, Knocker | None]] = []
    try:
        for each in wanted:
            if isinstance(each, EdgeUrl):
                knocker = await Knocker.connect(each)
                reach = Reach.of(knocker.local, knocker.remote.ip)
                found.append((list(knocker.vantage.stun), reach, knocker))
            else:
                found.append((*await _ask(each), None))
        servers = [
            (_usable(endpoints, named := Named(reach, uses), typed=knocker is None), named, knocker)
            for endpoints, reach, knocker in found
        ]
        for url, (usable, *_others) in zip(wanted, servers, strict=True):
            if not usable:
                raise EdgeUnreachableError(str(url), "it names STUN servers only at addresses that cannot be its own")
    except BaseException:
        await asyncio.gather(*(knocker.close() for *_others, knocker in found if knocker is not None))
        raise
    servers.sort(key=lambda server: len(server[0]) != 4)
    knockers = {each.ip: knocker for usable, _, knocker in reversed(servers) if knocker for each in usable}
    first, named, _knocker = servers[0]
    alone = len(first) == 4
    second = first[2:] if alone else next((each for each, *_ in servers[1:] if each[0].ip != first[0].ip), [])
    other_address, other_both, *_rest = [*second, None, None]
    other_port = first[1] if len(first) > 1 else None
    return Servers(first[0], other_port, other_address, other_both, changes=alone, knockers=knockers, named=named)


def _usable(endpoints: Sequence[Endpoint], named: Named, *, typed: bool) -> list[Endpoint]:
    """Those of a server's endpoints that packets may go to, with this once more; the user may have `typed` the first.

    An address with a port that none may go to is left out as a whole: two ports belong together.
    """
    ips = list(dict.fromkeys(each.ip for each in endpoints))[:MAX_ADDRESSES]
    others = endpoints[1:] if typed else endpoints
    strange = {each.ip for each in others if refuses_server_port(each.port) is not None}
    allowed = {ip for ip in ips if ip not in strange and named.refuses(ip) is None}
    return [each for each in endpoints if each.ip in allowed]


async def _ask(uri: StunUri) -> tuple[list[Endpoint], Reach]:
    """The endpoints of a STUN server: its own alone, or all four."""
    try:
        primary = await resolve(EdgeUrl(uri.host, uri.port), socket.AF_INET)
        own = Endpoint(source_address(primary), 0)
    except OSError as error:
        raise EdgeUnreachableError(str(uri), why(error)) from None
    async with UdpSocket.open(primary) as asking:
        reply = await asking.bind(primary, CONNECT_TIMEOUT_S)
    if reply is None:
        raise EdgeUnreachableError(str(uri), f"no answer within {CONNECT_TIMEOUT_S:g} s")
    other, reach = reply.other, Reach.of(own, primary.ip)
    if other is None or other.ip == primary.ip or other.port in (0, primary.port):
        return [primary], reach
    return [primary, Endpoint(primary.ip, other.port), Endpoint(other.ip, primary.port), other], reach
