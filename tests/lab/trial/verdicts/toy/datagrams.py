"""The toy's transfers by datagrams: UDP between the hosts or through the edge, UDP-Lite, and a raw IP protocol."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable

from tests.lab.trial.verdicts.toy.punch import PunchError

_CHUNK, _WINDOW = 1100, 16
_TICK_S = 0.05
_RAW_PROTOCOL, _UDPLITE = 253, 136
_HEADER = struct.Struct("!cII")


class Line:
    """Datagrams to the peer and from it."""

    def __init__(self, made: socket.socket, peer: tuple[str, int], prefix: bytes = b"", skip: int = 0) -> None:
        self._socket, self._peer, self._prefix, self._skip = made, peer, prefix, skip
        made.setblocking(False)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendto(self._prefix + data, self._peer)

    def receive(self, timeout_s: float) -> bytes | None:
        """The next datagram of the peer; what the edge repeats, and ICMP errors, are passed over."""
        deadline = time.monotonic() + timeout_s
        while select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            with contextlib.suppress(OSError):
                data, address = self._socket.recvfrom(1 << 16)
                if address[0] == self._peer[0]:
                    return data[self._skip + len(self._prefix) :]
        return None


def introduced(edge: tuple[str, int], code: str, role: str, deadline_s: float) -> tuple[socket.socket, tuple[str, int]]:
    """A UDP socket that the edge has seen, and where it sees the peer. Raises `PunchError`."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("", 0))
    deadline = time.monotonic() + max(deadline_s, 5)
    while time.monotonic() < deadline:
        made.sendto(f"H {code} {role}".encode(), edge)
        if select.select([made], [], [], _TICK_S)[0]:
            data = made.recv(2048)
            if data.startswith(b"P"):
                _p, ip, port = data.decode().split()
                made.sendto(f"H {code} {role}".encode(), edge)  # the peer may have come after its last question
                return made, (ip, int(port))
    raise PunchError("no_rendezvous", "the edge knows no peer")


def line(kind: str, edge: tuple[str, int], met: tuple[socket.socket, tuple[str, int]], address: str) -> Line:
    """The line of that path; `address` is the peer's for what has no ports that a NAT knows."""
    made, peer = met
    if kind == "udp":
        return Line(made, peer)
    if kind == "udp_relay":
        return Line(made, edge, b"R")
    if kind == "udplite":
        lite = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, _UDPLITE)
        lite.bind(("", 5555))
        return Line(lite, (address, 5555))
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, _RAW_PROTOCOL)
    return Line(raw, (address, 0), skip=20)


def greet(path: Line, deadline_s: float) -> None:
    """Return when each has heard of the other. Raises `PunchError`."""
    deadline = time.monotonic() + deadline_s
    heard = False
    while time.monotonic() < deadline:
        path.send(b"T" if heard else b"S")
        data = path.receive(_TICK_S)
        heard = heard or data in (b"S", b"T")
        if data == b"T" or (data and data[:1] in (b"D", b"A")):
            path.send(b"T")
            return
    raise PunchError("punch_timeout", "no datagram of the peer came")


def give(path: Line, content: bytes, patience_s: float, halfway: Callable[[], None]) -> None:
    """Send it, each datagram until it is acknowledged."""
    count = (len(content) + _CHUNK - 1) // _CHUNK
    left = list(range(count))
    deadline = time.monotonic() + patience_s
    past_half = False
    while left:
        if time.monotonic() > deadline:
            raise ConnectionError("the peer does not acknowledge")
        if not past_half and len(left) <= count // 2:
            past_half = True
            halfway()
        window = left[:_WINDOW]
        for number in window:
            path.send(_HEADER.pack(b"D", number, count) + content[number * _CHUNK : (number + 1) * _CHUNK])
        tick = time.monotonic() + _TICK_S
        acknowledged: set[int] = set()
        while len(acknowledged) < len(window) and (wait := tick - time.monotonic()) > 0:
            data = path.receive(wait)
            # A late one of an earlier round does not count: to send again for it would make more of them.
            if data and data[:1] == b"A" and (number := _HEADER.unpack(data)[1]) in window:
                acknowledged.add(number)
        left = [number for number in left if number not in acknowledged]
    for _ in range(3):
        path.send(b"F")


def take(path: Line, patience_s: float, halfway: Callable[[], None]) -> bytes:
    """What the peer gives."""
    chunks: dict[int, bytes] = {}
    count, quiet_s = -1, patience_s
    past_half = False
    while (data := path.receive(quiet_s)) is not None or len(chunks) != count:
        if data is None:
            raise ConnectionError("the peer is silent")
        if data == b"F" and len(chunks) == count:
            break
        if data[:1] == b"D":
            _kind, number, count = _HEADER.unpack_from(data)
            chunks[number] = data[_HEADER.size :]
            path.send(_HEADER.pack(b"A", number, count))
        if not past_half and 0 < count <= 2 * len(chunks):
            past_half = True
            halfway()
        quiet_s = 0.5 if len(chunks) == count else patience_s
    return b"".join(chunks[number] for number in range(count))
