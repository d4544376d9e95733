"""Servers at other addresses than the edge's own, which an edge names: STUN servers, itself on IPv6, a relay."""

from __future__ import annotations

from dataclasses import dataclass

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.net.reach import Reach, refuses_server_port
from punchlab.punch.punching.quota import Servers


@dataclass(frozen=True)
class Named:
    """Those of one purpose, which `reach` has to allow, and `uses` counts over a session."""

    reach: Reach
    uses: Servers

    def refuses(self, ip: str) -> str | None:
        """Why an address is not used; None if it is, now and once more."""
        why = self.reach.refuses_server(ip)
        if why is None and ip != self.reach.edge and not self.uses.take(ip):
            return "tried too often in this session"
        return why

    def refuses_at(self, address: Endpoint) -> str | None:
        """The same, of one port there."""
        return refuses_server_port(address.port) or self.refuses(address.ip)

    def answered(self, ip: str) -> None:
        """It has answered as what it was said to be."""
        self.uses.answered(ip)
