"""How the endpoints of an edge network pass messages among themselves: publish and subscribe, by session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from punch.frames import Body, SessionId

Callback = Callable[[Body], None]
Unsubscribe = Callable[[], None]


class Bus(Protocol):
    """Messages of a session, kept for its lifetime: whoever subscribes late gets what it missed, oldest first.

    Nothing is promised about the order of messages from different endpoints, and a message may come twice.
    """

    def publish(self, session: SessionId, body: Body) -> None:
        """Hand `body` to every other endpoint. It does not come back to the subscribers of this one at once."""

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:
        """Call `callback` with each message of `session`: those kept already before this returns, then as they come."""


class LocalBus:
    """The bus of a lone endpoint, the classic rendezvous: nobody else is there."""

    def publish(self, session: SessionId, body: Body) -> None:
        """Nobody to tell."""

    def subscribe(self, session: SessionId, callback: Callback) -> Unsubscribe:  # noqa: ARG002 (the interface's names)
        """Nothing will ever come."""
        return lambda: None
