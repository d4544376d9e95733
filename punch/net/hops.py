"""Count the routers towards an address, to find a time to live that ends between our NAT and the peer's."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct

from punchlab.punch.net.sockets import IP_RECVERR

MAX_HOPS = 20
"""Number of datagrams, one per time to live."""
LIMIT_S = 0.8
"""How long to wait for the first answer, in seconds."""

_QUIET_S = 0.25  # how long to wait after an answer for another one
_FIRST_PORT = 33434  # as in traceroute: each time to live uses its own port
_EXTENDED_ERROR = struct.Struct("=IBBBBIIHH4s")  # struct sock_extended_err of linux/errqueue.h, and the sockaddr_in
_FROM_ICMP, _TIME_EXCEEDED = 2, 11


async def ttl_between_nats(own_ip: str, peer_ip: str) -> int | None:
    """Return a time to live with which a packet passes our NAT and expires before the peer's; None if none was found.

    `own_ip` and `peer_ip` are the two public addresses. One UDP datagram per time to live makes each router on the path
    send ICMP Time Exceeded (Jacobson's traceroute). Routers that answer from a public address are behind our NATs,
    including a carrier's, and before the peer's NAT: a packet to the address of a NAT does not expire there. Of several
    such routers the middle one is chosen, because TCP may take another path, and because the first may be our own
    firewall with a public address.
    """
    if ":" in own_ip or ":" in peer_ip:  # without a NAT, no pinhole needs to be opened
        return None
    answers: dict[int, str] = {}
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        received = asyncio.Event()

        def read() -> None:
            while (answer := _time_exceeded(sock)) is not None:
                port, router = answer
                if router is not None:
                    answers[port - _FIRST_PORT] = router
                    received.set()

        loop.add_reader(sock.fileno(), read)
        try:
            for ttl in range(1, MAX_HOPS + 1):
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
                for _try in range(2):  # the first may raise the error of an earlier datagram
                    with contextlib.suppress(OSError):
                        sock.sendto(b"", (peer_ip, _FIRST_PORT + ttl))
                        break
            async with asyncio.timeout(LIMIT_S):
                await received.wait()
                while True:
                    received.clear()
                    async with asyncio.timeout(_QUIET_S):
                        await received.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(sock.fileno())
    beyond = sorted(
        ttl
        for ttl, router in answers.items()
        if router not in (own_ip, peer_ip) and ipaddress.ip_address(router).is_global
    )
    return beyond[len(beyond) // 2] if beyond else None


def _time_exceeded(sock: socket.socket) -> tuple[int, str | None] | None:
    """Return the destination port of the next error, and the router if it is Time Exceeded; None without an error."""
    try:
        _data, ancillary, _flags, address = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return None
    for level, kind, value in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_RECVERR) and len(value) >= _EXTENDED_ERROR.size:
            _errno, origin, icmp_type, _code, _pad, _info, _data, family, _port, ip = _EXTENDED_ERROR.unpack_from(value)
            if (origin, icmp_type, family) == (_FROM_ICMP, _TIME_EXCEEDED, socket.AF_INET):
                return address[1], socket.inet_ntoa(ip)
    return address[1], None
