"""The bus of a single endpoint, a plain rendezvous server."""

from __future__ import annotations

import asyncio

from punchlab.punch.edge.bus.interface import Callback, Unsubscribe
from punchlab.punch.frames import Body, SessionId


class LocalBus:
    """A `Bus` without other endpoints."""

    def publish(self, session: SessionId, body: Body) -> None:
        """Do nothing."""

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:  # noqa: ARG002 (the interface's names)
        """Do nothing: no message ever arrives."""
        return lambda: None

    async def run(self) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()
