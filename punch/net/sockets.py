"""TCP sockets that share one local address, as TCP hole punching requires."""

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
_NEAR_S = 0.01  # at a shorter round trip, scheduling noise hides the difference, and windows are small

LOWEST_PORT = 1024
"""Of a client's port. NATs do not map lower ports (RFC 4787 REQ-3), and services listen there."""
PORTS = range(16384, 61000)  # below 16384 some kernels' NATs remap the port


def bound_socket(local: Endpoint) -> socket.socket:
    """Return a non-blocking TCP socket bound to `local`, an address that several of our sockets may share."""
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
    """Return the local address to punch from.

    Without a wanted address, it is the source address of the kernel's route to `toward`, the edge; without a wanted
    port, it is a random free port. Raises `ArgumentError` if the wanted address is not available, `OSError` if there is
    no route.
    """
    if wanted is not None and wanted.family != toward.family:
        raise ArgumentError("bind", str(wanted), f"an address of the same family as the edge's, which is {toward.ip}")
    if wanted is not None and 0 < wanted.port < LOWEST_PORT:
        raise ArgumentError("bind", str(wanted), f"port 0, or a port of at least {LOWEST_PORT}")
    address = wanted.ip if wanted is not None and wanted.ip not in WILDCARDS else source_address(toward)
    try:
        if wanted is not None and wanted.port:
            # With SO_REUSEPORT, another process of this user could share the port, for instance another punch. So test
            # first whether the port is free without it (SO_REUSEADDR tolerates only closing connections).
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
        expected = f"a free port at an address of this computer ({error.strerror})"
        raise ArgumentError("bind", str(wanted or Endpoint(address, 0)), expected) from None
    raise ArgumentError("bind", str(wanted or Endpoint(address, 0)), f"an address with a free port in {PORTS}")


def _probe(local: Endpoint) -> None:
    with socket.socket(local.family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(local)
        probe.listen(1)


def source_address(toward: Endpoint) -> str:
    """Return our source address of the kernel's route to `toward`. Raises `OSError` if there is no route."""
    with socket.socket(toward.family, socket.SOCK_DGRAM) as probe:
        probe.connect(toward)
        return Endpoint.of(probe.getsockname()).ip


@contextlib.contextmanager
def low_ttl_syn(sock: socket.socket, ttl: int) -> Iterator[None]:
    """Give packets that `sock` sends within the block this time to live, and ignore ICMP Time Exceeded for them.

    An ICMP error quotes the packet with the time to live that it had when it expired: 1 or 0. The kernel ignores errors
    about packets below IP_MINTTL, which exists for the Generalized TTL Security Mechanism (RFC 5082). Without it,
    connect would fail with EHOSTUNREACH. The kernel also ignores received segments with so low a time to live.
    """
    sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, 2)
    usual = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    try:
        yield
    finally:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, usual)


async def connect_result(sock: socket.socket) -> int:
    """Wait until a pending `connect` has ended; return its errno, 0 if connected."""
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
    """Return the next connection and its remote endpoint; cancellation loses no connection. Raises `OSError`."""
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
    """Return the symbolic name, such as `ECONNREFUSED` for 111."""
    return errno.errorcode.get(number, str(number))


def correct_round_trip(sock: socket.socket, measured_s: float) -> None:
    """Correct the kernel's minimum round trip after a simultaneous open; `measured_s` was measured in the tunnel.

    When SYNs cross, Linux measures the time between its own SYN-ACK and the peer's, which was already under way. It
    takes that for the round trip, for instance 5 ms instead of 100. BBR sizes its window by it for 10 s (5 MB took 13 s
    instead of 1.5 s). CUBIC would take the true delay for a growing queue and leave slow start (HyStart). Selecting
    CUBIC again resets its state. BBR cannot be reset, because the kernel keeps the minimum for minutes. So CUBIC
    replaces it, or Reno where CUBIC is not permitted.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_MIN_RTT.stop)
    believed_s = int.from_bytes(info[_TCP_INFO_MIN_RTT], sys.byteorder) / 1e6
    if measured_s < _NEAR_S or believed_s > measured_s / 2:
        return
    for algorithm in (b"reno", b"cubic"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, algorithm)


def detect_dead_path(sock: socket.socket) -> None:
    """Make the kernel end a connection with a dead path: after 30 s of unacknowledged data, or unanswered probes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
