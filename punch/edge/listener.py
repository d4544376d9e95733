"""The listening socket of an edge, which lets in only what the gate lets in.

Limits are kept where connections are accepted, before TLS and before HTTP: a client that says nothing at all counts
too, and one that is refused costs nothing more. It is told why in an HTTP response, unless it expects TLS.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from punch.edge.limits import Gate, LimitError
from punch.endpoint import Endpoint

BUFFER_BYTES = 65_536  # of the kernel, per connection and direction: frames have 4 KiB
BACKLOG = 1024
_REFUSED_AT_ONCE = 64  # before the event loop has its turn

OnRefused = Callable[[str, LimitError], None]


class _Admitted(socket.socket):
    """A connection that leaves the gate when it is closed."""

    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        super().close()
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()


class GatedListener(socket.socket):
    """A TCP socket listening at `address`; `on_refused` gets the address and the reason. Raises `OSError`.

    One at an IPv6 address takes no IPv4, or a client would have two names, and `[::]` no room beside `0.0.0.0`.
    """

    def __init__(self, address: Endpoint, gate: Gate, on_refused: OnRefused, *, tls: bool) -> None:
        super().__init__(address.family, socket.SOCK_STREAM)
        self._gate, self._on_refused, self._tls = gate, on_refused, tls
        try:
            # Accepted sockets inherit all of this.
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            if address.family == socket.AF_INET6:
                self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.bind(address)
            self.listen(BACKLOG)  # asyncio listens again, with a backlog of its own if it is not told this one
        except BaseException:
            self.close()
            raise

    def accept(self) -> tuple[socket.socket, tuple[Any, ...]]:
        """The next connection that is let in. Raises `BlockingIOError` if none is waiting (or many were refused)."""
        for _ in range(_REFUSED_AT_ONCE):
            accepted, address = super().accept()
            public = Endpoint.of(address)
            try:
                self._gate.enter(public.ip)
            except LimitError as error:
                self._refuse(accepted, error)
                self._on_refused(str(public), error)
                continue
            admitted = _Admitted(self.family, self.type, self.proto, fileno=accepted.detach())
            admitted.on_close = lambda ip=public.ip: self._gate.leave(ip)
            return admitted, address
        raise BlockingIOError

    def _refuse(self, accepted: socket.socket, error: LimitError) -> None:
        with accepted, contextlib.suppress(OSError):
            accepted.setblocking(False)
            if not self._tls:
                accepted.send(_response(str(error)))
            accepted.recv(BUFFER_BYTES)  # closed with bytes unread, it would send a RST, which may overtake the reason


def _response(reason: str) -> bytes:
    body = f"{reason}\n"
    head = f"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()
