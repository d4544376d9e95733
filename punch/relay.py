"""The frames of a relay, which joins two clients that were paired at its edge.

A client presents its ticket, from the edge, and a token, which both clients of a session derive from their session key
(`punch.secure.keys`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from punchlab.punch.fields import TOKEN, matching
from punchlab.punch.frames import MAX_FRAME

PATH = "/relay"
MAX_MESSAGE = MAX_FRAME  # bytes of a binary message; an edge accepts no longer ones
_TOKEN = matching(re.compile(r"[0-9a-f]{64}"), "64 hex digits")


@dataclass(frozen=True)
class Join:
    """A client asks to be joined with the client that presents the same token."""

    TYPE: ClassVar[str] = "relay"

    token: Annotated[str, _TOKEN]
    ticket: Annotated[str, TOKEN]


@dataclass(frozen=True)
class Joined:
    """The relay has joined the two clients; binary messages follow."""

    TYPE: ClassVar[str] = "joined"
