"""`portmap`: request a port mapping from the NAT before the punch, for the peer to connect to; otherwise as `reuse`.

This strategy does not depend on the NATs' behavior, if one of them provides PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP
IGD: a connection to the mapped endpoint reaches the listener. The client requests the mapping before each registration,
sends it in the traits, renews it, and deletes it at the end (`punch.portmap.lease`). If a renewal returns another
endpoint, the client registers again.

A client connects to a mapped endpoint only at the IP address at which the edge saw the peer. Otherwise a peer could
direct it to a third party.
"""

from __future__ import annotations

import contextlib
import socket

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError, PortMappingError
from punchlab.punch.punching.candidates import Candidate
from punchlab.punch.strategy.context import Preparation, PunchContext, Strategy


class Portmap(Strategy):
    """See the module docstring."""

    def __init__(self) -> None:
        self._held = contextlib.AsyncExitStack()

    async def prepare(self, preparation: Preparation) -> str | None:
        """See `Strategy`."""
        from punchlab.punch.portmap.lease import mapping

        if preparation.local.family != socket.AF_INET:  # IPv6 has no NAT
            return None
        try:
            held = await self._held.enter_async_context(mapping(preparation.local, changed=preparation.outdate))
        except PortMappingError as error:
            preparation.report("port_not_mapped", reason=str(error))
            return None
        preparation.report("port_mapped", external=str(held.external), protocol=held.protocol)
        return str(held.external)

    async def close(self) -> None:
        """See `Strategy`."""
        await self._held.aclose()

    async def punch(self, context: PunchContext) -> None:
        """See `Strategy`."""
        contact = context.peer.contact
        mapped = _parse(contact.traits)
        await context.leave()
        if mapped is not None and mapped.ip != contact.public.ip:
            context.report("candidate_refused", address=str(mapped), reason="not at the peer's public address")
        elif mapped is not None and mapped != contact.public:
            context.puncher.set_targets([Candidate(mapped, "mapped"), *context.targets])
        await context.start()
        context.connect_all()


def _parse(traits: str | None) -> Endpoint | None:
    """Return the endpoint in a peer's traits; None if they contain something else, or nothing."""
    try:
        return None if traits is None else Endpoint.parse(traits)
    except ArgumentError:
        return None
