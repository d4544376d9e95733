"""An edge that makes its clients send packets to third parties and report what is there."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.frames import Role
from punchlab.punch.probe import stun
from punchlab.punch.probe.stun import Message, MessageClass
from punchlab.punch.secure.keys import PakeExchange
from scenarios.hostile.edge import GUESS, OTHER, PATIENCE_S, Json

Mapped = Callable[[Endpoint, int], Endpoint]
"""The mapped address that a STUN server reports, given the client's source endpoint and the number of earlier
requests.
"""

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_TICKET = "ab" * 16
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h


class Heard(NamedTuple):
    """A message of a client and its time (`time.monotonic()`)."""

    at: float
    what: str


@dataclass
class Lies:
    """The false claims of the edge.

    `contact` describes the peer (without its key exchange), `public` is the client's reflexive address, `relay` a URL.
    `stun` are the endpoints of the STUN servers; those in `at` exist and answer `mapped`. `ipv6` is the claimed IPv6
    endpoint of the edge.
    """

    contact: Json
    public: Endpoint | None = None
    relay: str | None = None
    stun: Sequence[Endpoint] = ()
    at: Sequence[Endpoint] = ()
    mapped: Mapped = lambda source, _count: source
    ipv6: Endpoint | None = None


class Abuser:
    """The edge, at a bound listener. `sockets` creates sockets in its node. Always `close` it.

    Each client is alone; its peer does not exist. `heard` has the messages of clients.
    """

    def __init__(
        self, lies: Lies, listener: socket.socket, sockets: Callable[[socket.SocketKind], socket.socket]
    ) -> None:
        self.heard: list[Heard] = []
        self._lies, self._ended = lies, threading.Event()
        self._asked = 0
        self._sockets = [self._bound(sockets(kind), each) for each in lies.at for kind in _KINDS]
        self._server: Server = serve(self._handle, sock=listener, process_response=self._add_header)
        work = [self._server.serve_forever, *(lambda each=each: self._serve_stun(each) for each in self._sockets)]
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def said(self, what: str) -> list[float]:
        """Return the times at which clients sent that message."""
        return [each.at for each in self.heard if each.what == what]

    def _hear(self, what: str) -> None:
        self.heard.append(Heard(time.monotonic(), what))

    def _add_header(self, _connection: ServerConnection, _request: Request, response: Response) -> None:
        if self._lies.ipv6 is not None:
            response.headers["Punch-IPv6"] = str(self._lies.ipv6)

    def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            if connection.request.path == "/probe":
                self._probe(connection)
            elif connection.request.path == "/":
                self._serve_client(connection)

    def _probe(self, connection: ServerConnection) -> None:
        public = str(self._lies.public or Endpoint.of(connection.remote_address))
        if not self._lies.stun:
            return
        self._hear("probe")
        stun = [str(each) for each in self._lies.stun]
        _say(connection, "vantage", edge="evil", public=public, stun=stun)
        try:
            while True:
                dial = json.loads(connection.recv(PATIENCE_S))
                origin = f"{dial['ip']}:9"
                _say(connection, "dialled", id=dial["id"], origin=origin, result="timeout", icmp=None, seconds=0.1)
        finally:
            self._hear("probed")

    def _serve_client(self, connection: ServerConnection) -> None:
        register = json.loads(connection.recv(PATIENCE_S))
        self._hear("register")
        role: Role = OTHER[register["role"]]
        public = str(self._lies.public or Endpoint.of(connection.remote_address))
        relay = {} if self._lies.relay is None else {"relay": self._lies.relay, "ticket": _TICKET}
        _say(connection, "welcome", edge="evil", public=public, **relay)
        pake = PakeExchange(GUESS, role).message
        _say(connection, "peer", **self._lies.contact, pake=pake, via="local", **relay)
        self._hear("told")
        for _ in range(2):  # that the peer never sent; the client reads one before the strategy begins
            _say(connection, "signal", data="AAAA" * 20)
        try:
            while True:
                connection.recv(PATIENCE_S)
                self._hear("signal")
        finally:
            self._hear("left")

    def _bound(self, sock: socket.socket, at: Endpoint) -> socket.socket:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(0.1)
        sock.bind(at)
        if sock.type == socket.SOCK_STREAM:
            sock.listen(64)
        return sock

    def _serve_stun(self, sock: socket.socket) -> None:
        with contextlib.ExitStack() as taken:
            while not self._ended.is_set():
                with contextlib.suppress(OSError):
                    if sock.type == socket.SOCK_DGRAM:
                        data, source = sock.recvfrom(1500)
                        sock.sendto(self._binding(data, Endpoint.of(source)), source)
                        continue
                    connection, source = sock.accept()
                    taken.enter_context(connection)
                    connection.settimeout(1)
                    connection.sendall(self._binding(connection.recv(stun.HEADER_SIZE), Endpoint.of(source)))

    def _binding(self, request: bytes, source: Endpoint) -> bytes:
        _kind, _length, transaction = stun.decode_header(request)
        self._asked += 1
        mapped = self._lies.mapped(source, self._asked)
        return Message(MessageClass.SUCCESS, transaction, mapped=mapped).encode()


class Breaker(Abuser):
    """Introduces two clients of one session, but names another one of `victims` as the peer's address each time.

    So they connect only through its relay, which fails after some bytes, and register again. `meetings` counts that.
    """

    def __init__(
        self,
        victims: Sequence[str],
        listener: socket.socket,
        relay: str,
        breaks_after: int,
        sockets: Callable[[socket.SocketKind], socket.socket],
    ) -> None:
        self.meetings = 0
        self._victims, self._url, self._breaks_after = victims, relay, breaks_after
        self._registers: dict[str, Json] = {}
        self._joined: list[ServerConnection] = []
        self._both, self._told, self._at_relay = (threading.Barrier(2, timeout=PATIENCE_S) for _ in range(3))
        super().__init__(Lies({}), listener, sockets)

    def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        with contextlib.suppress(ConnectionClosed, TimeoutError, threading.BrokenBarrierError):
            if connection.request.path == "/relay":
                self._relay(connection)
            elif connection.request.path == "/":
                self._serve_client(connection)

    def _serve_client(self, connection: ServerConnection) -> None:
        register = json.loads(connection.recv(PATIENCE_S))
        relayed = {"relay": self._url, "ticket": _TICKET}
        _say(connection, "welcome", edge="evil", public=str(Endpoint.of(connection.remote_address)), **relayed)
        self._registers[register["role"]] = register
        first = self._both.wait() == 0
        other = self._registers[OTHER[register["role"]]]
        victim = f"{self._victims[self.meetings % len(self._victims)]}:8080"
        fields = {name: other[name] for name in ("pake", "traits") if name in other}
        self._told.wait()
        self.meetings += first
        _say(connection, "peer", public=victim, private=[], via="local", **relayed, **fields)
        with contextlib.suppress(ConnectionClosed):
            connection.recv()

    def _relay(self, connection: ServerConnection) -> None:
        connection.recv(PATIENCE_S)
        self._joined = [*self._joined[-1:], connection]
        self._at_relay.wait()
        other = next(each for each in self._joined if each is not connection)
        _say(connection, "joined")
        passed = 0
        for message in connection:
            passed += len(message)
            if passed > self._breaks_after:
                break
            other.send(message)
        for each in (connection, other):
            each.socket.shutdown(socket.SHUT_RDWR)


_KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)


def _say(connection: ServerConnection, kind: str, **fields: Any) -> None:
    connection.send(json.dumps({"type": kind, **fields}))


class Packet(NamedTuple):
    """An IP packet that a computer sent. `connect` identifies the connect() call of a SYN, including
    retransmissions.
    """

    to: str
    port: int
    protocol: int
    connect: tuple[int, int] | None


@dataclass
class Sent:
    """The packets that left a computer over any interface, including loopback."""

    packets: list[Packet] = field(default_factory=list)

    def addresses(self) -> set[str]:
        """The destination addresses."""
        return {each.to for each in self.packets}

    def to(self, ip: str, protocol: int | None = None) -> list[Packet]:
        """Return the packets to one address."""
        return [each for each in self.packets if each.to == ip and protocol in (None, each.protocol)]

    def connects(self) -> Counter[str]:
        """The number of connect() calls per address."""
        return Counter(to for to, _port, _connect in {(p.to, p.port, p.connect) for p in self.packets if p.connect})


@contextlib.contextmanager
def watched(enter: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[Sent]:
    """Record the packets sent in a network namespace during the block. The record is complete afterwards."""
    sent, ended = Sent(), threading.Event()
    with enter():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
    raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
    raw.settimeout(0.1)

    def read() -> None:
        while True:
            try:
                data, (_interface, protocol, kind, *_rest) = raw.recvfrom(2048)
            except TimeoutError:
                if ended.is_set():
                    return
                continue
            if kind == socket.PACKET_OUTGOING and protocol in (_ETH_P_IP, _ETH_P_IPV6):
                sent.packets.append(_packet(data))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield sent
    finally:
        ended.set()
        thread.join()
        raw.close()


def _packet(data: bytes) -> Packet:
    if data[0] >> 4 == 4:
        protocol, header = data[9], (data[0] & 15) * 4
        to = socket.inet_ntop(socket.AF_INET, data[16:20])
    else:
        protocol, header = data[6], 40
        to = socket.inet_ntop(socket.AF_INET6, data[24:40])
    if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        return Packet(to, 0, protocol, None)
    source, port, sequence = struct.unpack_from("!HHI", data, header)
    syn = protocol == socket.IPPROTO_TCP and data[header + 13] & 0x12 == 0x02
    return Packet(to, port, protocol, (source, sequence) if syn else None)
