"""How two toys meet: through the edge, and by TCP hole punching from the port that the edge has seen."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.lab.trial.verdicts.toy.edge import line

_HELLO = 8
_RETRY_S = 0.1
_EDGE_S = 5.0
_FASTOPEN = 0x20000000  # MSG_FASTOPEN in linux/socket.h
_PENDING = {0, errno.EINPROGRESS}


class PunchError(Exception):
    """No connection; `outcome` is what the toy says of it."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Met:
    """A connection to the edge, which ends at the peer, and where the peer is."""

    edge: socket.socket
    local: tuple[str, int]
    peer: tuple[str, int]
    private: tuple[str, int]
    ipv6: tuple[str, int]


def bound(port: int, family: int = socket.AF_INET, protocol: int = 0) -> socket.socket:
    """A TCP socket on that port, which it shares with others of this host."""
    made = socket.socket(family, socket.SOCK_STREAM, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("", port))
    return made


def meet(edge: tuple[str, int], code: str, role: str, index: int, port: int) -> Met:
    """Learn from the edge where the peer is. Raises `PunchError`."""
    connection = bound(port)
    connection.settimeout(_EDGE_S)
    try:
        connection.connect(edge)
        local = connection.getsockname()
        connection.sendall(f"{code} {role} {index} {local[0]} {port} {_own_ipv6()}\n".encode())
        ip, public, private, own, ipv6 = line(connection).split()
    except (OSError, ValueError) as error:
        raise PunchError("no_rendezvous", f"the edge: {error}") from error
    connection.settimeout(None)
    return Met(connection, local, (ip, int(public)), (private, int(own)), (ipv6, int(own)))


def _own_ipv6() -> str:
    """This host's IPv6 address, "::" without one."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.connect(("2a11::1", 9))
        return str(probe.getsockname()[0])
    return "::"


def punch(
    role: str,
    port: int,
    peer: tuple[str, int],
    deadline_s: float,
    said: Callable[..., None],
    *,
    dials: bool = True,
    protocol: int = 0,
    fast: bool = False,
) -> socket.socket:
    """Listen on the port and, with `dials`, dial the peer from it, until a connection has said hello both ways.

    Raises `PunchError` at the deadline.
    """
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    listener = bound(port, family, protocol)
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
    listener.listen()
    hello = f"toy{role[:1]}".encode().ljust(_HELLO, b".")
    deadline, next_try, refused = time.monotonic() + deadline_s, 0.0, 0
    dialled: set[socket.socket] = set()
    greeted: set[socket.socket] = set()
    up: dict[socket.socket, bytes] = {}
    try:
        while (now := time.monotonic()) < deadline:
            if dials and not dialled and not up and now >= next_try:
                next_try = now + _RETRY_S
                said("first_syn")
                said("attempt", kind="srflx")
                attempt = bound(port, family, protocol)
                attempt.setblocking(False)
                answer = _send_at_once(attempt, peer, hello) if fast else attempt.connect_ex(peer)
                if answer in _PENDING:
                    dialled.add(attempt)
                    if fast and answer == 0:
                        greeted.add(attempt)
                else:
                    refused += answer == errno.ECONNREFUSED
                    attempt.close()
            readable, writable, _ = select.select([listener, *up], [*dialled], [], 0.05)
            for attempt in writable:
                dialled.discard(attempt)
                if error := attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    refused += error in (errno.ECONNREFUSED, errno.EHOSTUNREACH)
                    attempt.close()
                else:
                    up[attempt] = b""
                    if attempt not in greeted:
                        attempt.send(hello)
            for ready in readable:
                if ready is listener:
                    accepted, _address = listener.accept()
                    accepted.setblocking(False)
                    accepted.send(hello)
                    up[accepted] = b""
                elif _said_hello(ready, role, up):
                    ready.setblocking(True)
                    up.pop(ready)
                    return ready
    finally:
        listener.close()
        for left in (*dialled, *up):
            left.close()
    raise PunchError("refused" if refused else "punch_timeout", f"no connection in {deadline_s} s")


def _send_at_once(attempt: socket.socket, peer: tuple[str, int], first: bytes) -> int:
    """Dial with data in the SYN; 0 if they are in it, otherwise the error number of connect()."""
    try:
        attempt.sendto(first, _FASTOPEN, peer)
    except OSError as error:
        return error.errno or -1
    return 0


def _said_hello(connection: socket.socket, role: str, up: dict[socket.socket, bytes]) -> bool:
    """Whether both have greeted on this connection, and the sender has chosen it."""
    wanted = f"toy{'r' if role == 'send' else 's'}".encode().ljust(_HELLO, b".") + (b"" if role == "send" else b"G")
    try:
        data = connection.recv(len(wanted) - len(up[connection]))
    except BlockingIOError:
        return False
    except OSError:
        data = b""
    up[connection] += data
    if not data or not wanted.startswith(up[connection]):
        up.pop(connection)
        connection.close()
        return False
    if up[connection] != wanted:
        return False
    if role == "send":
        connection.send(b"G")
    return True


def give(connection: socket.socket, content: bytes, halfway: Callable[[], None]) -> None:
    """Send it with its length; return when the peer has all of it."""
    middle = len(content) // 2
    connection.sendall(struct.pack("!Q", len(content)) + content[:middle])
    halfway()
    connection.sendall(content[middle:])
    if connection.recv(1) != b"k":
        raise ConnectionError("the peer does not have all of it")


def take(connection: socket.socket, halfway: Callable[[], None]) -> bytes:
    """What the peer gives."""
    (length,) = struct.unpack("!Q", _exactly(connection, 8))
    content = _exactly(connection, length // 2)
    halfway()
    content += _exactly(connection, length - len(content))
    connection.sendall(b"k")
    return content


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 16))
        if not part:
            raise ConnectionError("the peer has gone")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def part(connection: socket.socket, how: str, role: str) -> None:
    """End the connection as the plan says."""
    if how == "rst":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "half":
        with contextlib.suppress(OSError):
            connection.settimeout(2)
            if role == "receive":
                connection.recv(1)
            connection.shutdown(socket.SHUT_WR)
            if role == "send":
                connection.recv(1)
    connection.close()
