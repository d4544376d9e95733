"""The interface of every bus: publish and subscribe, by session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from punchlab.punch.frames import Body, SessionId

Callback = Callable[[Body, float], None]
"""Called with a message and its age in seconds since it was published; endpoints need no synchronized clocks."""

Unsubscribe = Callable[[], None]


class Bus(Protocol):
    """Messages of a session, stored for the session's lifetime: a new subscriber gets the earlier ones, oldest first.

    The order of messages from different endpoints is undefined, and a message may be delivered twice. A message that is
    published while endpoints cannot reach each other is delivered when they are connected again.
    """

    def publish(self, session: SessionId, body: Body) -> None:
        """Send `body` to every other endpoint. Subscribers of this endpoint do not get it immediately."""

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        """Call `callback` with each message of `session`: the stored ones before this returns, later ones as they
        arrive."""

    async def run(self) -> None:
        """Stay connected to the other endpoints until cancelled."""
