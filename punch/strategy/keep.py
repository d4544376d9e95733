"""`keep`: punch from the local address of the rendezvous, and stay there until a connection is agreed on.

For NATs that drop all of a port's mappings with one connection (Ford, Srisuresh and Kegel 2005, section 4.3, keep the
connection to the server for that reason). Both hosts dial as soon as they know each other. Baseline.
"""

from __future__ import annotations

from punchlab.punch.strategy.meeting import Meeting, Strategy


class Keep(Strategy):
    """See the top of this module."""

    async def punch(self, meeting: Meeting) -> None:
        """See `Strategy`."""
        await meeting.start()
        meeting.fire()
