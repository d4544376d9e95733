"""The client's side of `punch.reflexive`: discover the reflexive IPv6 address next to an IPv4 rendezvous.

This applies only to a host with an IPv6 address, at an edge with one. The client opens a second connection to the edge
while the strategy measures the NAT. If the measurement is short, the registration waits for the second connection, for
as long as the first connection suggests. Broken IPv6 therefore delays the registration once, and not the punch.

The edge supplies its IPv6 address, so the client limits what the edge can do with it. The address must be one that an
edge may supply (`punch.net.reach`), the client tries it a few times per session, and an address without an edge takes
as long as one that does not answer. The edge therefore cannot find out which ports of a third party are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

from websockets.exceptions import ConnectionClosed

from punchlab.punch.codec import decode
from punchlab.punch.endpoint import WILDCARDS, Endpoint
from punchlab.punch.errors import ArgumentError, FrameError, NoConnectionError
from punchlab.punch.net.closing import close_by_reset
from punchlab.punch.net.reach import Reach
from punchlab.punch.net.sockets import bound_socket, choose_local
from punchlab.punch.net.websocket import abort, open_websocket
from punchlab.punch.punching.quota import Servers
from punchlab.punch.punching.supplied_servers import SuppliedServers
from punchlab.punch.reflexive import PATH, Seen
from punchlab.punch.rendezvous.connection import Rendezvous

TIMEOUT_S = 1.0
_PATIENCE = 2.0  # multiple of the duration of the first connection, plus:
_PATIENCE_S = 0.1


class ReflexiveAddressDiscovery:
    """Discovers the reflexive address of a local IPv6 address at the edge of `rendezvous`. Always `close` it.

    There is nothing to discover if `bind` is a specific address, because the client punches from that address only.
    """

    def __init__(self, rendezvous: Rendezvous, bind: Endpoint | None, servers: Servers) -> None:
        self._started = time.monotonic()
        self._patience_s = min(TIMEOUT_S, _PATIENCE * rendezvous.took_s + _PATIENCE_S)
        self.local = None if bind is not None and bind.ip not in WILDCARDS else _choose_local(rendezvous)
        """The local address to punch from; None if there is nothing to discover."""
        self._task: asyncio.Task[Seen | None] | None = None
        if self.local is not None:
            self._task = asyncio.create_task(discover_reflexive_address(rendezvous, self.local, servers))

    async def result(self) -> Seen | None:
        """Return what the edge saw; None if nothing arrives within the remaining short timeout."""
        if self._task is None:
            return None
        await asyncio.wait((self._task,), timeout=max(0.0, self._started + self._patience_s - time.monotonic()))
        return self._task.result() if self._task.done() else None

    async def close(self) -> None:
        """Cancel the discovery if it is still running."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def discover_reflexive_address(rendezvous: Rendezvous, local: Endpoint, servers: Servers) -> Seen | None:
    """Return what the edge sees of our address `local`; None on failure, always after `TIMEOUT_S`."""
    started = time.monotonic()
    seen = await _query(rendezvous, local, servers)
    if seen is None:
        await asyncio.sleep(started + TIMEOUT_S - time.monotonic())
    return seen


async def _query(rendezvous: Rendezvous, local: Endpoint, servers: Servers) -> Seen | None:
    edge = rendezvous.ipv6
    supplied = SuppliedServers(Reach.of(local, rendezvous.edge_ip), servers)
    if edge is None or supplied.refuses_at(edge) is not None:
        return None

    def make(_edge: Endpoint) -> socket.socket:
        sock = bound_socket(local)
        close_by_reset(sock, True)  # leave no state at an address that is about to be used for the punch
        return sock

    with contextlib.suppress(NoConnectionError, ConnectionClosed, FrameError, TimeoutError):
        async with asyncio.timeout(TIMEOUT_S):
            connection = await open_websocket(rendezvous.url, PATH, timeout_s=TIMEOUT_S, at=edge, make=make)
            try:
                seen = decode(await connection.recv(), Seen)
                supplied.answered(edge.ip)
                return seen
            finally:
                abort(connection)
    return None


def _choose_local(rendezvous: Rendezvous) -> Endpoint | None:
    """Return the IPv6 source address towards the edge, with the same port if it is free; None if there is none."""
    edge, own = rendezvous.ipv6, rendezvous.local
    if edge is None or edge.family == own.family or (edge.is_loopback and not own.is_loopback):
        return None
    for wanted in (Endpoint("::", own.port), None):
        with contextlib.suppress(OSError, ArgumentError):
            local = choose_local(wanted, edge)
            return None if local.is_link_local else local
    return None
