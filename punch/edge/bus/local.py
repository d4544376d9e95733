"""The bus of a lone endpoint, the classic rendezvous: nobody else is there."""

from __future__ import annotations

import asyncio

from punchlab.punch.edge.bus.interface import Callback, Unsubscribe
from punchlab.punch.frames import Body, SessionId


class LocalBus:
    """A `Bus` that leads nowhere."""

    def publish(self, session: SessionId, body: Body) -> None:
        """Nobody to tell."""

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:  # noqa: ARG002 (the interface's names)
        """Nothing will ever come."""
        return lambda: None

    async def run(self) -> None:
        """Nothing to connect to."""
        await asyncio.Event().wait()
