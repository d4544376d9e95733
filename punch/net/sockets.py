"""TCP sockets that share one local address, which is what hole punching lives on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
import sys
from collections.abc import Iterator

from punchlab.punch.endpoint import WILDCARDS, Endpoint
from punchlab.punch.errors import ArgumentError

IP_RECVERR = 11  # linux/in.h; not in Python's socket module

_TCP_INFO_MIN_RTT = slice(148, 152)  # microseconds; struct tcp_info of linux/tcp.h
_IP_MINTTL = 21  # linux/in.h
_NEAR_S = 0.01  # below that round trip, scheduling drowns the difference, and windows are small anyway

LOWEST_PORT = 1024
"""Of a client. NATs keep lower ports apart (RFC 4787 REQ-3), and services listen there."""
PORTS = range(16384, 61000)  # below 16384 some kernels' NATs remap the port


def bound_socket(local: Endpoint) -> socket.socket:
    """A non-blocking TCP socket bound to `local`, which other sockets of ours may be bound to as well."""
    sock = socket.socket(local.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(local)
    except BaseException:
        sock.close()
        raise
    return sock


def choose_local(wanted: Endpoint | None, toward: Endpoint) -> Endpoint:
    """The local address to punch from.

    Without a wanted address it is the one the kernel routes by `toward` the edge; without a wanted port, a random
    free one. Raises `ArgumentError` if the wanted one cannot be had, `OSError` if there is no route.
    """
    if wanted is not None and wanted.family != toward.family:
        raise ArgumentError("bind", str(wanted), f"an address of the same family as the edge's, which is {toward.ip}")
    if wanted is not None and 0 < wanted.port < LOWEST_PORT:
        raise ArgumentError("bind", str(wanted), f"port 0, or one from {LOWEST_PORT} on: a peer dials no other")
    address = wanted.ip if wanted is not None and wanted.ip not in WILDCARDS else source_address(toward)
    try:
        if wanted is not None and wanted.port:
            # SO_REUSEPORT shares a port with any other socket of this user that has it set: another punch, say. So ask
            # for it exclusively first (SO_REUSEADDR only forgives connections that are closing).
            _probe(Endpoint(address, wanted.port))
            return Endpoint(address, wanted.port)
        for port in random.sample(PORTS, 100):
            try:
                _probe(Endpoint(address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return Endpoint(address, port)
    except OSError as error:
        expected = f"a free port at an address of this machine ({error.strerror})"
        raise ArgumentError("bind", str(wanted or Endpoint(address, 0)), expected) from None
    raise ArgumentError("bind", str(wanted or Endpoint(address, 0)), f"an address with a free port in {PORTS}")


def _probe(local: Endpoint) -> None:
    with socket.socket(local.family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(local)
        probe.listen(1)


def source_address(toward: Endpoint) -> str:
    """The address of ours that the kernel would dial `toward` from. Raises `OSError` if there is no route."""
    with socket.socket(toward.family, socket.SOCK_DGRAM) as probe:
        probe.connect(toward)
        return Endpoint.of(probe.getsockname()).ip


@contextlib.contextmanager
def low_ttl_syn(sock: socket.socket, ttl: int) -> Iterator[None]:
    """What `sock` sends within has this time to live; the ICMP error that comes of its end does not end a connect.

    An error message quotes the packet as it was when its time had come: with a time to live of 1 or 0. The kernel
    ignores errors about packets below IP_MINTTL, which is made for the Generalized TTL Security Mechanism (RFC 5082);
    without that, connect would fail with EHOSTUNREACH. It also ignores segments that arrive with so little.
    """
    sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, 2)
    usual = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    try:
        yield
    finally:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, usual)


async def connect_result(sock: socket.socket) -> int:
    """Wait until a `connect` under way has ended; its errno, 0 for connected."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    descriptor = sock.fileno()
    loop.add_writer(descriptor, _settle, ended)
    try:
        await ended
    finally:
        loop.remove_writer(descriptor)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


async def accepted(listener: socket.socket) -> tuple[socket.socket, Endpoint]:
    """The next connection and where it comes from; none is lost when this is cancelled. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            descriptor = listener.fileno()
            loop.add_reader(descriptor, _settle, ready)
            try:
                await ready
            finally:
                loop.remove_reader(descriptor)
        else:
            return sock, Endpoint.of(address)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def errno_name(number: int) -> str:
    """`ECONNREFUSED` for 111."""
    return errno.errorcode.get(number, str(number))


def mend_round_trip(sock: socket.socket, measured_s: float) -> None:
    """Keep the kernel from crawling after a simultaneous open; `measured_s` is a round trip through the tunnel.

    When SYNs cross, Linux takes the time between its own SYN-ACK and the peer's, which was on its way already, for a
    round trip: 5 ms instead of 100, say. BBR sizes its window by that for 10 s (5 MB took 13 s instead of 1.5 s); CUBIC
    would take the true delay for a queue that builds up and leave slow start (HyStart). CUBIC forgets when it is left
    and entered again; BBR would not, for the kernel itself keeps the minimum for minutes, so there CUBIC has to serve,
    or Reno where CUBIC is not allowed.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_MIN_RTT.stop)
    believed_s = int.from_bytes(info[_TCP_INFO_MIN_RTT], sys.byteorder) / 1e6
    if measured_s < _NEAR_S or believed_s > measured_s / 2:
        return
    for algorithm in (b"reno", b"cubic"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, algorithm)


def die_with_the_path(sock: socket.socket) -> None:
    """Have the kernel end a connection whose path is dead: after 30 s of unanswered data, or of silence probed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
