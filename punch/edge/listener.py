"""The listening TCP sockets of an edge, which let in only what the gate lets in.

Limits are kept where connections are accepted, before TLS and before HTTP: a client that says nothing at all counts
too, and one that is refused costs nothing more. A connection is not given to asyncio before its first byte is there:
until then there is no TLS, no transport and no task for it, just a socket in an epoll set. In every protocol that an
edge speaks the client speaks first.

A listener for TLS also looks at the first bytes, and gives away only what begins as a ClientHello of a usual size:
OpenSSL reserves as much as a ClientHello says that it has, up to 128 KiB, when four bytes of it are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from punchlab.punch.edge.limits import Admission, LimitError, RateLimiter
from punchlab.punch.endpoint import Endpoint

RECEIVE_BYTES = 8_192
SEND_BYTES = 16_384
"""Buffers of the kernel per connection, which reserves twice as much: frames have 4 KiB, a certificate's chain more."""
WIDE_BYTES = 65_536
"""Both, for links to other edges and for relayed pairs."""
BACKLOG = 1024
FIRST_BYTE_S = 5.0
MAX_CLIENT_HELLO = 8_192  # bytes; the largest keys in use need some two thousand
_HELLO_HEAD = 9  # record: type, version, length; handshake: type, length
_AT_ONCE = 64  # connections taken in before the event loop has its turn

OnRefused = Callable[[str, LimitError], None]


class AdmittedSocket(socket.socket):
    """A connection that leaves the gate when it is closed."""

    admission: Admission | None = None
    address: tuple[Any, ...] = ()
    until: float = 0.0

    def close(self) -> None:
        """Close it, and count it off."""
        super().close()
        admission, self.admission = self.admission, None
        if admission is not None:
            admission.leave()


class GatedListener(socket.socket):
    """A TCP socket listening at `address`; `on_refused` gets the address and the reason. Raises `OSError`.

    One at an IPv6 address takes no IPv4, or a client would have two names, and `[::]` no room beside `0.0.0.0`.
    With `tls` it takes only what begins as TLS; without, and with `explain`, a client that is refused is told why in an
    HTTP response. Its `fileno` is that of an epoll set, which
    can be read when `accept` may have a connection that has said something.
    """

    def __init__(
        self, address: Endpoint, gate: RateLimiter, on_refused: OnRefused, *, tls: bool, explain: bool
    ) -> None:
        super().__init__(address.family, socket.SOCK_STREAM)
        self._gate, self._on_refused, self._tls, self._explain = gate, on_refused, tls, explain and not tls
        self._silent: dict[int, AdmittedSocket] = {}  # by descriptor, the oldest first
        self._speaking: list[AdmittedSocket] = []
        self._timer: asyncio.TimerHandle | None = None
        self._epoll = select.epoll()
        try:
            # Accepted sockets inherit all of this.
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            if address.family == socket.AF_INET6:
                self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.bind(address)
            self.listen(BACKLOG)  # asyncio listens again, with a backlog of its own if it is not told this one
            self.setblocking(False)
            self._epoll.register(super().fileno(), select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def accept(self) -> tuple[socket.socket, tuple[Any, ...]]:
        """The next connection that has said something. Raises `BlockingIOError` if there is none yet."""
        if not self._speaking:
            self._look()
        while self._speaking:
            sock = self._speaking.pop(0)
            if sock.admission is not None:
                sock.admission.end = partial(_shut, sock)
                sock.admission.name(sock.fileno())
                return sock, sock.address
        raise BlockingIOError

    def close(self) -> None:
        """Stop listening, and close what has said nothing yet."""
        if self._timer is not None:
            self._timer.cancel()
        for sock in (*self._silent.values(), *self._speaking):
            sock.close()
        self._silent.clear()
        self._speaking.clear()
        self._epoll.close()
        super().close()

    def _look(self) -> None:
        for fd, _ in self._epoll.poll(0, _AT_ONCE):
            if fd == super().fileno():
                self._take_in()
            elif (sock := self._silent.get(fd)) is not None:
                self._forget(sock)
                if _begins_tls(sock) if self._tls else _has_spoken(sock):
                    self._speaking.append(sock)
                else:
                    sock.close()

    def _take_in(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, address = super().accept()
            except BlockingIOError:
                return
            public = Endpoint.of(address)
            try:
                admission = self._gate.enter(public.ip)
            except LimitError as error:
                self._refuse(accepted, error)
                self._on_refused(str(public), error)
                continue
            sock = AdmittedSocket(self.family, self.type, self.proto, fileno=accepted.detach())
            sock.setblocking(False)
            sock.admission, sock.address = admission, address
            self._await_first_byte(sock, admission)

    def _await_first_byte(self, sock: AdmittedSocket, admission: Admission) -> None:
        def end() -> None:
            self._forget(sock)
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

    def _forget(self, sock: AdmittedSocket) -> None:
        if self._silent.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        for sock in list(self._silent.values()):
            if sock.until > loop.time():
                self._timer = loop.call_at(sock.until, self._expire)
                return
            self._forget(sock)
            sock.close()

    def _refuse(self, accepted: socket.socket, error: LimitError) -> None:
        with accepted, contextlib.suppress(OSError):
            accepted.setblocking(False)
            if self._explain:
                accepted.send(_response(str(error)))
            accepted.recv(65_536)  # closed with bytes unread, it would send a RST, which may overtake the reason


def widen(transport: asyncio.BaseTransport) -> None:
    """Give a connection the buffers of the kernel that a fast one needs."""
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WIDE_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WIDE_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, WIDE_BYTES)


def _has_spoken(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _begins_tls(sock: socket.socket) -> bool:
    """Whether a record with a ClientHello of at most `MAX_CLIENT_HELLO` bytes begins (RFC 8446 sections 4 and 5.1)."""
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
