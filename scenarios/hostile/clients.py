"""Clients that violate the protocol: arbitrary bytes over TCP from many addresses."""

from __future__ import annotations

import contextlib
import json
import resource
import selectors
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from punchlab.punch.endpoint import Endpoint

UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h
_SPARE_DESCRIPTORS = 1000


def upgrade(path: str = "/") -> bytes:
    """Return the request that opens a WebSocket."""
    return UPGRADE % path.encode()


def ws_frame(payload: bytes, opcode: int = 1, *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """Return a WebSocket frame (RFC 6455 section 5.2), valid or invalid."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    flag = 0x80 if masked else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, flag | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, flag | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, flag | 127, len(payload))
    return head + (bytes(4) if masked else b"") + payload


def registration(role: str, session: str = "k7x2mq", **changes: object) -> str:
    """Return a client's first frame, valid except for `changes`."""
    fields = {"session": session, "role": role, "private": ["192.168.1.2:41000"], "pake": f"{ord(role[0]):064x}"}
    return json.dumps({"type": "register", **fields, **changes})


def trusting_anybody() -> ssl.SSLContext:
    """Return a TLS context that checks no certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def tcp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


class Attackers:
    """Attackers of one edge. Each connection comes from the next of `addresses` by default.

    `new_socket` creates a TCP socket in the attackers' node. With `tls` they use TLS without verification.
    """

    def __init__(
        self,
        edge: Endpoint,
        addresses: Iterator[str],
        new_socket: Callable[[], socket.socket] = tcp_socket,
        *,
        tls: bool = False,
    ) -> None:
        self.edge = edge
        self._addresses = addresses
        self._new_socket = new_socket
        self._tls = trusting_anybody() if tls else None

    def fresh_ip(self) -> str:
        """Return an unused address."""
        return next(self._addresses)

    def dial(self, ip: str | None = None) -> socket.socket:
        """Return a connection from `ip` (default: an unused address)."""
        sock = self.dial_tcp(ip)
        return sock if self._tls is None else self._tls.wrap_socket(sock)

    def dial_tcp(self, ip: str | None = None) -> socket.socket:
        """Return a TCP connection without TLS or WebSocket handshake."""
        sock = self._new_socket()
        sock.settimeout(30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        try:
            sock.bind((ip or self.fresh_ip(), 0))
            sock.connect(self.edge)
        except BaseException:
            sock.close()
            raise
        return sock

    def answer(self, sent: bytes) -> bytes:
        """Return the edge's answer to `sent` followed by the end of the stream."""
        with self.dial() as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(sent)
                sock.shutdown(socket.SHUT_WR)
            return drain(sock)

    def ask(self, request: bytes) -> bytes:
        """Return the answer to an HTTP request, after which the edge closes. (If the client closed first, it could miss
        the answer.)
        """
        with self.dial() as sock:
            sock.sendall(request)
            return drain(sock)

    def first_frame(self, sent: bytes, ip: str | None = None) -> bytes:
        """Return the payload of the first frame of the answer, at most 65535 bytes (RFC 6455, section 5.2)."""
        with self.dial(ip) as sock:
            sock.sendall(sent)
            data = b""
            while True:
                frame = data.partition(b"\r\n\r\n")[2]
                extended = len(frame) > 1 and frame[1] == 126
                start = 4 if extended else 2
                if len(frame) >= start:
                    end = start + (int.from_bytes(frame[2:4], "big") if extended else frame[1])
                    if len(frame) >= end:
                        return frame[start:end]
                piece = sock.recv(65536)
                assert piece, data
                data += piece

    def assault(self, attacks: list[bytes]) -> None:
        """Send each of `attacks` on its own connection, in parallel. Return when the edge has closed all of them."""
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(self.dial()) for _ in attacks]
            for sock, attack in zip(socks, attacks, strict=True):
                with contextlib.suppress(ConnectionError):
                    sock.sendall(attack)
                    sock.shutdown(socket.SHUT_WR)
            for sock in socks:
                drain(sock)

    @contextlib.contextmanager
    def idle(self, count: int) -> Iterator[list[socket.socket]]:
        """Open `count` connections: a third send nothing, a third half a request, a third open a WebSocket and stop."""
        with enough_descriptors(count), contextlib.ExitStack() as stack:
            socks = [stack.enter_context(self.dial()) for _ in range(count)]
            for sock in socks[::3]:
                sock.sendall(upgrade()[:40])
            for sock in socks[1::3]:
                sock.sendall(upgrade())
            for sock in socks[1::3]:
                assert sock.recv(65536).startswith(b"HTTP/1.1 101 ")
            yield socks

    @contextlib.contextmanager
    def slow_readers(self, sessions: Sequence[str]) -> Iterator[list[socket.socket]]:
        """Register one client in each session that then stops reading."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.wait(session)) for session in sessions]

    def guess_sessions(self, count: int) -> set[tuple[str, ...]]:
        """Register in `count` sessions of possible victims. Return the types and fields of the first answers."""
        heard = set()
        for number in range(count):
            guess = registration("receiver", f"{number:06}").encode()
            answer = json.loads(self.first_frame(upgrade() + ws_frame(guess)))
            heard.add((str(answer["type"]), *sorted(answer)))
        return heard

    def wait(self, session: str, ip: str | None = None) -> socket.socket:
        """Return a client that is registered as a sender and waits."""
        sock = self.dial(ip)
        try:
            sock.sendall(upgrade() + ws_frame(registration("sender", session).encode()))
            answer = b""
            while b"welcome" not in answer:
                piece = sock.recv(65536)
                assert piece, answer
                answer += piece
        except BaseException:
            sock.close()
            raise
        return sock

    @contextlib.contextmanager
    def one_address(self, limit: int) -> Iterator[Callable[[], None]]:
        """Let `limit` clients of one address wait. The yielded function registers once more and checks the
        rejection.
        """
        ip = self.fresh_ip()

        refusals = (
            f"too many clients at {ip} are waiting for their peers (at most {limit})".encode(),
            f"too many connections from {ip} in a short time".encode(),
        )

        def register() -> None:
            with self.dial(ip) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(upgrade() + ws_frame(registration("sender", "onemore").encode()))
                answer = b""
                while not any(each in answer for each in refusals):
                    piece = sock.recv(65536)
                    assert piece, answer
                    answer += piece

        with contextlib.ExitStack() as stack:
            for number in range(limit):
                stack.enter_context(self.wait(f"held{number}", ip))
            yield register


def drain(sock: socket.socket) -> bytes:
    """Read until the other end closes or resets."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            data += piece
    return bytes(data)


def flood(socks: list[socket.socket], data: bytes) -> None:
    """Send `data` repeatedly on each socket at full speed until it is closed."""
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_WRITE, sock)
        while selector.get_map():
            ready = selector.select(30)
            assert ready
            for key, _ in ready:
                try:
                    key.data.send(data)
                except ConnectionError:
                    selector.unregister(key.data)


ANSWERED_PINGS = ws_frame(b"x" * 125, 9) * 500
"""For `flood` as a slow reader."""
WELCOMED = ("welcome", "edge", "public", "type")
"""The fields of the answer to a registration in an empty session."""


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """Return the resident memory of a process, now or (VmHWM) at its maximum."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"no {field} of {pid}")


@contextlib.contextmanager
def enough_descriptors(count: int) -> Iterator[None]:
    """Raise this process's limit of open sockets by `count`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + _SPARE_DESCRIPTORS), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
