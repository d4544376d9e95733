"""`reuse`: leave the rendezvous, then punch from its local address.

The classic (Ford, Srisuresh and Kegel 2005, section 4): the local address that the edge saw is the one to punch from,
and the FIN of the connection to the edge is out before the first SYN, so the address is the punch's alone. Both hosts
dial as soon as they know each other. Baseline.
"""

from __future__ import annotations

from punchlab.punch.strategy.meeting import Meeting, Strategy


class Reuse(Strategy):
    """See the top of this module."""

    async def punch(self, meeting: Meeting) -> None:
        """See `Strategy`."""
        await meeting.leave()
        await meeting.start()
        meeting.fire()
