"""`keep`: punch from the local address of the rendezvous, which stays connected until a connection is agreed on.

This is for NATs that delete all mappings of a port when one of its connections ends. (Ford, Srisuresh and Kegel 2005,
section 4.3, keep the connection to the server for that reason.) Both hosts connect as soon as they know each other's
contact. Baseline.
"""

from __future__ import annotations

from punchlab.punch.strategy.context import PunchContext, Strategy


class Keep(Strategy):
    """See the module docstring."""

    async def punch(self, context: PunchContext) -> None:
        """See `Strategy`."""
        await context.start()
        context.connect_all()
