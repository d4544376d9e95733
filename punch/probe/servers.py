"""The servers of a probe: STUN endpoints at one or two addresses, and edges that connect back.

A server is either an edge, `ws[s]://HOST:PORT`, which announces its STUN endpoints and dials back on request, or any
STUN server, `stun:HOST[:PORT]` (RFC 7064), which announces its other address if it supports behavior discovery (RFC
5780).

Announced endpoints at the address of the server itself are used. Announced endpoints at other addresses, of which RFC
5780 needs one, cannot be verified to belong to the server. They must be endpoints that a server may announce
(`punch.net.reach`), at no more than two addresses; one that has not answered as a STUN server is tried at most twice in
a session (`punch.punching.quota`).
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

from punchlab.punch.codec import decode, encode
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
)
from punchlab.punch.probe.udpsocket import UdpSocket
from punchlab.punch.punching.quota import Servers as Uses
from punchlab.punch.punching.supplied_servers import SuppliedServers
from punchlab.punch.text import printable

CONNECT_TIMEOUT_S = 5.0
MAX_ADDRESSES = 2
"""The maximum number of addresses of one server."""
_STUN_URI = re.compile(rf"stun:(?P<host>{HOST_NAME})(?::(?P<port>[0-9]{{1,5}}))?")


@dataclass(frozen=True, slots=True)
class StunUri:
    """`stun:host:port`, RFC 7064."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"stun:{self.host}:{self.port}"


def parse_server(text: str) -> EdgeUrl | StunUri:
    """Parse a server as the user typed it. Raises `ArgumentError`."""
    if text.startswith(("ws:", "wss:")):
        return EdgeUrl.parse(text)
    match = _STUN_URI.fullmatch(text)
    port = stun.PORT if match is None or match["port"] is None else int(match["port"])
    if match is None or not 1 <= port <= 65535:
        raise ArgumentError("edge", text, "ws://HOST:PORT or stun:HOST:PORT")
    return StunUri(match["host"], port)


