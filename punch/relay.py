"""The two text frames of a relay.

A relay is for clients that have met at its edge, who show the ticket that it gave them. By the token
(`punch.secure.keys`) the two find each other there.
"""

from __future__ import annotations

import re

from punchlab.punch.errors import FrameError
from punchlab.punch.fields import decode, encode, token_field
from punchlab.punch.frames import MAX_FRAME

PATH = "/relay"
MAX_MESSAGE = MAX_FRAME  # bytes of a binary message; an edge takes no longer ones
_TOKEN = re.compile(r"[0-9a-f]{64}")


def relay_frame(token: str, ticket: str) -> str:
    """A client that holds `ticket` wants to be joined with the one that names the same token."""
    return encode("relay", {"token": token, "ticket": ticket})


def parse_relay(frame: str | bytes) -> tuple[str, str]:
    """The ticket and the token. Raises `FrameError`."""
    _, fields = decode(frame, "relay")
    token = fields.get("token")
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        raise FrameError("token: expected 64 hex digits")
    return token_field(fields, "ticket"), token


def joined_frame() -> str:
    """The edge has joined the two."""
    return encode("joined", {})


def parse_joined(frame: str | bytes) -> None:
    """Raises `FrameError` unless this is `joined`."""
    decode(frame, "joined")
