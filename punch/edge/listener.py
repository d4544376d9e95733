"""The listening TCP sockets of an edge, which accept only what the rate limiter allows.

Limits apply where connections are accepted, before TLS and HTTP: a client that sends nothing counts as well, and a
rejected one costs nothing more. A connection is passed to asyncio only after its first byte has arrived. Until then it
has no TLS state, no transport and no task; it is a socket in an epoll set. In every protocol of an edge the client
sends first.

A TLS listener also checks the first bytes, and passes on only connections that begin with a ClientHello of a usual
size: OpenSSL allocates as many bytes as a ClientHello announces, up to 128 KiB, after its first four bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from punchlab.punch.edge.limits import Admission, LimitError, RateLimiter
from punchlab.punch.endpoint import Endpoint

RECEIVE_BYTES = 8_192
SEND_BYTES = 16_384
"""Kernel buffers per connection (the kernel allocates twice as much). Frames have 4 KiB, a certificate chain has
more."""
WIDE_BYTES = 65_536
"""Both buffers for links to other edges and for relayed pairs."""
BACKLOG = 1024
FIRST_BYTE_S = 5.0
MAX_CLIENT_HELLO = 8_192  # bytes; the largest keys in use need about two thousand
_HELLO_HEAD = 9  # record: type, version, length; handshake: type, length
_AT_ONCE = 64  # connections accepted per iteration of the event loop
_PAUSE_S = 1.0

OnRefused = Callable[[str, LimitError], None]


class AdmittedSocket(socket.socket):
    """A connection that is released from the rate limiter when it is closed."""

    admission: Admission | None = None
    address: tuple[Any, ...] = ()
    until: float = 0.0

    def close(self) -> None:
        """Close the socket and release its admission."""
        super().close()
        admission, self.admission = self.admission, None
        if admission is not None:
            admission.leave()


class LimitedListener(socket.socket):
    """A TCP socket listening at `address`; `on_refused` gets the client's address and the error. Raises `OSError`.

    A listener at an IPv6 address accepts no IPv4; otherwise a client would have two addresses, and `[::]` would
    conflict with `0.0.0.0`. With `tls` it accepts only connections that begin with a ClientHello. Without `tls`, and
    with `explain`, a rejected client gets the reason in an HTTP response. Its `fileno` is that of an epoll set, which
    is readable when `accept` may return a connection with data.
    """

    def __init__(
        self, address: Endpoint, limiter: RateLimiter, on_refused: OnRefused, *, tls: bool, explain: bool
    ) -> None:
        super().__init__(address.family, socket.SOCK_STREAM)
        self._limiter, self._on_refused, self._tls, self._explain = limiter, on_refused, tls, explain and not tls
        self._silent: dict[int, AdmittedSocket] = {}  # by descriptor, the oldest first
        self._ready: list[AdmittedSocket] = []
        self._timer: asyncio.TimerHandle | None = None
        self._epoll = select.epoll()
        try:
            # Accepted sockets inherit these options.
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            if address.family == socket.AF_INET6:
                self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.bind(address)
            self.listen(BACKLOG)  # asyncio calls listen again, so it gets the same backlog
            self.setblocking(False)
            self._epoll.register(super().fileno(), select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def accept(self) -> tuple[socket.socket, tuple[Any, ...]]:
        """Return the next connection that has sent data. Raises `BlockingIOError` if there is none."""
        if not self._ready:
            self._poll()
        while self._ready:
            sock = self._ready.pop(0)
            if sock.admission is not None:
                sock.admission.end = partial(_shut, sock)
                sock.admission.name(sock.fileno())
                return sock, sock.address
        raise BlockingIOError

    def close(self) -> None:
        """Stop listening, and close the connections that have sent nothing."""
        if self._timer is not None:
            self._timer.cancel()
        for sock in (*self._silent.values(), *self._ready):
            sock.close()
        self._silent.clear()
        self._ready.clear()
        self._epoll.close()
        super().close()

    def _poll(self) -> None:
        for fd, _ in self._epoll.poll(0, _AT_ONCE):
            if fd == super().fileno():
                self._accept_new()
            elif (sock := self._silent.get(fd)) is not None:
                self._unregister(sock)
                if _begins_tls(sock) if self._tls else _has_data(sock):
                    self._ready.append(sock)
                else:
                    sock.close()

    def _accept_new(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, address = super().accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self._pause(error)
                return
            public = Endpoint.of(address)
            try:
                admission = self._limiter.enter(public.ip)
            except LimitError as error:
                self._reject(accepted, error)
                self._on_refused(str(public), error)
                continue
            sock = AdmittedSocket(self.family, self.type, self.proto, fileno=accepted.detach())
            sock.setblocking(False)
            sock.admission, sock.address = admission, address
            self._await_first_byte(sock, admission)

    def _pause(self, error: OSError) -> None:
        """Accept nothing for `_PAUSE_S`, because no descriptor is free.

        If `accept` raised the error, asyncio would call it again `BACKLOG` times, and schedule as many retries.
        """
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "no free descriptor for a connection", "exception": error})
        self._epoll.unregister(super().fileno())
        loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if not self._epoll.closed:
            self._epoll.register(super().fileno(), select.EPOLLIN)

    def _await_first_byte(self, sock: AdmittedSocket, admission: Admission) -> None:
        def end() -> None:
            self._unregister(sock)
            sock.close()

        admission.end = end
        if self._tls:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _HELLO_HEAD)
        loop = asyncio.get_running_loop()
        sock.until = loop.time() + FIRST_BYTE_S
        self._silent[sock.fileno()] = sock
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        if self._timer is None:
            self._timer = loop.call_at(sock.until, self._expire)

    def _unregister(self, sock: AdmittedSocket) -> None:
        if self._silent.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        for sock in list(self._silent.values()):
            if sock.until > loop.time():
                self._timer = loop.call_at(sock.until, self._expire)
                return
            self._unregister(sock)
            sock.close()

    def _reject(self, accepted: socket.socket, error: LimitError) -> None:
        with accepted, contextlib.suppress(OSError):
            accepted.setblocking(False)
            if self._explain:
                accepted.send(_response(str(error)))
            accepted.recv(65_536)  # closing with unread bytes sends a RST, which could overtake the reason


def widen(transport: asyncio.BaseTransport) -> None:
    """Give a connection the large kernel buffers that high throughput needs."""
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WIDE_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WIDE_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, WIDE_BYTES)


def _has_data(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _begins_tls(sock: socket.socket) -> bool:
    """Return whether the data begins with a ClientHello of at most `MAX_CLIENT_HELLO` bytes (RFC 8446 sections 4 and
    5.1)."""
    try:
        head = sock.recv(_HELLO_HEAD, socket.MSG_PEEK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    except OSError:
        return False
    is_hello = len(head) == _HELLO_HEAD and (head[0], head[1], head[5]) == (22, 3, 1)
    return is_hello and int.from_bytes(head[6:]) <= MAX_CLIENT_HELLO


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _response(reason: str) -> bytes:
    body = f"{reason}\n"
    head = f"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()
