"""The edge's part of a probe: it sends a SYN or datagrams to the client on request, and reports the result.

No third party can be made a target. A client chooses only the port; the address is the one at which the edge sees the
client, over a connection that stays open, and only if `punch.edge.probing.targets` allows it. Each address may request
`BURST` connection attempts, and then one every `REFILL_S` seconds. An attempt is one SYN, which the kernel retransmits
until the client's timeout, or three datagrams of 20 bytes. A probing client and its frames count against the same
limits as a registered client and its frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable

from websockets.exceptions import ConnectionClosed

from punchlab.punch.codec import decode, encode
from punchlab.punch.edge.connection import EdgeConnection
from punchlab.punch.edge.limits import RateLimiter
from punchlab.punch.edge.probing.responder import StunServer
from punchlab.punch.edge.probing.targets import refuses_target
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.events import Reporter
from punchlab.punch.net.interfaces import addresses
from punchlab.punch.net.reach import is_global
from punchlab.punch.net.sockets import IP_RECVERR, connect_result, errno_name
from punchlab.punch.portmap.gateway import default_gateway
from punchlab.punch.probe.frames import (
    CONNECTED,
    SILENCE,
    Dial,
    Dialled,
    Refused,
    Vantage,
)
from punchlab.punch.probe.patience import within
from punchlab.punch.probe.stun import Message, MessageClass

BURST = 24
REFILL_S = 2.0
IDLE_S = 7200.0  # the longest search for the lifetime of a mapping
_MAX_ADDRESSES = 10_000

_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # struct sock_extended_err of linux/errqueue.h
_FROM_ICMP = 2
_DATAGRAM_PAUSES_S = (0.3, 0.6)


class Allowance:
    """The connection attempts that each address may still request: a token bucket. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}  # when the address's bucket is full again; least recently seen first

    def take(self, ip: str) -> bool:
        """Take one from the bucket, or return False if it is empty."""
        now = self._clock()
        full_at = max(now, self._full_at.get(ip, now)) + REFILL_S
        if full_at - now > BURST * REFILL_S:
            return False
        self._full_at.pop(ip, None)
        self._full_at[ip] = full_at
        if len(self._full_at) > _MAX_ADDRESSES:
            del self._full_at[next(iter(self._full_at))]  # a full table blocks no new address
        return True


class DialBack:
    """Serves probing clients from the addresses of a STUN server."""

    def __init__(self, edge: str, stun: StunServer, limiter: RateLimiter, report: Reporter) -> None:
        self._edge, self._stun, self._limiter, self._report = edge, stun, limiter, report
        self._allowance = Allowance()

    async def serve(self, connection: EdgeConnection, public: Endpoint) -> None:
        """Dial the client on request, until it disconnects or requests nothing for `IDLE_S`.

        Raises `FrameError`, `LimitError`, `TimeoutError` and `ConnectionClosed`.
        """
        self._limiter.hold("registrations", public.ip)
        try:
            connection.settle()
            await self._serve(connection, public)
        finally:
            self._limiter.release("registrations", public.ip)

    async def _serve(self, connection: EdgeConnection, public: Endpoint) -> None:
        self._report("probing", public=str(public))
        await connection.send(encode(Vantage(self._edge, public, tuple(self._stun.addresses.endpoints))))
        dials: set[asyncio.Task[None]] = set()
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    frame = await connection.recv()
                self._limiter.take("frame_rate", public.ip)
                dial = decode(frame, Dial)
                reason = self._objection(dial, public)
                if reason is not None:
                    await connection.send(encode(Refused(dial.id, reason)))
                    continue
                task = asyncio.create_task(self._dial(connection, dial, Endpoint(public.ip, dial.port)))
                dials.add(task)
                task.add_done_callback(dials.discard)
        finally:
            for task in dials:
                task.cancel()
            await asyncio.gather(*dials, return_exceptions=True)

    def _objection(self, dial: Dial, public: Endpoint) -> str | None:
        if dial.ip not in self._stun.addresses.ips:
            return f"ip: {dial.ip} is not an address of this edge"
        try:
            computer = {each.ip for each in addresses()}
        except OSError as error:
            return f"this edge cannot open a socket ({error.strerror})"
        why = refuses_target(Endpoint(public.ip, dial.port), dial.ip, computer)
        if why is None and public.ip == default_gateway() and not is_global(public.ip):
            why = "the gateway of this edge, which hides the addresses of its clients"
        if why is not None:
            return f"{public.ip}:{dial.port} cannot be dialled: {why}"
        if not self._allowance.take(public.ip):
            return f"too many connection attempts to {public.ip}; at most one every {REFILL_S:g} s"
        return None

    async def _dial(self, connection: EdgeConnection, dial: Dial, target: Endpoint) -> None:
        try:
            dialled = await (_dial_tcp if dial.transport == "tcp" else _dial_udp)(dial, target)
        except OSError as error:
            answer = encode(Refused(dial.id, f"this edge cannot open a socket ({error.strerror})"))
        else:
            self._report("dialled_back", target=str(target), origin=str(dialled.origin), result=dialled.result)
            answer = encode(dialled)
        with contextlib.suppress(ConnectionClosed):
            await connection.send(answer)


async def _dial_tcp(dial: Dial, target: Endpoint) -> Dialled:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.bind((dial.ip, 0))
        origin = Endpoint(*sock.getsockname())
        begun = time.monotonic()
        result, icmp = SILENCE, None
        number: int | None = sock.connect_ex(target)
        if number == errno.EINPROGRESS:
            number = await within(dial.patience_s, connect_result(sock))
        if number is not None:
            icmp = _icmp_error(sock)
            result = CONNECTED if number == 0 and icmp is None else errno_name(number or errno.ECONNREFUSED)
        return Dialled(dial.id, origin, result, icmp, time.monotonic() - begun)


async def _dial_udp(dial: Dial, target: Endpoint) -> Dialled:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.bind((dial.ip, 0))
        origin = Endpoint(*sock.getsockname())
        begun = time.monotonic()
        result, icmp = SILENCE, None
        datagram = Message(MessageClass.INDICATION).encode()
        repeats = [loop.call_later(pause, _send, sock, datagram) for pause in _DATAGRAM_PAUSES_S]
        try:
            sock.connect(target)
            sock.send(datagram)
            if await within(dial.patience_s, loop.sock_recv(sock, 1500)) is not None:
                result = CONNECTED
        except OSError as error:
            icmp, result = _icmp_error(sock), errno_name(error.errno or 0)
        finally:
            for repeat in repeats:
                repeat.cancel()
        return Dialled(dial.id, origin, result, icmp, time.monotonic() - begun)


def _send(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # an ICMP error, which `sock_recv` raises as well
        sock.send(data)


def _icmp_error(sock: socket.socket) -> tuple[int, int] | None:
    """Return type and code of the ICMP message that ended the attempt, from the socket's error queue."""
    with contextlib.suppress(BlockingIOError):
        _data, ancillary, _flags, _address = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, IP_RECVERR):
                _errno, origin, icmp_type, code, *_rest = _EXTENDED_ERROR.unpack_from(value)
                if origin == _FROM_ICMP:
                    return icmp_type, code
    return None
