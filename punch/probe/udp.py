"""The tests over UDP. Each test uses its own sockets, so that no test opens a pinhole for another one."""

from __future__ import annotations

import asyncio
import random

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.nat import probe
from punchlab.punch.nat.behavior import FilteringBehavior, MappingBehavior
from punchlab.punch.nat.probe import NotTested
from punchlab.punch.net.sockets import PORTS
from punchlab.punch.probe.frames import Dialled
from punchlab.punch.probe.lifetime import survives
from punchlab.punch.probe.patience import EXPECTED, within
from punchlab.punch.probe.servers import Servers
from punchlab.punch.probe.stun import Change, Message, MessageClass
from punchlab.punch.probe.udpsocket import UdpSocket

FRESH_SOCKETS = 8
_REPEAT_S = 0.3


class UdpTests:
    """The tests. `patience_s` is the timeout of each answer. `moved`: the source of some packet was changed in transit.

    Silence counts only if the primary server answers afterwards: then the server had the time to send the missing
    packet, and this process the time to read it.
    """

    def __init__(self, servers: Servers, patience_s: float) -> None:
        self._servers, self._patience_s = servers, patience_s
        self.moved = False
        self._answered = False

    async def allocations(self) -> list[tuple[Endpoint, Endpoint]]:
        """Return local and external endpoints of fresh sockets, in order; empty if the server does not answer."""
        found: list[tuple[Endpoint, Endpoint]] = []
        for _number in range(FRESH_SOCKETS):
            async with UdpSocket.open(self._servers.primary) as sock:
                external = await self._mapped(sock, self._servers.primary)
            if external is None:
                if not found:
                    break
                continue
            found.append((sock.local, external))
        return found

    async def mapping(self) -> MappingBehavior | NotTested:
        """RFC 5780 section 4.3."""
        seen: list[Endpoint | None] = []
        async with UdpSocket.open(self._servers.primary) as sock:
            for server in self._servers.endpoints:
                external = None if server is None else await self._mapped(sock, server)
                if external is None and server is not None:
                    return NotTested(f"{server} does not answer")
                seen.append(external)
            self.moved |= sock.moved
        first, *others = seen
        return NotTested("no server") if first is None else probe.mapping(first, *others)

    async def filtering(self) -> FilteringBehavior | NotTested:
        """RFC 5780 section 4.4; if the server cannot answer from another address, edges send from their addresses."""
        from_port, from_address = await asyncio.gather(
            self._admits(self._servers.other_port, Change(address=False, port=True)),
            self._admits(self._servers.other_both, Change(address=True, port=True)),
        )
        if isinstance(from_port, NotTested):
            return from_port
        if isinstance(from_address, NotTested):
            return from_address
        return probe.filtering(from_port, from_address)

    async def _admits(self, origin: Endpoint | None, change: Change) -> bool | NotTested | None:
        if origin is None:
            return None
        async with UdpSocket.open(self._servers.primary) as sock:
            external = await self._mapped(sock, self._servers.primary)
            if external is None:
                return self._no_answer
            if self._servers.changes:
                reply = await sock.bind(self._servers.primary, self._patience_s, change=change)
                if reply is None:
                    if await self._mapped(sock, self._servers.primary) is None:
                        return self._no_answer
                    reply = sock.belated
                self.moved |= sock.moved
                if reply is None:
                    return False
                if reply.origin != origin:
                    return NotTested(f"{self._servers.primary} ignores CHANGE-REQUEST")
                return True
            dialled = await self._servers.dial_back("udp", origin, external, self._patience_s)
            if isinstance(dialled, NotTested):
                return dialled
            if sock.strays.empty():
                return False
            _message, source = sock.strays.get_nowait()
            self.moved |= source != dialled.origin
            return True

    async def hairpinning(self) -> str | NotTested:
        """RFC 4787 section 6: two sockets send to each other's external endpoint, and each opens its own filter.

        Linux drops a packet whose source is one of its own addresses, so an internal source is detected only with
        accept_local.
        """
        async with UdpSocket.open(self._servers.primary) as one, UdpSocket.open(self._servers.primary) as other:
            ends = [await self._mapped(sock, self._servers.primary) for sock in (one, other)]
            if ends[0] is None or ends[1] is None:
                return self._no_answer
            for end in (ends[0], ends[1]):
                why = self._servers.named.reach.refuses_peer(end)
                if why is not None:
                    return NotTested(f"the server reports that this host is at {end}: {why}")
            arrivals = [asyncio.create_task(sock.strays.get()) for sock in (one, other)]
            try:
                deadline = asyncio.get_running_loop().time() + self._patience_s
                while (left := deadline - asyncio.get_running_loop().time()) > 0:
                    one.send(Message(MessageClass.INDICATION), ends[1])
                    other.send(Message(MessageClass.INDICATION), ends[0])
                    await asyncio.wait(arrivals, timeout=min(left, _REPEAT_S), return_when=asyncio.FIRST_COMPLETED)
                    if any(arrival.done() for arrival in arrivals):
                        break
                else:
                    if None in [await self._mapped(sock, self._servers.primary) for sock in (one, other)]:
                        return self._no_answer
                for arrival in arrivals:
                    if arrival.done():
                        _message, source = arrival.result()
                        return "internal-source" if source in (one.local, other.local) else "external-source"
            finally:
                for arrival in arrivals:
                    arrival.cancel()
                await asyncio.gather(*arrivals, return_exceptions=True)
        return "none"

    async def icmp_errors(self) -> str | NotTested:
        """Return whether the ICMP error that a datagram to a closed port of the server causes is received."""
        async with UdpSocket.open(self._servers.primary) as sock:
            sock.watch_errors()
            deadline = asyncio.get_running_loop().time() + self._patience_s
            while (left := deadline - asyncio.get_running_loop().time()) > 0:
                closed = Endpoint(self._servers.primary.ip, random.choice(PORTS))
                sock.send(Message(MessageClass.INDICATION), closed)
                if await within(min(left, _REPEAT_S), sock.refused.wait()):
                    return "translated"
            if await self._mapped(sock, self._servers.primary) is None:
                return self._no_answer
            return "translated" if sock.refused.is_set() else "swallowed"

    async def unsolicited(self, external_ip: str, wait_s: float) -> Dialled | NotTested:
        """Return the answer to a datagram that matches no mapping."""
        target = Endpoint(external_ip, random.choice(PORTS))
        return await self._servers.dial_back("udp", self._servers.primary, target, wait_s)

    async def lives(self, idle_s: float) -> bool | NotTested:
        """Return whether a mapping survives that idle time (RFC 5780 section 4.6)."""
        return await survives(self._idle, idle_s)

    async def _idle(self, idle_s: float) -> tuple[bool | NotTested, float]:
        """Return whether a mapping survives that time, and how long it was idle before the test.

        Another socket asks the server to answer to the port of the idle one (RESPONSE-PORT), because a packet from the
        idle socket itself would create its mapping again.
        """
        primary = self._servers.primary
        async with UdpSocket.open(primary) as idle, UdpSocket.open(primary) as asking:
            external = await self._mapped(idle, primary)
            if external is None:
                return self._no_answer, idle_s
            clock = asyncio.get_running_loop().time
            begun = clock()
            await asyncio.sleep(idle_s)
            tested = clock()
            while (left := tested + self._patience_s - clock()) > 0:
                asking.send(Message(MessageClass.REQUEST, response_port=external.port), primary)
                if await within(min(left, _REPEAT_S), idle.strays.get()):
                    return True, tested - begun
            if await self._mapped(asking, primary) is None:
                return self._no_answer, tested - begun
            return not idle.strays.empty(), tested - begun

    async def _mapped(self, sock: UdpSocket, server: Endpoint) -> Endpoint | None:
        """Return the socket's external endpoint as the server sees it; a server that has answered before gets more
        time."""
        external = await sock.mapped(server, self._patience_s * (EXPECTED if self._answered else 1))
        if external is not None:
            self._answered = True
            self._servers.answered(server)
        return external

    @property
    def _no_answer(self) -> NotTested:
        return NotTested(f"{self._servers.primary} does not answer")
