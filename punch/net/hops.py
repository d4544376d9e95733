"""How far packets get toward an address: which time to live ends between our NAT and the peer's."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct

from punchlab.punch.net.sockets import IP_RECVERR

MAX_HOPS = 20
"""So many datagrams are sent, one with each time to live."""
LIMIT_S = 0.8
"""How long the farthest router may take to answer."""

_QUIET_S = 0.25  # after the last answer
_FIRST_PORT = 33434  # as traceroute does: each time to live has a port of its own
_EXTENDED_ERROR = struct.Struct("=IBBBBIIHH4s")  # struct sock_extended_err of linux/errqueue.h, and the sockaddr_in
_FROM_ICMP, _TIME_EXCEEDED = 2, 11


async def mortal_ttl(own_ip: str, peer_ip: str) -> int | None:
    """A time to live with which a packet gets past our own NAT, and not to the peer's; None if none was found.

    `own_ip` and `peer_ip` are the two public addresses. Each router on the way is asked by a UDP datagram whose time is
    up there (Jacobson's traceroute). Those that answer from a public address are beyond our NATs, a carrier's included,
    and before the peer's: a packet to the address of a NAT does not end there, it has arrived. Of several the middle
    one is taken, for TCP may go another way; a firewall of our own with a public address is the first.
    """
    if ":" in own_ip or ":" in peer_ip:  # there is no NAT whose door would have to be opened
        return None
    heard: dict[int, str] = {}
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        news = asyncio.Event()

        def read() -> None:
            while (answer := _time_exceeded(sock)) is not None:
                port, router = answer
                if router is not None:
                    heard[port - _FIRST_PORT] = router
                    news.set()

        loop.add_reader(sock.fileno(), read)
        try:
            for ttl in range(1, MAX_HOPS + 1):
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
                for _try in range(2):  # the first may raise the error that an earlier datagram met
                    with contextlib.suppress(OSError):
                        sock.sendto(b"", (peer_ip, _FIRST_PORT + ttl))
                        break
            async with asyncio.timeout(LIMIT_S):
                await news.wait()
                while True:
                    news.clear()
                    async with asyncio.timeout(_QUIET_S):
                        await news.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(sock.fileno())
    beyond = sorted(
        ttl
        for ttl, router in heard.items()
        if router not in (own_ip, peer_ip) and ipaddress.ip_address(router).is_global
    )
    return beyond[len(beyond) // 2] if beyond else None


def _time_exceeded(sock: socket.socket) -> tuple[int, str | None] | None:
    """The next error: the port that its datagram went to, and the router where its time was up, if it is about that."""
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
