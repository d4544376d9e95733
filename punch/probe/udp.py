"""The tests over UDP. Each one uses sockets of its own, so that none has opened a door for another."""

from __future__ import annotations

import asyncio
import contextlib
import random

from punch.client.sockets import PORTS
from punch.endpoint import Endpoint
from punch.nat import probe
from punch.nat.behavior import Filtering, Mapping
from punch.nat.probe import NotTested
from punch.probe.frames import Dialled
from punch.probe.servers import Servers
from punch.probe.stun import Change, Message, MessageClass
from punch.probe.udpsocket import UdpSocket

FRESH_SOCKETS = 8
_REPEAT_S = 0.3


class UdpTests:
    """`patience_s` is how long silence has to last to be silence. `moved`: a packet's source was changed on its way."""

    def __init__(self, servers: Servers, patience_s: float) -> None:
        self._servers, self._patience_s = servers, patience_s
        self.moved = False

    async def allocations(self) -> list[tuple[Endpoint, Endpoint]]:
        """Local and external endpoints of fresh sockets, in order; empty where the server does not answer."""
        found: list[tuple[Endpoint, Endpoint]] = []
        for _number in range(FRESH_SOCKETS):
            async with UdpSocket.open(self._servers.primary) as sock:
                external = await sock.mapped(self._servers.primary, self._patience_s)
            if external is None:
                if not found:
                    break
                continue
            found.append((sock.local, external))
        return found

    async def mapping(self) -> Mapping | NotTested:
        """RFC 5780 section 4.3."""
        seen: list[Endpoint | None] = []
        async with UdpSocket.open(self._servers.primary) as sock:
            for server in self._servers.endpoints:
                external = None if server is None else await sock.mapped(server, self._patience_s)
                if external is None and server is not None:
                    return NotTested(f"{server} does not answer")
                seen.append(external)
            self.moved |= sock.moved
        first, *others = seen
        return NotTested("no server") if first is None else probe.mapping(first, *others)

    async def filtering(self) -> Filtering | NotTested:
        """RFC 5780 section 4.4; where the server cannot change its address, edges send from theirs."""
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
            external = await sock.mapped(self._servers.primary, self._patience_s)
            if external is None:
                return NotTested(f"{self._servers.primary} does not answer")
            if self._servers.changes:
                reply = await sock.bind(self._servers.primary, self._patience_s, change=change)
                self.moved |= sock.moved
                if reply is None:
                    return False
                if reply.origin != origin:
                    return NotTested(f"{self._servers.primary} does not heed CHANGE-REQUEST")
                return True
            dialled = await self._servers.knock("udp", origin, external, self._patience_s)
            if isinstance(dialled, NotTested):
                return dialled
            if sock.strays.empty():
                return False
            _message, source = sock.strays.get_nowait()
            self.moved |= source != dialled.origin
            return True

    async def hairpinning(self) -> str | NotTested:
        """RFC 4787 section 6: two sockets send to each other's external endpoint, each opening its own filter.

        Linux drops a packet from an address of its own, so that it sees an internal source only with accept_local.
        """
        async with UdpSocket.open(self._servers.primary) as one, UdpSocket.open(self._servers.primary) as other:
            ends = [await sock.mapped(self._servers.primary, self._patience_s) for sock in (one, other)]
            if ends[0] is None or ends[1] is None:
                return NotTested(f"{self._servers.primary} does not answer")
            arrivals = [asyncio.create_task(sock.strays.get()) for sock in (one, other)]
            try:
                deadline = asyncio.get_running_loop().time() + self._patience_s
                while (left := deadline - asyncio.get_running_loop().time()) > 0:
                    one.send(Message(MessageClass.INDICATION), ends[1])
                    other.send(Message(MessageClass.INDICATION), ends[0])
                    done, _pending = await asyncio.wait(
                        arrivals, timeout=min(left, _REPEAT_S), return_when=asyncio.FIRST_COMPLETED
                    )
                    if done:
                        _message, source = done.pop().result()
                        return "internal-source" if source in (one.local, other.local) else "external-source"
            finally:
                for arrival in arrivals:
                    arrival.cancel()
                await asyncio.gather(*arrivals, return_exceptions=True)
        return "none"

    async def icmp_errors(self) -> str | NotTested:
        """Whether the ICMP error comes through that a datagram to a closed port of the server causes."""
        async with UdpSocket.open(self._servers.primary) as sock:
            sock.watch_errors()
            deadline = asyncio.get_running_loop().time() + self._patience_s
            while (left := deadline - asyncio.get_running_loop().time()) > 0:
                closed = Endpoint(self._servers.primary.ip, random.choice(PORTS))
                sock.send(Message(MessageClass.INDICATION), closed)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _REPEAT_S)):
                        await sock.refused.wait()
                        return "translated"
        return "swallowed"

    async def unsolicited(self, external_ip: str, wait_s: float) -> Dialled | NotTested:
        """What a datagram gets that no mapping waits for."""
        target = Endpoint(external_ip, random.choice(PORTS))
        return await self._servers.knock("udp", self._servers.primary, target, wait_s)

    async def lives(self, idle_s: float) -> bool | NotTested:
        """Whether a mapping lives through that much idling (RFC 5780 section 4.6).

        The server is asked from another socket to answer to the idle one's port (RESPONSE-PORT), for an own packet of
        that would make its mapping anew.
        """
        primary = self._servers.primary
        async with UdpSocket.open(primary) as idle, UdpSocket.open(primary) as asking:
            external = await idle.mapped(primary, self._patience_s)
            if external is None:
                return NotTested(f"{primary} does not answer")
            await asyncio.sleep(idle_s)
            deadline = asyncio.get_running_loop().time() + self._patience_s
            while (left := deadline - asyncio.get_running_loop().time()) > 0:
                asking.send(Message(MessageClass.REQUEST, response_port=external.port), primary)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _REPEAT_S)):
                        await idle.strays.get()
                        return True
        return False
