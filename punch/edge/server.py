"""The endpoint as a WebSocket server: clients at `/`, mesh links at `/mesh`, probing clients at `/probe`, relay at
`/relay`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from punchlab.punch.codec import decode, encode
from punchlab.punch.edge.bus.interface import Bus
from punchlab.punch.edge.bus.mesh import PATH as MESH_PATH
from punchlab.punch.edge.bus.mesh import Mesh
from punchlab.punch.edge.connection import POLICY_VIOLATION, SETTINGS, EdgeConnection, Outbox
from punchlab.punch.edge.contacts import allowed_candidates
from punchlab.punch.edge.http import CLIENT_PATH, Access, HttpHandler
from punchlab.punch.edge.limits import LimitError, Limits, RateLimiter
from punchlab.punch.edge.listener import BACKLOG, LimitedListener, widen
from punchlab.punch.edge.metrics import Metrics
from punchlab.punch.edge.probing.dialback import DialBack
from punchlab.punch.edge.probing.responder import StunAddresses, StunServer
from punchlab.punch.edge.reflexive import ReflexiveAddresses
from punchlab.punch.edge.rejection import rejection
from punchlab.punch.edge.relay import Relay, RelayOffer
from punchlab.punch.edge.session import Directory, Registration
from punchlab.punch.edge.tls import HANDSHAKE_TIMEOUT_S, ServerTls, save_memory
from punchlab.punch.endpoint import EdgeUrl, Endpoint
from punchlab.punch.errors import ArgumentError, FrameError, RefusedError
from punchlab.punch.events import Reporter
from punchlab.punch.frames import (
    Contact,
    Peer,
    PeerSignal,
    Register,
    Welcome,
)
from punchlab.punch.probe.frames import PATH as PROBE_PATH
from punchlab.punch.reflexive import PATH as REFLEXIVE_PATH
from punchlab.punch.relay import PATH as RELAY_PATH

REGISTER_TIMEOUT_S = 10.0
DEFAULT_LIFETIME_S = 600.0
OVERLOAD_INTERVAL_S = 10.0
_CANCEL_AGAIN_S = 1.0


@dataclass(frozen=True)
class Settings:
    """The operator's settings. `drain_s` is how long an edge that shuts down waits for its clients to get their
    peers."""

    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
    tls: ServerTls | None = None
    drain_s: float = 0.0
    relay: RelayOffer | None = None


class Edge:
    """One endpoint of the edge network. It listens at its `addresses` from its construction.

    These are `listen`, which becomes its `address`, and those in `also`, usually IPv6 in addition to IPv4.

    `lifetime_s` limits how long a client waits for its peer, and how long the bus stores a session. With `nats` (URLs
    of the servers of a cluster) the bus uses NATS, otherwise it is a mesh. With `stun` the edge also answers STUN and
    serves probing clients. Raises `ArgumentError` if an address is not available, or the bus needs a missing package.
    """

    def __init__(
        self,
        listen: Endpoint,
        report: Reporter,
        *,
        name: str | None,
        lifetime_s: float,
        stun: StunAddresses | None = None,
        nats: Sequence[str] = (),
        settings: Settings | None = None,
        also: Sequence[Endpoint] = (),
    ) -> None:
        self._settings = settings or Settings()
        self.metrics = Metrics()
        self._report = report = self.metrics.counting(report)
        self._limiter = RateLimiter(self._settings.limits)
        self._limiter.on_ended = partial(self.metrics.count, "limited", limit="edge_pending")
        self._sockets: list[LimitedListener] = []
        for each in (listen, *also):
            self._listen(each)
        self.addresses = tuple(Endpoint.of(each.getsockname()) for each in self._sockets)
        self.address = self.addresses[0]
        self.name = name or str(self.address)
        self._lifetime_s = lifetime_s
        self._overload_due = 0.0
        self._mesh = None if nats else Mesh(self.name, lifetime_s, report)
        self._bus: Bus = self._mesh or nats_bus(nats, self.name, lifetime_s, report)
        self._directory = Directory(self.name, self._bus, report)
        self._clients = 0
        self._no_clients = asyncio.Event()
        self._reflexive = ReflexiveAddresses(self.addresses, lifetime_s)
        paths = {CLIENT_PATH, REFLEXIVE_PATH, *((MESH_PATH,) if self._mesh else ()), *((PROBE_PATH,) if stun else ())}
        relay = self._settings.relay
        paths |= {RELAY_PATH} if relay else set()
        self._relay_url = None if relay is None else relay.url
        self._relay = None if relay is None else Relay(relay.terms, self._limiter, report)
        self._http = HttpHandler(self._settings.access, self.metrics, report, paths)
        self._add_gauges()
        self._stun: StunServer | None = None
        self._dial_back: DialBack | None = None
        if stun is not None:
            try:
                self._stun = StunServer(stun, self._limiter, self._on_refused)
            except BaseException:
                self._close_sockets()
                raise
            self._dial_back = DialBack(self.name, self._stun, self._limiter, report)

    def _listen(self, at: Endpoint) -> None:
        try:
            tls = self._settings.tls is not None
            self._sockets.append(LimitedListener(at, self._limiter, self._on_refused, tls=tls, explain=True))
        except OSError as error:
            self._close_sockets()
            raise ArgumentError("listen", str(at), f"a free address of this machine ({error.strerror})") from None

    def _close_sockets(self) -> None:
        for each in self._sockets:
            each.close()

    def _add_gauges(self) -> None:
        gauge, limiter, total = self.metrics.gauge, self._limiter, self.metrics.total
        gauge("connections", "Open connections.", lambda: limiter.connections)
        gauge("pending", "Connections whose clients have not registered.", lambda: limiter.pending)
        gauge("addresses", "Client addresses in the tables of the limits.", lambda: len(limiter))
        gauge("clients", "Registered clients.", lambda: self._clients)
        gauge("sessions", "Sessions with a client here.", lambda: self._directory.count)
        gauge("links", "Links to other endpoints.", lambda: total("joined") - total("left"))

    async def run(self, join: list[EdgeUrl], stop: asyncio.Event) -> None:
        """Serve, linked to the endpoints in `join`, until `stop` is set."""
        servers = [await self._serve(each) for each in self._sockets]
        if self._mesh is not None:
            for url in join:
                self._mesh.join(url)
        bus, stopped = asyncio.create_task(self._bus.run()), asyncio.create_task(stop.wait())
        if self._stun is not None:
            await self._stun.start()
        also = {"also": [str(each) for each in self.addresses[1:]]} if self.addresses[1:] else {}
        self._report("listening", name=self.name, address=str(self.address), **also)
        try:
            await asyncio.wait((bus, stopped), return_when=asyncio.FIRST_COMPLETED)
            if bus.done():
                bus.result()
            await self._drain()
        finally:
            await _cancelled(bus, stopped)
            for server in servers:
                server.close()
            for server in servers:
                await server.wait_closed()
            if self._stun is not None:
                await self._stun.close()

    async def _serve(self, listener: LimitedListener) -> Server:
        tls = self._settings.tls
        if tls is not None:
            save_memory()
        return await serve(
            self._handle,
            sock=listener,
            backlog=BACKLOG,
            process_request=self._http.answer,
            process_response=self._reflexive.process_response,
            create_connection=cast("type[ServerConnection]", partial(EdgeConnection, limiter=self._limiter)),
            logger=_logger(),
            ssl=None if tls is None else tls.context,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT_S,
            **SETTINGS,
        )

    async def _drain(self) -> None:
        """Reject new clients, and wait up to `drain_s` for the registered ones to leave."""
        self._http.draining = True
        self._report("draining", clients=self._clients)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                while self._clients:
                    self._no_clients.clear()
                    await self._no_clients.wait()

    def reload(self) -> None:
        """Read the TLS certificate again. If it is not usable, report that and keep the old one."""
        if self._settings.tls is None:
            return
        try:
            self._settings.tls.reload()
        except ArgumentError as error:
            self._report("reload_failed", reason=str(error))
        else:
            self._report("reloaded")

    def _on_refused(self, public: str, error: LimitError) -> None:
        """Count each rejection by a limit, and log only some of them, so that the log does not fill up."""
        if error.recently_reported:
            self.metrics.count("limited", limit=error.limit)
        else:
            self._report("limited", public=public, limit=error.limit, reason=str(error))

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an error that asyncio cannot raise to a caller. If the process has no free descriptor, asyncio calls
        this hundreds of times per second."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() >= self._overload_due:
            self._overload_due = loop.time() + OVERLOAD_INTERVAL_S
            self._report("overloaded", reason=error.strerror)

    async def _handle(self, connection: ServerConnection) -> None:
        if connection.remote_address is None or connection.request is None:  # already closed
            return
        assert isinstance(connection, EdgeConnection)
        public = Endpoint.of(connection.remote_address)
        path = connection.request.path.partition("?")[0]
        if self._mesh is not None and path == MESH_PATH:
            connection.trusted = True
            connection.settle()
            widen(connection.transport)
            await self._mesh.serve(connection, str(public))
            return
        try:
            if public.is_link_local:
                raise RefusedError("a link-local address, which no peer can reach")
            if self._dial_back is not None and path == PROBE_PATH:
                if public.family != socket.AF_INET:
                    raise RefusedError("probes need IPv4")
                await self._dial_back.serve(connection, public)
            elif path == REFLEXIVE_PATH:
                await self._reflexive.serve(connection, public)
            elif self._relay is not None and path == RELAY_PATH:
                await self._relay.serve(connection)
                if connection.overrun is not None:
                    self._report("rejected", public=str(public), reason=connection.overrun, kind="overrun")
            else:
                await self._serve_client(connection, public)
        except (FrameError, RefusedError, TimeoutError) as error:
            why = rejection(error)
            if isinstance(error, LimitError):
                self._on_refused(str(public), error)
            else:
                self._report("rejected", public=str(public), reason=why.logged, kind=why.kind)
            await connection.close(POLICY_VIOLATION, why.reason[:123])
        except ConnectionClosed as closed:
            if connection.overrun is not None:
                self._report("rejected", public=str(public), reason=connection.overrun, kind="overrun")
            # Closed by the WebSocket library itself: the frame is too long, or not UTF-8, or its header is invalid.
            elif closed.sent is not None and not closed.rcvd_then_sent and closed.sent.code in (1002, 1007, 1009):
                self._report("rejected", public=str(public), reason=closed.sent.reason, kind="websocket")

    async def _serve_client(self, connection: EdgeConnection, public: Endpoint) -> None:
        async with asyncio.timeout(REGISTER_TIMEOUT_S):
            register = decode(await connection.recv(), Register)
        with contextlib.ExitStack() as stack:
            ticket = None
            if self._relay is not None:
                ticket = stack.enter_context(self._relay.tickets.issue(register.session, register.client))
            await self._serve_registered(connection, public, register, ticket)

    async def _serve_registered(
        self, connection: EdgeConnection, public: Endpoint, register: Register, ticket: str | None
    ) -> None:
        outbox: asyncio.Queue[Peer | PeerSignal | str] = Outbox(connection)

        def deliver(peer: Peer) -> None:
            if self._relay is not None and ticket is not None:
                self._relay.tickets.open(ticket)
            outbox.put_nowait(peer)

        registration = Registration(
            register.session,
            register.role,
            self._contact(register, public, ticket),
            deliver=deliver,
            dismiss=outbox.put_nowait,
            client=register.client,
            on_signal=lambda data: outbox.put_nowait(PeerSignal(data)),
        )
        session, role = registration.session, registration.role
        with self._registered(connection, registration, public):
            reason = "sent an invalid frame"
            welcome = Welcome(self.name, public, self._relay_url, ticket)
            writer = asyncio.create_task(self._write(connection, welcome, outbox))
            expiry = asyncio.get_running_loop().call_later(self._lifetime_s, outbox.put_nowait, "session expired")
            try:
                while True:
                    frame = await connection.recv()
                    self._limiter.take("frame_rate", public.ip)
                    self._directory.signal(registration, decode(frame, PeerSignal).data)
            except ConnectionClosed as closed:
                reason = connection.overrun or _why(closed)
                raise
            finally:
                expiry.cancel()
                self._directory.leave(registration)
                writer.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                    await writer
                self._report("client_gone", session=session, role=role, reason=reason)

    @contextlib.contextmanager
    def _registered(self, connection: EdgeConnection, registration: Registration, public: Endpoint) -> Iterator[None]:
        """Count a client and add it to its session. Raises `RefusedError`."""
        self._limiter.hold("registrations", public.ip)
        try:
            self._directory.join(registration)
            connection.settle()
            self._clients += 1
            try:
                yield
            finally:
                self._clients -= 1
                if not self._clients:
                    self._no_clients.set()
        finally:
            self._limiter.release("registrations", public.ip)

    def _contact(self, register: Register, public: Endpoint, ticket: str | None) -> Contact:
        """Return what the peer of a client gets."""
        private = allowed_candidates(register.private, public)
        public6 = self._reflexive.confirmed(register, public)
        withheld = len(register.private) - len(private) + (public6 != register.public6)
        if withheld:
            self._report("candidates_withheld", public=str(public), count=withheld)
        return Contact(public, private, register.pake, register.traits, self._relay_url, public6, ticket)

    async def _write(
        self, connection: EdgeConnection, welcome: Welcome, outbox: asyncio.Queue[Peer | PeerSignal | str]
    ) -> None:
        """Send the welcome, then each item of the outbox: the peer, its signals, or (a string) the reason for
        closing."""
        await connection.send_or_cut(encode(welcome))
        while True:
            item = await outbox.get()
            if isinstance(item, str):
                await connection.close(POLICY_VIOLATION, item[:123])
            else:
                await connection.send_or_cut(encode(item))


def nats_bus(servers: Sequence[str], name: str, lifetime_s: float, report: Reporter) -> Bus:
    """Return the bus that uses NATS. Raises `ArgumentError` if its library is missing."""
    try:
        from punchlab.punch.edge.bus.nats import NatsBus
    except ModuleNotFoundError as error:
        if error.name != "nats":
            raise
        raise ArgumentError("bus", servers[0], "the Python package nats-py (pip install punchlab[nats])") from None
    return NatsBus(servers, name, lifetime_s, report)


def _why(closed: ConnectionClosed) -> str:
    """Return why a client has disconnected."""
    if closed.sent is not None and not closed.rcvd_then_sent:
        return closed.sent.reason or "edge is closing"
    if closed.rcvd is not None:
        return closed.rcvd.reason or "left"
    return "connection lost"


def _logger() -> logging.Logger:
    """Return the log of websockets, restricted to errors in our own handlers."""
    logger = logging.getLogger("punch.edge.websockets")
    logger.setLevel(logging.ERROR)
    logger.addFilter(_is_about_our_handling)
    return logger


def _is_about_our_handling(record: logging.LogRecord) -> bool:
    return record.msg in ("connection handler failed", "process_request failed", "process_response failed")


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended: `asyncio.wait_for`, in a library, may swallow a cancellation (gh-86296)."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
