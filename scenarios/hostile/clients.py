"""Clients that follow no rules: bytes of the test's choosing over TCP, from as many addresses as there are."""

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
    """The request that opens a WebSocket."""
    return UPGRADE % path.encode()


def ws_frame(payload: bytes, opcode: int = 1, *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """A WebSocket frame as of RFC 6455 section 5.2, or as it must not be."""
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
    """A client's first frame, as it should be but for `changes`."""
    fields = {"session": session, "role": role, "private": ["192.168.1.2:41000"], "pake": f"{ord(role[0]):064x}"}
    return json.dumps({"type": "register", **fields, **changes})


def trusting_anybody() -> ssl.SSLContext:
    """TLS that checks no certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def tcp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


class Attackers:
    """Those who attack one edge, each connection from the next of `addresses` unless told otherwise.

    `new_socket` makes a TCP socket where the attackers are; with `tls` they speak that, and trust anybody.
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
        """An address that none of them has used yet."""
        return next(self._addresses)

    def dial(self, ip: str | None = None) -> socket.socket:
        """A connection from `ip` (default: a fresh address)."""
        sock = self.dial_tcp(ip)
        return sock if self._tls is None else self._tls.wrap_socket(sock)

    def dial_tcp(self, ip: str | None = None) -> socket.socket:
        """A connection that says nothing, TLS or not."""
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
        """What the edge says to `sent`, and then an end."""
        with self.dial() as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(sent)
                sock.shutdown(socket.SHUT_WR)
            return drain(sock)

    def ask(self, request: bytes) -> bytes:
        """The answer to a request of HTTP, after which an edge hangs up. (Who hangs up first may get none.)"""
        with self.dial() as sock:
            sock.sendall(request)
            return drain(sock)

    def first_frame(self, sent: bytes, ip: str | None = None) -> bytes:
        """The payload of the first frame in the answer, of at most 65535 bytes (RFC 6455, section 5.2)."""
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
        """All of `attacks`, each on a connection of its own, at once; returns when the edge has closed all of them."""
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
        """`count` connections: a third say nothing, a third half a request, a third open a WebSocket and stop there."""
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
        """One client registered in each session, which will read no more."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.wait(session)) for session in sessions]

    def guess_sessions(self, count: int) -> set[tuple[str, ...]]:
        """Register in so many sessions that may be somebody's: the types of what is told first, and their fields."""
        heard = set()
        for number in range(count):
            guess = registration("receiver", f"{number:06}").encode()
            told = json.loads(self.first_frame(upgrade() + ws_frame(guess)))
            heard.add((str(told["type"]), *sorted(told)))
        return heard

    def wait(self, session: str, ip: str | None = None) -> socket.socket:
        """A client that has registered as a sender, and waits."""
        sock = self.dial(ip)
        try:
            sock.sendall(upgrade() + ws_frame(registration("sender", session).encode()))
            told = b""
            while b"welcome" not in told:
                piece = sock.recv(65536)
                assert piece, told
                told += piece
        except BaseException:
            sock.close()
            raise
        return sock

    @contextlib.contextmanager
    def one_address(self, limit: int) -> Iterator[Callable[[], None]]:
        """Have `limit` clients of one address wait. What is returned registers once more, and is refused in words."""
        ip = self.fresh_ip()

        refusals = (
            f"too many clients at {ip} are waiting for their peers (at most {limit})".encode(),
            f"too many connections from {ip} in a short time".encode(),
        )

        def knock() -> None:
            with self.dial(ip) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(upgrade() + ws_frame(registration("sender", "onemore").encode()))
                told = b""
                while not any(each in told for each in refusals):
                    piece = sock.recv(65536)
                    assert piece, told
                    told += piece

        with contextlib.ExitStack() as stack:
            for number in range(limit):
                stack.enter_context(self.wait(f"held{number}", ip))
            yield knock


def drain(sock: socket.socket) -> bytes:
    """Everything until the other end closes or resets."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            data += piece
    return bytes(data)


def flood(socks: list[socket.socket], data: bytes) -> None:
    """Send `data` again and again on each socket, as fast as it takes it, until it is closed."""
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
"""With which to `flood` as a slow reader."""
WELCOMED = ("welcome", "edge", "public", "type")
"""What one hears who registers in a session where nobody is."""


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """Resident memory of a process now, or (VmHWM) at its highest."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"no {field} of {pid}")


@contextlib.contextmanager
def enough_descriptors(count: int) -> Iterator[None]:
    """This process may open so many more sockets than usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + _SPARE_DESCRIPTORS), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
