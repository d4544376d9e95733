"""The endpoint as a WebSocket server: clients at `/`, links of the mesh at `/mesh`, probing clients at `/probe`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import signal
import socket
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from punch.edge.mesh import PATH as MESH_PATH
from punch.edge.mesh import Mesh
from punch.edge.session import Directory, Registration
from punch.endpoint import EdgeUrl, Endpoint
from punch.errors import FrameError, InputError, RefusedError
from punch.events import Reporter
from punch.frames import MAX_FRAME, Contact, Peer, Welcome, parse_register, peer_frame, welcome_frame
from punch.probe.dialback import DialBack
from punch.probe.frames import PATH as PROBE_PATH
from punch.probe.responder import StunAddresses, StunServer

CLIENT_PATH = "/"
REGISTER_TIMEOUT_S = 10.0
DEFAULT_LIFETIME_S = 600.0
OVERLOAD_INTERVAL_S = 10.0
POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1


class Edge:
    """One endpoint of the edge network, listening at `address` from the moment it is made.

    `lifetime_s` bounds how long a client waits for its peer, and how long the mesh remembers a session. With `stun` it
    answers STUN there, and probing clients. Raises `InputError` if an address cannot be listened on.
    """

    def __init__(
        self,
        listen: Endpoint,
        report: Reporter,
        *,
        name: str | None,
        lifetime_s: float,
        stun: StunAddresses | None = None,
    ) -> None:
        try:
            self._socket = socket.create_server(listen, backlog=128)
        except OSError as error:
            raise InputError("listen", str(listen), f"a free address of this machine ({error.strerror})") from None
        # Accepted sockets inherit this; asyncio sets it only on those made with an explicit protocol number.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = Endpoint(*self._socket.getsockname())
        self.name = name or str(self.address)
        self._lifetime_s = lifetime_s
        self._overload_due = 0.0
        self._report = report
        self._mesh = Mesh(self.name, lifetime_s, report)
        self._directory = Directory(self.name, self._mesh, report)
        self._stun: StunServer | None = None
        self._dial_back: DialBack | None = None
        if stun is not None:
            try:
                self._stun = StunServer(stun)
            except BaseException:
                self._socket.close()
                raise
            self._dial_back = DialBack(self.name, self._stun, report)

    async def run(self, join: list[EdgeUrl], stop: asyncio.Event) -> None:
        """Serve, linked to the endpoints in `join`, until `stop` is set."""
        server = await serve(
            self._handle,
            sock=self._socket,
            process_request=self._check_path,
            max_size=MAX_FRAME,
            compression=None,
            close_timeout=1,
            logger=_logger(),
        )
        links = [asyncio.create_task(self._mesh.maintain(url)) for url in join]
        if self._stun is not None:
            await self._stun.start()
        self._report("listening", name=self.name, address=str(self.address))
        try:
            await stop.wait()
        finally:
            for link in links:
                link.cancel()
            await asyncio.gather(*links, return_exceptions=True)
            server.close()
            await server.wait_closed()
            if self._stun is not None:
                await self._stun.close()

    def _check_path(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path in (CLIENT_PATH, MESH_PATH):
            return None
        if request.path == PROBE_PATH and self._dial_back is not None:
            return None
        told = f"clients connect to {CLIENT_PATH}, edges to {MESH_PATH}, with --stun those that probe to {PROBE_PATH}\n"
        return connection.respond(HTTPStatus.NOT_FOUND, told)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle what asyncio cannot raise anywhere. Out of descriptors it says so hundreds of times a second."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() >= self._overload_due:
            self._overload_due = loop.time() + OVERLOAD_INTERVAL_S
            self._report("overloaded", reason=error.strerror)

    async def _handle(self, connection: ServerConnection) -> None:
        if connection.remote_address is None:  # gone already
            return
        public = Endpoint(*connection.remote_address)
        if connection.request is not None and connection.request.path == MESH_PATH:
            await self._mesh.serve(connection, str(public))
            return
        try:
            if self._dial_back is not None and connection.request is not None and connection.request.path == PROBE_PATH:
                await self._dial_back.serve(connection, public)
            else:
                await self._serve_client(connection, public)
        except (FrameError, RefusedError, TimeoutError) as error:
            reason = str(error) or "did not register in time"
            self._report("rejected", public=str(public), reason=reason)
            await connection.close(POLICY_VIOLATION, reason[:123])
        except ConnectionClosed as closed:
            # The WebSocket layer itself ended it: too long a frame, invalid UTF-8, a broken header.
            if closed.sent is not None and not closed.rcvd_then_sent and closed.sent.code in (1002, 1007, 1009):
                self._report("rejected", public=str(public), reason=closed.sent.reason)

    async def _serve_client(self, connection: ServerConnection, public: Endpoint) -> None:
        async with asyncio.timeout(REGISTER_TIMEOUT_S):
            register = parse_register(await connection.recv())
        outbox: asyncio.Queue[Peer | str] = asyncio.Queue()
        contact = Contact(public, register.private, register.pake)
        registration = Registration(
            register.session, register.role, contact, deliver=outbox.put_nowait, dismiss=outbox.put_nowait
        )
        self._directory.join(registration)
        session, role = registration.session, registration.role
        reason = "sent a frame that must not come"
        writer = asyncio.create_task(self._write(connection, Welcome(self.name, public), outbox))
        expiry = asyncio.get_running_loop().call_later(self._lifetime_s, outbox.put_nowait, "session expired")
        try:
            await connection.recv()
            raise FrameError("unexpected frame after register")
        except ConnectionClosed as closed:
            reason = _why(closed)
            raise
        finally:
            expiry.cancel()
            self._directory.leave(registration)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await writer
            self._report("client_gone", session=session, role=role, reason=reason)

    async def _write(self, connection: ServerConnection, welcome: Welcome, outbox: asyncio.Queue[Peer | str]) -> None:
        """Send the welcome, then what the session has to say: the peer, or (a string) why there will be none."""
        await connection.send(welcome_frame(welcome))
        while True:
            item = await outbox.get()
            if isinstance(item, str):
                await connection.close(POLICY_VIOLATION, item[:123])
            else:
                await connection.send(peer_frame(item))


def _why(closed: ConnectionClosed) -> str:
    """Why a client is gone, in words."""
    if closed.sent is not None and not closed.rcvd_then_sent:
        return closed.sent.reason or "edge is closing"
    if closed.rcvd is not None:
        return closed.rcvd.reason or "left"
    return "connection lost"


def _logger() -> logging.Logger:
    """websockets' log without the traceback for each port scan; what it calls errors otherwise are bugs of ours."""
    logger = logging.getLogger("punch.edge.websockets")
    logger.setLevel(logging.ERROR)
    logger.addFilter(_is_not_about_a_handshake)
    return logger


def _is_not_about_a_handshake(record: logging.LogRecord) -> bool:
    return record.msg != "opening handshake failed"


async def serve_until_signal(edge: Edge, join: list[EdgeUrl]) -> None:
    """Run `edge` until SIGTERM or SIGINT."""
    # Each client holds a descriptor while it waits; 1024, the usual limit for no better reason than select(2), is soon
    # used up, and then nobody gets in.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(edge.on_loop_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await edge.run(join, stop)
