"""The client's side of `punch.reflexive`: IPv6 beside an IPv4 rendezvous, which never waits long for it.

Only a host that has an IPv6 address, at an edge that has one too, does anything here. The second connection is made
while the strategy looks at the NAT; where that takes no time, the registration waits for it as long as a connection
should take, judging by the first one. IPv6 that is broken costs that much, once, and not the punch itself.

The IPv6 address is what the edge says. So it has to be one that an edge may name (`punch.net.reach`), it is tried a
few times in a session, and where there is no edge that takes as long as where nothing answers: the edge does not learn
which ports of a third party are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

from websockets.exceptions import ConnectionClosed

from punchlab.punch.endpoint import WILDCARDS, Endpoint
from punchlab.punch.errors import ArgumentError, FrameError, NoConnectionError
from punchlab.punch.net.closing import close_by_reset
from punchlab.punch.net.reach import Reach
from punchlab.punch.net.sockets import bound_socket, choose_local
from punchlab.punch.net.websocket import abort, open_websocket
from punchlab.punch.punching.named import Named
from punchlab.punch.punching.quota import Servers
from punchlab.punch.reflexive import PATH, Seen, parse_seen
from punchlab.punch.rendezvous.connection import Rendezvous

TIMEOUT_S = 1.0
_PATIENCE = 2.0  # times as long as the first connection took, and:
_PATIENCE_S = 0.1


class Sighting:
    """An IPv6 address of ours that is being shown to the edge of `rendezvous`. Always `close` it.

    Somebody who wants to punch from one certain address, `bind`, has no other.
    """

    def __init__(self, rendezvous: Rendezvous, bind: Endpoint | None, servers: Servers) -> None:
        self._begun = time.monotonic()
        self._patience_s = min(TIMEOUT_S, _PATIENCE * rendezvous.took_s + _PATIENCE_S)
        self.local = None if bind is not None and bind.ip not in WILDCARDS else _choose_local(rendezvous)
        """The address to punch from; None where there is none to be shown."""
        self._task: asyncio.Task[Seen | None] | None = None
        if self.local is not None:
            self._task = asyncio.create_task(sight(rendezvous, self.local, servers))

    async def seen(self) -> Seen | None:
        """What the edge has seen; None if it has seen nothing by now, or in the little time that is left."""
        if self._task is None:
            return None
        await asyncio.wait((self._task,), timeout=max(0.0, self._begun + self._patience_s - time.monotonic()))
        return self._task.result() if self._task.done() else None

    async def close(self) -> None:
        """Give up, if it is not done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def sight(rendezvous: Rendezvous, local: Endpoint, servers: Servers) -> Seen | None:
    """Show the edge our address `local`; None, after `TIMEOUT_S` whatever the reason, if that cannot be done."""
    begun = time.monotonic()
    seen = await _show(rendezvous, local, servers)
    if seen is None:
        await asyncio.sleep(begun + TIMEOUT_S - time.monotonic())
    return seen


async def _show(rendezvous: Rendezvous, local: Endpoint, servers: Servers) -> Seen | None:
    edge = rendezvous.ipv6
    named = Named(Reach.of(local, rendezvous.edge_ip), servers)
    if edge is None or named.refuses_at(edge) is not None:
        return None

    def make(_edge: Endpoint) -> socket.socket:
        sock = bound_socket(local)
        close_by_reset(sock, True)  # nothing is to linger at an address that is about to be punched from
        return sock

    with contextlib.suppress(NoConnectionError, ConnectionClosed, FrameError, TimeoutError):
        async with asyncio.timeout(TIMEOUT_S):
            connection = await open_websocket(rendezvous.url, PATH, timeout_s=TIMEOUT_S, at=edge, make=make)
            try:
                seen = parse_seen(await connection.recv())
                named.answered(edge.ip)
                return seen
            finally:
                abort(connection)
    return None


def _choose_local(rendezvous: Rendezvous) -> Endpoint | None:
    """The IPv6 address that leads to the edge, with the same port if it is free; None if there is none."""
    edge, own = rendezvous.ipv6, rendezvous.local
    if edge is None or edge.family == own.family or (edge.is_loopback and not own.is_loopback):
        return None
    for wanted in (Endpoint("::", own.port), None):
        with contextlib.suppress(OSError, ArgumentError):
            local = choose_local(wanted, edge)
            return None if local.is_link_local else local
    return None
