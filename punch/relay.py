"""The two text frames of a relay, and the token by which two clients find each other there.

A relay is for clients that have met at its edge, who show the ticket that it gave them. The token, which no edge knows
before, keeps others who may have seen the ticket (edges on the way) from taking the place of one of the two.
"""

from __future__ import annotations

import re

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from punch.errors import FrameError
from punch.fields import decode, encode, token_field
from punch.frames import MAX_FRAME

PATH = "/relay"
MAX_MESSAGE = MAX_FRAME  # bytes of a binary message; an edge takes no longer ones
_TOKEN = re.compile(r"[0-9a-f]{64}")


def token(session_key: bytes) -> str:
    """What only those who hold the session key can name; it does not give the key away."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"punch relay token").derive(session_key).hex()


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
