"""`reuse`: leave the rendezvous, then punch from its local address.

This is the classic procedure (Ford, Srisuresh and Kegel 2005, section 4): the client punches from the local address
that the edge saw. The FIN of the connection to the edge is sent before the first SYN, so only the punch uses the
address. Both hosts connect as soon as they know each other's contact. Baseline.
"""

from __future__ import annotations

from punchlab.punch.strategy.context import PunchContext, Strategy


class Reuse(Strategy):
    """See the module docstring."""

    async def punch(self, context: PunchContext) -> None:
        """See `Strategy`."""
        await context.leave()
        await context.start()
        context.connect_all()
