"""A UDP socket for STUN transactions that keeps all other messages."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
from collections.abc import AsyncIterator

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import FrameError
from punchlab.punch.net.sockets import IP_RECVERR, PORTS
from punchlab.punch.probe import stun
from punchlab.punch.probe.stun import Change, Message, MessageClass

MAX_STRAYS = 64  # maximum number of messages kept that belong to no transaction
_RETRANSMISSION_S = 0.5  # doubled each time, RFC 5389 section 7.2.1


class UdpSocket(asyncio.DatagramProtocol):
    """Created by `open`. `local` is its endpoint; `strays` gets messages that belong to no transaction, with their
    sources.

    `moved` becomes true when the source of a response differs from its RESPONSE-ORIGIN; `refused` is set by an ICMP
    error after `watch_errors`. `belated` is the success response to a transaction that has timed out.
    """

    def __init__(self, local: Endpoint) -> None:
        self.local = local
        self.moved = False
        self.refused = asyncio.Event()
        self.strays: asyncio.Queue[tuple[Message, Endpoint]] = asyncio.Queue(MAX_STRAYS)
        self._transport: asyncio.DatagramTransport | None = None
        self.belated: Message | None = None
        self._waiting: dict[bytes, asyncio.Future[Message]] = {}
        self._finished: dict[bytes, bool] = {}  # transaction -> whether it was answered

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, toward: Endpoint) -> AsyncIterator[UdpSocket]:
        """Open a socket with a random port at the source address towards `toward`. Raises `OSError`."""
        sock = _bound(toward)
        made = cls(Endpoint(*sock.getsockname()))
        transport, _protocol = await asyncio.get_running_loop().create_datagram_endpoint(lambda: made, sock=sock)
        made._transport = transport
        try:
            yield made
        finally:
            transport.close()

    def watch_errors(self) -> None:
        """Enable the report of ICMP errors, which is off for an unconnected socket."""
        if self._transport is not None:
            self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)

    def send(self, message: Message, to: Endpoint) -> None:
        """Send one datagram."""
        if self._transport is not None:
            self._transport.sendto(message.encode(), to)

    async def bind(
        self, server: Endpoint, patience_s: float, *, change: Change | None = None, response_port: int | None = None
    ) -> Message | None:
        """Perform a Binding transaction; return the success response, or None for an error or after `patience_s`
        seconds."""
        request = Message(MessageClass.REQUEST, change=change, response_port=response_port)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Message] = loop.create_future()
        self._waiting[request.transaction] = future
        pause, deadline = _RETRANSMISSION_S, loop.time() + patience_s
        try:
            while True:
                self.send(request, server)
                # A response that arrived within the timeout counts, even if this process reads it later.
                await asyncio.wait([future], timeout=min(pause, max(0.0, deadline - loop.time())))
                if future.done():
                    reply = future.result()
                    return reply if _successful(reply) else None
                if loop.time() >= deadline:
                    return None
                pause *= 2
        finally:
            del self._waiting[request.transaction]
            self._finished[request.transaction] = future.done()

    async def mapped(self, server: Endpoint, patience_s: float) -> Endpoint | None:
        """Return this socket's external endpoint as the server sees it."""
        reply = await self.bind(server, patience_s)
        return None if reply is None else reply.mapped

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Pass a response to its transaction, and keep other messages."""
        source = Endpoint(*addr)
        try:
            message = stun.decode(data)
        except FrameError:
            return
        if message.origin is not None and message.origin != source:
            self.moved = True
        if message.transaction in self._finished:
            # A response, possibly a duplicate, to a retransmission; it is not a stray.
            if not self._finished[message.transaction] and _successful(message):
                self.belated = message
            return
        future = self._waiting.get(message.transaction)
        if future is None:
            if not self.strays.full():
                self.strays.put_nowait((message, source))
        elif not future.done():
            future.set_result(message)

    def error_received(self, _exc: Exception) -> None:
        """Record an ICMP error for an earlier datagram."""
        self.refused.set()


def _successful(reply: Message) -> bool:
    return reply.kind is MessageClass.SUCCESS and reply.mapped is not None


def _bound(toward: Endpoint) -> socket.socket:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as routed:
        routed.connect(toward)
        ip = routed.getsockname()[0]
    for port in random.sample(PORTS, 100):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        try:
            sock.bind((ip, port))
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return sock
    raise OSError(errno.EADDRINUSE, f"no free UDP port found in {PORTS}")
