"""What a protocol for port mappings has to do, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from punchlab.punch.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Mapping:
    """Connections to `external` are handed to our local port; `protocol` is the name of the one that arranged it."""

    external: Endpoint
    protocol: str


class Mapper(Protocol):
    """Asks the NAT for one mapping of one local TCP port. Every method raises `PortMappingError`."""

    name: str

    async def find(self) -> None:
        """See whether the NAT speaks this protocol; asks for nothing."""

    async def request(self, lifetime_s: int) -> Endpoint:
        """Make the mapping, or renew it, for so many seconds; the external endpoint that it has."""

    async def remove(self) -> None:
        """Take it back; no error where there is none."""
