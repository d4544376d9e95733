"""The tests over TCP. STUN over TCP shows the mapping behavior; connections from an edge show the filtering.

Each test uses its own local ports, so that no test opens a pinhole for another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Awaitable, Iterable, Iterator
from typing import Any

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import FrameError
from punchlab.punch.nat import probe
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior
from punchlab.punch.nat.probe import NotTested
from punchlab.punch.net.sockets import PORTS, bound_socket, choose_local, connect_result
from punchlab.punch.probe import stun
from punchlab.punch.probe.frames import CONNECTED, Dialled
from punchlab.punch.probe.lifetime import survives
from punchlab.punch.probe.patience import EXPECTED, answer_or_silence, within
from punchlab.punch.probe.servers import Servers
from punchlab.punch.probe.stun import Message, MessageClass

FRESH_SOCKETS = 8


class TcpTests:
    """The tests. `patience_s` is the timeout of each answer. `moved`: the source of some packet was changed in
    transit."""

    def __init__(self, servers: Servers, patience_s: float) -> None:
        self._servers, self._patience_s = servers, patience_s
        self.moved = False
        self._answered = False

    async def allocations(self) -> list[tuple[Endpoint, Endpoint]]:
        """Return local and external endpoints of fresh sockets, in order; empty if the server does not answer."""
        found: list[tuple[Endpoint, Endpoint]] = []
        with contextlib.ExitStack() as connections:
            for _number in range(FRESH_SOCKETS):
                local = choose_local(None, self._servers.primary)
                external = await self._mapped(connections, local, self._servers.primary)
                if external is None:
                    if not found:
                        break
                    continue
                found.append((local, external))
        return found

    async def mapping(self) -> MappingBehavior | NotTested:
        """RFC 5780 section 4.3, with one connection to each endpoint, all from one local endpoint."""
        local = choose_local(None, self._servers.primary)
        seen: list[Endpoint | None] = []
        with contextlib.ExitStack() as connections:
            for server in self._servers.endpoints:
                external = None if server is None else await self._mapped(connections, local, server)
                if external is None and server is not None:
                    return NotTested(f"{server} does not answer")
                seen.append(external)
        first, *others = seen
        return NotTested("no server") if first is None else probe.mapping(first, *others)

    async def filtering(self) -> FilteringBehavior | NotTested:
        """Like RFC 5780 section 4.4, but with inbound connections from endpoints to which nothing was sent."""
        from_port, from_address = await asyncio.gather(
            self._admits(self._servers.other_port), self._admits(self._servers.other_both)
        )
        if isinstance(from_port, NotTested):
            return from_port
        if isinstance(from_address, NotTested):
            return from_address
        return probe.filtering(from_port, from_address)

    async def _admits(self, origin: Endpoint | None) -> bool | NotTested | None:
        """Return whether a fresh port of that address can connect to a mapping created towards the primary endpoint."""
        if origin is None:
            return None
        local = choose_local(None, self._servers.primary)
        with contextlib.ExitStack() as connections:
            external = await self._mapped(connections, local, self._servers.primary)
            if external is None:
                return NotTested(f"{self._servers.primary} does not answer")
            listener = connections.enter_context(_listening(local))
            arrival = asyncio.create_task(_accept(listener))
            try:
                dialled = await self._servers.dial_back("tcp", origin, external, self._patience_s)
                if isinstance(dialled, NotTested):
                    return dialled
                # The last packet of the handshake may still be in transit.
                done, _pending = await asyncio.wait(
                    [arrival], timeout=self._patience_s if dialled.result == CONNECTED else 0
                )
                if done:
                    self.moved |= arrival.result() != dialled.origin
                    return True
                if dialled.result == CONNECTED:
                    return NotTested(f"another server answers at {external}")
                return False
            finally:
                await _cancelled(arrival)

    async def hairpinning(self) -> str | NotTested:
        """RFC 5382 section 7.2: two sockets connect to each other's external endpoint, and each opens its own filter.

        A hairpinned SYN with an internal source is never detected: its SYN-ACK bypasses the NAT and is rejected. The
        test takes the same time with every result, because the server chooses the external endpoints.
        """
        ends: list[tuple[Endpoint, Endpoint]] = []
        with contextlib.ExitStack() as connections:
            for _number in range(2):
                local = choose_local(None, self._servers.primary)
                external = await self._mapped(connections, local, self._servers.primary)
                if external is None:
                    return NotTested(f"{self._servers.primary} does not answer")
                why = self._servers.named.reach.refuses_peer(external)
                if why is not None:
                    return NotTested(f"the server reports that this host is at {external}: {why}")
                ends.append((local, external))
            (one, one_outside), (other, other_outside) = ends
            listeners = [connections.enter_context(_listening(local)) for local in (one, other)]
            arrivals = [asyncio.create_task(_accept(listener)) for listener in listeners]
            dials = [
                asyncio.create_task(_dial(local, target))
                for local, target in ((one, other_outside), (other, one_outside))
            ]
            over = asyncio.create_task(asyncio.sleep(self._patience_s))
            try:
                connected = await within(self._patience_s, _any([*arrivals, *dials]))
                await over
            finally:
                over.cancel()
                for task in (*arrivals, *dials):
                    await _cancelled(task)
        return "external-source" if connected else "none"

    async def icmp_errors(self) -> str | NotTested:
        """Not tested: a closed TCP port answers with a RST, not with an ICMP error."""
        return NotTested("closed ports of a server answer a SYN with a RST; see UDP")

    async def unsolicited(self, external_ip: str, wait_s: float) -> Dialled | NotTested:
        """Return the answer to a SYN that matches no mapping (RFC 5382 section 4.3)."""
        target = Endpoint(external_ip, random.choice(PORTS))
        return await self._servers.dial_back("tcp", self._servers.primary, target, wait_s)

    async def lives(self, idle_s: float) -> bool | NotTested:
        """Return whether a connection still carries data after that idle time (RFC 5382 REQ-5)."""
        return await survives(self._idle, idle_s)

    async def _idle(self, idle_s: float) -> tuple[bool | NotTested, float]:
        """Return whether a connection carries data after that time, and how long it was idle."""
        primary, clock, idled_s = self._servers.primary, asyncio.get_running_loop().time, idle_s
        try:
            with contextlib.ExitStack() as connections:
                sock = connections.enter_context(bound_socket(choose_local(None, primary)))
                before = await self._bound(sock, primary)
                if before is None:
                    return NotTested(f"{primary} does not answer"), idled_s
                begun = clock()
                await asyncio.sleep(idle_s)
                idled_s = clock() - begun
                if await within(self._patience_s, binding(sock)) == before:
                    return True, idled_s
                # Silence counts only if the server answers on a fresh connection.
                fresh = await self._mapped(connections, choose_local(None, primary), primary)
                return NotTested(f"{primary} does not answer") if fresh is None else False, idled_s
        except (EOFError, FrameError):
            return NotTested(f"{primary} closed a connection that was idle for {idle_s:g} s"), idled_s
        except OSError:
            return False, idled_s

    async def _mapped(self, connections: contextlib.ExitStack, local: Endpoint, server: Endpoint) -> Endpoint | None:
        """Connect from `local` and return what the server sees; `connections` keeps the connection open."""
        try:
            return await self._bound(connections.enter_context(bound_socket(local)), server)
        except OSError:  # no socket is available
            return None

    async def _bound(self, sock: socket.socket, server: Endpoint) -> Endpoint | None:
        """Connect and return what the server sees; None if it does not answer, after the same time for every reason."""
        patience_s = self._patience_s * (EXPECTED if self._answered else 1)
        external = await answer_or_silence(patience_s, _connect_and_bind(sock, server))
        if external is not None:
            self._answered = True
            self._servers.answered(server)
        return external


async def binding(sock: socket.socket) -> Endpoint | None:
    """Perform a STUN Binding transaction over a connection. Raises `OSError`, `EOFError` and `FrameError`."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, Message(MessageClass.REQUEST).encode())
    received = b""
    wanted = stun.HEADER_SIZE
    while len(received) < wanted:
        chunk = await loop.sock_recv(sock, wanted - len(received))
        if not chunk:
            raise EOFError
        received += chunk
        if len(received) == stun.HEADER_SIZE:
            wanted += stun.decode_header(received)[1]
    return stun.decode(received).mapped


async def _connect_and_bind(sock: socket.socket, server: Endpoint) -> Endpoint | None:
    await asyncio.get_running_loop().sock_connect(sock, server)
    return await binding(sock)


async def _any(ends: Iterable[Awaitable[object]]) -> bool:
    """Return whether one of the awaitables returns a true result."""
    for ended in asyncio.as_completed(ends):
        if await ended:
            return True
    return False


@contextlib.contextmanager
def _listening(local: Endpoint) -> Iterator[socket.socket]:
    with bound_socket(local) as listener:
        listener.listen(4)
        yield listener


async def _accept(listener: socket.socket) -> Endpoint:
    """Return the source of the next connection, which is closed at once."""
    accepted, source = await asyncio.get_running_loop().sock_accept(listener)
    accepted.close()
    return Endpoint(*source)


async def _dial(local: Endpoint, target: Endpoint) -> bool:
    """Return whether `target` accepts a connection from `local`."""
    try:
        with bound_socket(local) as sock:
            sock.connect_ex(target)
            return await connect_result(sock) == 0
    except OSError:
        return False


async def _cancelled(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
