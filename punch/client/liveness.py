"""Timeouts with which both ends of a tunnel detect that its path is dead.

A NAT that has rebooted, or a computer that has moved to another network, sends no notice: packets are silently dropped.
The end that has unacknowledged data is notified by TCP_USER_TIMEOUT, the end that only receives by unanswered
keepalives. Both timeouts are short, because a break is cheap: the clients punch a new tunnel and resume the transfer.
TCP itself survives an interruption shorter than `DEAD_AFTER_S`.
"""

from __future__ import annotations

import socket

DEAD_AFTER_S = 8  # unanswered data, or unanswered keepalives
_IDLE_S = 4
_INTERVAL_S = 2


def detect_dead_path_soon(sock: socket.socket) -> None:
    """Make the kernel end the connection `DEAD_AFTER_S` after its path died, or up to `_INTERVAL_S` later."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (DEAD_AFTER_S - _IDLE_S) // _INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000)
