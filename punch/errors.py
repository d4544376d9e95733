"""The exceptions of `punch`.

PunchError
├── ArgumentError       an argument is invalid or missing; nothing was done (exit status 2)
├── FrameError          a message of an edge, a client or a STUN server violates the protocol
├── RefusedError        an edge rejects a client
├── NoConnectionError   a connection attempt to an edge failed
├── SignalError         signals to the peer through the edges are no longer possible
├── PortMappingError    the NAT creates no port mapping
├── ChannelError        the connection between the two peers failed
│   ├── ConnectionLostError   it was closed or truncated
│   ├── StreamResetError      one of its streams was aborted
│   ├── StrangerError         the other end speaks another protocol, has the same role, or is this client itself
│   ├── WrongPeerError        the other end does not know the secret
│   └── TamperedError         a frame is not authentic, too long or unexpected
└── PunchFailedError    the session failed (exit status 1); has the outcome
    ├── EdgeLostError         the connection to the edge is lost; another edge may continue the session
    ├── EdgeUnreachableError  the first connection to the edge failed (exit status 2)
    └── TunnelBrokenError     the tunnel broke during the transfer; it can be punched again
"""

from __future__ import annotations

from typing import Literal

from punchlab.punch.text import LONGEST, LONGEST_VALUE, printable, shown

Outcome = Literal["no_rendezvous", "punch_timeout", "refused", "hopeless", "wrong_peer", "declined", "client_error"]


class PunchError(Exception):
    """Base of all errors that `punch` raises intentionally; the text is one printable line."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))


class ArgumentError(PunchError, ValueError):
    """An argument is invalid, or missing if the value is None: the field, the value and what is expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        problem = "missing" if value is None else f"{shown(value)} cannot be used"
        super().__init__(f"{printable(field, LONGEST_VALUE)}: {problem}; expected {expected}")


class FrameError(PunchError, ValueError):
    """A message of unknown type, or with missing or invalid fields."""


class RefusedError(PunchError):
    """An edge rejects a client, for instance because another client has its role."""


class NoConnectionError(PunchError):
    """A connection attempt to an edge failed, or its answer is not that of an edge.

    The text is the reason. `number` is the errno and `status` the HTTP status, or None.
    """

    def __init__(self, reason: str, *, number: int | None = None, status: int | None = None) -> None:
        self.number, self.status = number, status
        super().__init__(reason)


class SignalError(PunchError):
    """Signals to the peer through the edges are no longer possible."""


class PortMappingError(PunchError):
    """The NAT creates no port mapping; the text has the reason for each protocol."""


class ChannelError(PunchError):
    """Base of the errors of the connection between the two peers."""


class ConnectionLostError(ChannelError):
    """The connection was closed before the transfer was complete."""


class StreamResetError(ChannelError):
    """One of the byte streams in the channel was aborted, by this end or the other."""


class StrangerError(ChannelError):
    """The other end does not use our protocol, has the same role as this client, or is this client itself."""


class WrongPeerError(ChannelError):
    """The other end does not know the secret of this session."""


class TamperedError(ChannelError):
    """A frame is not authentic, too long, or unexpected in this state."""


class PunchFailedError(PunchError):
    """The session failed; `outcome` is the machine-readable result."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        self.outcome: Outcome = outcome
        self.reason = printable(reason)
        super().__init__(f"{outcome}: {reason}")

    def add(self, more: str) -> None:
        """Append a sentence to the reason, and shorten the reason if necessary."""
        self.reason = f"{printable(self.reason, LONGEST - len(more) - 30)}; {more}"
        self.args = (f"{self.outcome}: {self.reason}",)


class EdgeLostError(PunchFailedError):
    """The connection to the edge was lost before the peer was known, and the edge did not reject the client."""


class EdgeUnreachableError(PunchFailedError):
    """The first connection to the edge failed; most likely its address is wrong."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__("no_rendezvous", f"edge: {url!r} cannot be reached: {cause}; expected a running `punch edge`")

    def __str__(self) -> str:
        return self.reason


class TunnelBrokenError(PunchFailedError):
    """The tunnel broke before the transfer was complete; received data is kept, and a new tunnel can resume."""

    def __init__(self, reason: str) -> None:
        super().__init__("client_error", reason)
