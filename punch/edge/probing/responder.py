"""A STUN server for behavior discovery (RFC 5780 section 6): two ports at one address, or at each of two, UDP and TCP.

Over UDP it sends the response from the endpoint that CHANGE-REQUEST selects and to the port in RESPONSE-PORT, but only
to the address that the request came from; `punch.edge.probing.targets` restricts addresses and ports. Over TCP it
responds on the same connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from punchlab.punch.edge.limits import LimitError, Limits, RateLimiter
from punchlab.punch.edge.listener import BACKLOG, LimitedListener, OnRefused
from punchlab.punch.edge.probing.targets import refuses_target
from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError, FrameError
from punchlab.punch.net.closing import abort_transport
from punchlab.punch.probe import stun
from punchlab.punch.probe.stun import Change, Message, MessageClass

MAX_CONNECTIONS = 1000
FIRST_S = 10.0  # timeout of the first request of a TCP connection
IDLE_S = 600.0  # timeout of later requests
_MAX_MESSAGE = 1500
_MAX_UNSENT = 4096  # bytes buffered for a client that does not read
_STAY = Change(address=False, port=False)


@dataclass(frozen=True, slots=True)
class StunAddresses:
    """The endpoints of a STUN server: every address with every port. The first address and the first port are the
    primary ones."""

    ips: Sequence[str]
    ports: Sequence[int]

    @classmethod
    def of(cls, primary: Endpoint, alternate: Endpoint | None) -> StunAddresses:
        """Return the endpoints of RFC 5780; without an alternate endpoint, the primary address and the next port.

        Raises `ArgumentError`.
        """
        for name, endpoint in (("stun", primary), ("stun-alternate", alternate)):
            if endpoint is not None and not endpoint.is_unicast:
                raise ArgumentError(name, str(endpoint), "one unicast address of this machine")
        if alternate is None:
            if primary.port == 65535:
                raise ArgumentError(
                    "stun", str(primary), "a port from 1 to 65534, because the next port is used as well"
                )
            return cls((primary.ip,), (primary.port, primary.port + 1))
        if primary.ip == alternate.ip or primary.port == alternate.port:
            raise ArgumentError(
                "stun-alternate", str(alternate), f"an address and a port that both differ from {primary}"
            )
        return cls((primary.ip, alternate.ip), (primary.port, alternate.port))

    @property
    def endpoints(self) -> list[Endpoint]:
        """All endpoints: the primary one, the other port of the primary address, then those of the second address."""
        return [Endpoint(ip, port) for ip in self.ips for port in self.ports]

    @property
    def alternated(self) -> bool:
        """Whether there is a second address, which RFC 5780 requires for OTHER-ADDRESS."""
        return len(self.ips) > 1

    def changed(self, at: Endpoint, change: Change) -> Endpoint:
        """Return the endpoint that CHANGE-REQUEST selects, relative to the one where the request arrived."""
        ip = next(ip for ip in self.ips if ip != at.ip) if change.address else at.ip
        port = next(port for port in self.ports if port != at.port) if change.port else at.port
        return Endpoint(ip, port)


def answer(
    request: Message, source: Endpoint, at: Endpoint, addresses: StunAddresses, *, datagram: bool
) -> tuple[Message, Endpoint, Endpoint] | None:
    """Return the response to a message from `source` that arrived `at`, its origin and its destination; None for no
    response."""
    if request.kind is not MessageClass.REQUEST:
        return None
    refused = list(request.not_understood)
    if request.change not in (None, _STAY) and not (datagram and addresses.alternated):
        refused.append(stun.CHANGE_REQUEST)
    wanted = request.response_port if datagram else None
    elsewhere = Endpoint(source.ip, wanted) if wanted and wanted != source.port else None
    if elsewhere is not None and refuses_target(elsewhere, at.ip, addresses.ips) is not None:
        refused.append(stun.RESPONSE_PORT)
    if refused:
        error = (stun.UNKNOWN_ATTRIBUTE, "Unknown Attribute")
        return (
            Message(
                MessageClass.ERROR,
                request.transaction,
                error=error,
                unknown=tuple(refused),
                fingerprint=request.fingerprint,
            ),
            at,
            source,
        )
    origin = addresses.changed(at, request.change or _STAY)
    port = source.port if wanted is None else wanted
    response = Message(
        MessageClass.SUCCESS,
        request.transaction,
        mapped=source,
        origin=origin,
        other=addresses.changed(at, Change(address=True, port=True)) if addresses.alternated else None,
        fingerprint=request.fingerprint,
    )
    return response, origin, Endpoint(source.ip, port)


class StunServer:
    """A STUN server that listens from its construction and answers after `start`. Raises `ArgumentError`.

    Connections count in `limiter`, together with all others of the edge; `on_refused` is called for rejected ones. At
    most `MAX_CONNECTIONS` connections that have sent a request are open; one more replaces the one that has been idle
    longest. Requests over UDP and TCP together have a limited rate per address.
    """

    def __init__(
        self,
        addresses: StunAddresses,
        limiter: RateLimiter | None = None,
        on_refused: OnRefused = lambda _public, _error: None,
    ) -> None:
        self.addresses = addresses
        self._limiter = RateLimiter(Limits()) if limiter is None else limiter
        self._requests = RateLimiter(
            self._limiter.limits
        )  # a separate table, because sources of datagrams can be forged
        self._on_refused = on_refused
        self._udp: dict[Endpoint, socket.socket] = {}
        self._tcp: dict[Endpoint, socket.socket] = {}
        self._transports: dict[Endpoint, asyncio.DatagramTransport] = {}
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.full: set[Endpoint] = set()
        """The endpoints whose send buffer is full."""
        self._asking: dict[asyncio.StreamWriter, None] = {}  # longest idle first
        for endpoint in addresses.endpoints:
            try:
                self._udp[endpoint] = udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                udp.setblocking(False)
                udp.bind(endpoint)
                self._tcp[endpoint] = LimitedListener(endpoint, self._limiter, on_refused, tls=False, explain=False)
            except OSError as error:
                self._close_sockets()
                expected = f"a free endpoint of this machine ({error.strerror})"
                raise ArgumentError("stun", str(endpoint), expected) from None

    async def start(self) -> None:
        """Answer until `close`."""
        loop = asyncio.get_running_loop()
        for endpoint, sock in self._udp.items():
            transport, _protocol = await loop.create_datagram_endpoint(lambda at=endpoint: _Udp(self, at), sock=sock)  # type: ignore[misc]
            self._transports[endpoint] = transport
        for listener in self._tcp.values():
            server = await asyncio.start_server(self._accepted, sock=listener, backlog=BACKLOG, limit=_MAX_MESSAGE)
            self._servers.append(server)

    async def close(self) -> None:
        """Stop listening and close every connection."""
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for transport in self._transports.values():
            transport.close()
        self._close_sockets()

    def receive(self, data: bytes, source: Endpoint, at: Endpoint) -> None:
        """Answer a datagram if it is a request within the rate limit of its source."""
        try:
            request = stun.decode(data)
            self._requests.take("stun_rate", source.ip)
        except FrameError:
            return
        except LimitError as error:
            self._on_refused(str(source), error)
            return
        replied = answer(request, source, at, self.addresses, datagram=True)
        if replied is not None and replied[2].port != 0:
            self.send(replied[0].encode(), *replied[1:])

    def send(self, data: bytes, origin: Endpoint, destination: Endpoint) -> None:
        """Send a datagram from one of the endpoints, or drop it if the send buffer is full."""
        if origin not in self.full:
            self._transports[origin].sendto(data, destination)

    def _close_sockets(self) -> None:
        for sock in (*self._udp.values(), *self._tcp.values()):
            sock.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._connections.add(task)
        writer.transport.set_write_buffer_limits(high=_MAX_UNSENT)
        source = Endpoint(*writer.get_extra_info("peername"))
        try:
            async with asyncio.timeout(FIRST_S):
                message = await read_message(reader)
            with self._counted(writer, source):
                await self._converse(message, reader, writer)
        except LimitError as error:
            self._on_refused(str(source), error)
        except (FrameError, OSError, EOFError, TimeoutError):
            pass  # no STUN, or the connection is lost
        except asyncio.CancelledError:
            pass  # asyncio.start_server would report it as an error
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    @contextlib.contextmanager
    def _counted(self, writer: asyncio.StreamWriter, source: Endpoint) -> Iterator[None]:
        """Count a connection that has sent a request. Raises `LimitError`."""
        self._limiter.hold("stun_connections", source.ip)
        try:
            admission = self._limiter.admissions.get(writer.get_extra_info("socket").fileno())
            if admission is not None:
                admission.settle()
            while len(self._asking) >= MAX_CONNECTIONS:
                longest_silent = next(iter(self._asking))
                del self._asking[longest_silent]
                abort_transport(longest_silent.transport)
            yield
        finally:
            self._asking.pop(writer, None)
            self._limiter.release("stun_connections", source.ip)

    async def _converse(self, message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at, source = (Endpoint(*writer.get_extra_info(name)) for name in ("sockname", "peername"))
        while True:
            self._asking.pop(writer, None)
            self._asking[writer] = None
            self._requests.take("stun_rate", source.ip)
            replied = answer(message, source, at, self.addresses, datagram=False)
            async with asyncio.timeout(IDLE_S):
                if replied is not None:
                    writer.write(replied[0].encode())
                    await writer.drain()
                message = await read_message(reader)


async def read_message(reader: asyncio.StreamReader) -> Message:
    """Return the next message of a TCP connection. Raises `FrameError`, or `EOFError` at its end."""
    header = await reader.readexactly(stun.HEADER_SIZE)
    _kind, length, _transaction = stun.decode_header(header)
    if length > _MAX_MESSAGE:
        raise FrameError(f"STUN: expected at most {_MAX_MESSAGE} bytes, got {length}")
    return stun.decode(header + await reader.readexactly(length))


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: StunServer, at: Endpoint) -> None:
        self._server, self._at = server, at

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.receive(data, Endpoint(*addr), self._at)

    def pause_writing(self) -> None:
        self._server.full.add(self._at)

    def resume_writing(self) -> None:
        self._server.full.discard(self._at)

    def error_received(self, exc: Exception) -> None:
        """Ignore an ICMP error for an earlier datagram."""
