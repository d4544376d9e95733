"""Servers that an edge supplies at other addresses than its own: STUN servers, the edge's IPv6 address, a relay."""

from __future__ import annotations

from dataclasses import dataclass

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.net.reach import Reach, refuses_server_port
from punchlab.punch.punching.quota import Servers


@dataclass(frozen=True)
class SuppliedServers:
    """The servers for one purpose: `reach` limits their addresses, and `uses` counts their uses in a session."""

    reach: Reach
    uses: Servers

    def refuses(self, ip: str) -> str | None:
        """Return why an address must not be used; None if it may, which counts as one use."""
        why = self.reach.refuses_server(ip)
        if why is None and ip != self.reach.edge and not self.uses.take(ip):
            return "used too often in this session"
        return why

    def refuses_at(self, address: Endpoint) -> str | None:
        """Return why an endpoint must not be used; None if it may, which counts as one use."""
        return refuses_server_port(address.port) or self.refuses(address.ip)

    def answered(self, ip: str) -> None:
        """Record that the server at the address answered as expected."""
        self.uses.answered(ip)
