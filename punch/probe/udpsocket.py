"""A UDP socket that makes STUN transactions and keeps what else arrives."""

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

MAX_STRAYS = 64  # messages that nobody waits for, kept at a time
_RETRANSMISSION_S = 0.5  # doubled each time, RFC 5389 section 7.2.1


class UdpSocket(asyncio.DatagramProtocol):
    """Made by `open`. `local` is its address; `strays` gets messages that no transaction waits for, and their sources.

    `moved` turns true when a response came from elsewhere than its RESPONSE-ORIGIN says; `refused` is set by an ICMP
    error, once `watch_errors` was called. `belated` is the success response to a transaction that ended without one.
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
        """A socket with a random port at the address that the kernel routes by. Raises `OSError`."""
        sock = _bound(toward)
        made = cls(Endpoint(*sock.getsockname()))
        transport, _protocol = await asyncio.get_running_loop().create_datagram_endpoint(lambda: made, sock=sock)
        made._transport = transport
        try:
            yield made
        finally:
            transport.close()

    def watch_errors(self) -> None:
        """From now on tell of ICMP errors, which an unconnected socket does not by itself."""
        if self._transport is not None:
            self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)

    def send(self, message: Message, to: Endpoint) -> None:
        """Send one datagram."""
        if self._transport is not None:
            self._transport.sendto(message.encode(), to)

    async def bind(
        self, server: Endpoint, patience_s: float, *, change: Change | None = None, response_port: int | None = None
    ) -> Message | None:
        """A Binding transaction; the success response, or None for an error, or silence for `patience_s`."""
        request = Message(MessageClass.REQUEST, change=change, response_port=response_port)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Message] = loop.create_future()
        self._waiting[request.transaction] = future
        pause, deadline = _RETRANSMISSION_S, loop.time() + patience_s
        try:
            while True:
                self.send(request, server)
                # What has come by the end of the wait counts, even if this process is late to read it.
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
        """This socket's external endpoint as the server sees it."""
        reply = await self.bind(server, patience_s)
        return None if reply is None else reply.mapped

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Hand a response to its transaction; keep the rest."""
        source = Endpoint(*addr)
        try:
            message = stun.decode(data)
        except FrameError:
            return
        if message.origin is not None and message.origin != source:
            self.moved = True
        if message.transaction in self._finished:
            # To a retransmission, maybe a second one: no stray.
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
        """An ICMP error for something sent earlier."""
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
