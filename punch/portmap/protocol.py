"""The interface of the port mapping protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from punchlab.punch.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Mapping:
    """Connections to `external` are forwarded to the local port; `protocol` is the protocol that created the
    mapping."""

    external: Endpoint
    protocol: str


class Mapper(Protocol):
    """Requests one mapping of one local TCP port from the NAT. Every method raises `PortMappingError`."""

    name: str

    async def find(self) -> None:
        """Check whether the NAT supports this protocol, without requesting a mapping."""

    async def request(self, lifetime_s: int) -> Endpoint:
        """Create or renew the mapping for that many seconds; return its external endpoint."""

    async def remove(self) -> None:
        """Remove the mapping; without a mapping this does nothing."""
