"""`portmap`: have the NAT map a port before the punch, and be dialled there; otherwise as `reuse`.

The one way through that does not depend on what kind the NATs are, where one of them speaks PCP (RFC 6887), NAT-PMP
(RFC 6886) or UPnP IGD: who dials the mapped endpoint reaches the listener. The mapping is requested before each
registration, named in the traits, renewed, and given back at the end (`punch.portmap.lease`). If a renewal returns
another endpoint, the client registers again.

The peer dials a mapped endpoint only at the very IP address at which the edge saw whoever names it. Nothing else may be
named: otherwise a client could have its peer dial a third party.
"""

from __future__ import annotations

import contextlib
import socket

from punchlab.punch.endpoint import Endpoint
from punchlab.punch.errors import ArgumentError, PortMappingError
from punchlab.punch.punching.candidates import Candidate
from punchlab.punch.strategy.meeting import Meeting, Preparation, Strategy


class Portmap(Strategy):
    """See the top of this module."""

    def __init__(self) -> None:
        self._held = contextlib.AsyncExitStack()

    async def prepare(self, preparation: Preparation) -> str | None:
        """See `Strategy`."""
        from punchlab.punch.portmap.lease import mapping

        if preparation.local.family != socket.AF_INET:  # there is no NAT to ask
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

    async def punch(self, meeting: Meeting) -> None:
        """See `Strategy`."""
        contact = meeting.peer.contact
        mapped = _parse(contact.traits)
        await meeting.leave()
        if mapped is not None and mapped.ip != contact.public.ip:
            meeting.report("candidate_refused", address=str(mapped), reason="not where the edge sees the peer")
        elif mapped is not None and mapped != contact.public:
            meeting.puncher.aim([Candidate(mapped, "mapped"), *meeting.targets])
        await meeting.start()
        meeting.fire()


def _parse(traits: str | None) -> Endpoint | None:
    """The endpoint that a peer names; None where it says something else, or nothing."""
    try:
        return None if traits is None else Endpoint.parse(traits)
    except ArgumentError:
        return None