class DialBackClient:
    """A connection to an edge that connects back. Created by `connect`; call `close` at the end."""

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
    async def connect(cls, url: EdgeUrl) -> DialBackClient:
        """Connect to an edge. Raises `EdgeUnreachableError` if no edge answers, or it does not serve probes."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await open_websocket(url, PATH, timeout_s=CONNECT_TIMEOUT_S, families=(socket.AF_INET,))
                try:
                    return cls(connection, decode(await connection.recv(), Vantage))
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
            text = printable(closed.rcvd.reason) if closed.rcvd is not None else protocol_violation(closed)
            reason = text or "it closed the connection"
        raise EdgeUnreachableError(str(url), reason)

    async def dial_back(
        self, transport: Transport, ip: str, target: Endpoint, patience_s: float
    ) -> Dialled | NotTested:
        """Make the edge connect to `target` from a new port of its address `ip`, and return the result."""
        if target.ip != self.vantage.public.ip:
            return NotTested(f"the edge sees this host at {self.vantage.public.ip} and dials no other address")
        identity = next(self._ids)
        self._waiting[identity] = outcome = asyncio.get_running_loop().create_future()
        try:
            await self._connection.send(encode(Dial(identity, transport, ip, target.port, patience_s)))
            await asyncio.wait([outcome], timeout=patience_s + CONNECT_TIMEOUT_S)
        except ConnectionClosed:
            pass
        finally:
            self._waiting.pop(identity, None)
        if not outcome.done():
            return NotTested("the edge does not answer the dial request")
        answer = outcome.result()
        return NotTested(f"the edge refused: {answer.reason}") if isinstance(answer, Refused) else answer

    async def close(self) -> None:
        """Close the connection to the edge."""
        await self._connection.close()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed, FrameError):
            while True:
                outcome: Dialled | Refused = decode(await self._connection.recv(), Dialled, Refused)
                future = self._waiting.get(outcome.id)
                if future is not None and not future.done():
                    future.set_result(outcome)


@dataclass(frozen=True, slots=True)
class Servers:
    """The endpoints that RFC 5780 calls Da:Dp, Da:Ap, Aa:Dp and Aa:Ap, as far as they are available.

    `changes`: the primary endpoint answers from the other ones on CHANGE-REQUEST. `dial_backs` are edges by address.
    `named` checks the endpoints at other addresses than the primary one.
    """

    primary: Endpoint
    other_port: Endpoint | None
    other_address: Endpoint | None
    other_both: Endpoint | None
    changes: bool
    dial_backs: dict[str, DialBackClient]
    named: SuppliedServers

    def answered(self, endpoint: Endpoint) -> None:
        """Record that a STUN server answers at this endpoint."""
        self.named.answered(endpoint.ip)

    @property
    def endpoints(self) -> list[Endpoint | None]:
        """Primary, other port, other address, other address and port."""
        return [self.primary, self.other_port, self.other_address, self.other_both]

    @property
    def clients(self) -> list[DialBackClient]:
        """Every edge once."""
        return list(dict.fromkeys(self.dial_backs.values()))

    async def dial_back(
        self, transport: Transport, origin: Endpoint, target: Endpoint, patience_s: float
    ) -> Dialled | NotTested:
        """Make the edge at the address of `origin` connect to `target` from a new port, and return the result."""
        client = self.dial_backs.get(origin.ip)
        if client is None:
            return NotTested("a STUN server does not dial back; an edge (ws://) does")
        return await client.dial_back(transport, origin.ip, target, patience_s)

    async def close(self) -> None:
        """Close the connections to all edges."""
        await asyncio.gather(*(client.close() for client in self.clients))


async def find(wanted: Sequence[EdgeUrl | StunUri], uses: Uses | None = None) -> Servers:
    """Query every server. The first one with a second address is used alone, otherwise the first two are combined.

    `uses` counts, over a session, how often announced addresses are used. Raises `EdgeUnreachableError`.
    """
    uses = uses or Uses()
    found: list[tuple[list[Endpoint], Reach, DialBackClient | None]] = []
    try:
        for each in wanted:
            if isinstance(each, EdgeUrl):
                client = await DialBackClient.connect(each)
                reach = Reach.of(client.local, client.remote.ip)
                found.append((list(client.vantage.stun), reach, client))
            else:
                found.append((*await _ask(each), None))
        servers = [
            (_usable(endpoints, named := SuppliedServers(reach, uses), typed=client is None), named, client)
            for endpoints, reach, client in found
        ]
        for url, (usable, *_others) in zip(wanted, servers, strict=True):
            if not usable:
                raise EdgeUnreachableError(
                    str(url), "it announces STUN servers only at addresses that cannot be its own"
                )
    except BaseException:
        await asyncio.gather(*(client.close() for *_others, client in found if client is not None))
        raise
    servers.sort(key=lambda server: len(server[0]) != 4)
    dial_backs = {each.ip: client for usable, _, client in reversed(servers) if client for each in usable}
    first, named, _knocker = servers[0]
    alone = len(first) == 4
    second = first[2:] if alone else next((each for each, *_ in servers[1:] if each[0].ip != first[0].ip), [])
    other_address, other_both, *_rest = [*second, None, None]
    other_port = first[1] if len(first) > 1 else None
    return Servers(first[0], other_port, other_address, other_both, changes=alone, dial_backs=dial_backs, named=named)


def _usable(endpoints: Sequence[Endpoint], named: SuppliedServers, *, typed: bool) -> list[Endpoint]:
    """Return those of a server's endpoints that may be used once more; `typed`: the user typed the first one.

    If one port of an address may not be used, the whole address is omitted, because the tests need both ports.
    """
    ips = list(dict.fromkeys(each.ip for each in endpoints))[:MAX_ADDRESSES]
    others = endpoints[1:] if typed else endpoints
    strange = {each.ip for each in others if refuses_server_port(each.port) is not None}
    allowed = {ip for ip in ips if ip not in strange and named.refuses(ip) is None}
    return [each for each in endpoints if each.ip in allowed]


async def _ask(uri: StunUri) -> tuple[list[Endpoint], Reach]:
    """Return the endpoints of a STUN server: the typed one alone, or all four."""
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
