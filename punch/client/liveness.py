"""How soon the two ends of a tunnel notice that its path is dead.

A NAT that has rebooted, or a computer that has changed its network, says nothing: packets vanish. Whoever has data on
its way hears of it from the kernel's TCP_USER_TIMEOUT; whoever only listens, from unanswered keepalives. Both are
short here, because a break is cheap: the tunnel is punched again and the transfer goes on from where it was. A pause
of the path that is shorter than `DEAD_AFTER_S` is survived by TCP itself.
"""

from __future__ import annotations

import socket

DEAD_AFTER_S = 8  # unanswered data, or unanswered keepalives
_IDLE_S = 4
_INTERVAL_S = 2


def notice_a_dead_path(sock: socket.socket) -> None:
    """Have the kernel end the connection `DEAD_AFTER_S` after its path died, or up to `_INTERVAL_S` later."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (DEAD_AFTER_S - _IDLE_S) // _INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000)
