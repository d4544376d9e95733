"""What can go wrong in `punch`, as exceptions that a caller can tell apart.

PunchError
├── ArgumentError          something the user typed cannot be used; nothing was done (exit status 2)
├── FrameError          a frame on the rendezvous or on the mesh is not what the protocol says
├── RefusedError        an edge does not take a registration
├── NoConnectionError   no connection to an edge: it is not there, or does not answer as one
├── SignalError         nothing can be said to the peer by way of the edges any more
├── PortMappingError   the NAT makes no port mapping
├── ChannelError        the connection between the two peers
│   ├── ConnectionLostError   it ended, or was truncated
│   ├── StreamResetError      one of the streams in it was given up
│   ├── WrongPeerError        the other end does not hold the secret
│   └── TamperedError         a frame does not authenticate, or is not what must come now
└── PunchFailedError    the session as a whole failed (exit status 1); carries the outcome
    ├── EdgeLostError         the rendezvous is lost; another edge may go on with the session
    ├── EdgeUnreachableError  there is no rendezvous to talk to (exit status 2)
    └── TunnelBrokenError     the tunnel was there and its path died: it can be punched again
"""

from __future__ import annotations

from typing import Literal

from punchlab.punch.text import LONGEST, LONGEST_VALUE, printable, shown

Outcome = Literal["no_rendezvous", "punch_timeout", "refused", "hopeless", "wrong_peer", "declined", "client_error"]


class PunchError(Exception):
    """Base of every error that `punch` raises on purpose; its text is one clear line, whatever it quotes."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))


class ArgumentError(PunchError, ValueError):
    """Something the user typed cannot be used, or is missing: the field, the value (None) and what was expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        problem = "missing" if value is None else f"{shown(value)} cannot be used"
        super().__init__(f"{printable(field, LONGEST_VALUE)}: {problem}; expected {expected}")


class FrameError(PunchError, ValueError):
    """A frame that the protocol does not know, or whose fields are missing or of the wrong type."""


class RefusedError(PunchError):
    """An edge does not take a registration, for instance because its role is taken."""


class NoConnectionError(PunchError):
    """No connection to an edge comes about: it cannot be reached, or does not answer as one. The attempt is over.

    The text is the reason. `number` is the errno, and `status` the HTTP status, if there is one.
    """

    def __init__(self, reason: str, *, number: int | None = None, status: int | None = None) -> None:
        self.number, self.status = number, status
        super().__init__(reason)


class SignalError(PunchError):
    """Nothing can be said to the peer by way of the edges any more."""


class PortMappingError(PunchError):
    """The NAT makes no port mapping when asked for one; says why, per protocol."""


class ChannelError(PunchError):
    """Base of what can go wrong on the connection between the two peers."""


class ConnectionLostError(ChannelError):
    """The connection ended before it was finished."""


class StreamResetError(ChannelError):
    """One of the byte streams in the channel was given up, by this end or the other."""


class StrangerError(ChannelError):
    """The other end does not speak our protocol, plays our own role, or is oneself."""


class WrongPeerError(ChannelError):
    """The other end does not hold the secret of this session."""


class TamperedError(ChannelError):
    """A frame that does not authenticate, is too long, or must not come now."""


class PunchFailedError(PunchError):
    """The session failed; `outcome` is the word for it."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        self.outcome: Outcome = outcome
        self.reason = printable(reason)
        super().__init__(f"{outcome}: {reason}")

    def add(self, more: str) -> None:
        """Append a sentence to the reason, which is shortened if it leaves no room for that."""
        self.reason = f"{printable(self.reason, LONGEST - len(more) - 30)}; {more}"
        self.args = (f"{self.outcome}: {self.reason}",)


class EdgeLostError(PunchFailedError):
    """The connection to the edge ended before the peer was known, and not because the edge would not have us."""


class EdgeUnreachableError(PunchFailedError):
    """The very first connection to the edge could not be made: most likely its address is wrong."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__("no_rendezvous", f"edge: {url!r} cannot be reached: {cause}; expected a running `punch edge`")

    def __str__(self) -> str:
        return self.reason


class TunnelBrokenError(PunchFailedError):
    """The tunnel was up and broke before its work was done; what was done is kept, and a new tunnel can go on."""

    def __init__(self, reason: str) -> None:
        super().__init__("client_error", reason)
