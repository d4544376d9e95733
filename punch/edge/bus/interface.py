"""What every bus promises: publish and subscribe, by session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from punchlab.punch.frames import Body, SessionId

Callback = Callable[[Body, float], None]
"""Gets a message and its age: the seconds since it was published, on no clock that endpoints would have to share."""

Unsubscribe = Callable[[], None]


class Bus(Protocol):
    """Messages of a session, kept for its lifetime: whoever subscribes late gets what it missed, oldest first.

    Nothing is promised about the order of messages from different endpoints, and a message may come twice. One that
    was published while endpoints were cut off from each other comes when they are joined again.
    """

    def publish(self, session: SessionId, body: Body) -> None:
        """Hand `body` to every other endpoint. It does not come back to the subscribers of this one at once."""

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        """Call `callback` with each message of `session`: those kept already before this returns, then as they come."""

    async def run(self) -> None:
        """Stay connected to the other endpoints, until cancelled."""
