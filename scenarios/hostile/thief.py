"""An attacker that knows the name of a session but not its code, with an invented proof."""

from __future__ import annotations

import contextlib
import os
import socket

from punchlab.punch.fields import Json
from punchlab.punch.frames import SessionId
from punchlab.punch.secure.channel import CONTACT_TAG_BYTES, HELLO_BYTES, MAGIC, PROOF_BYTES
from punchlab.punch.secure.keys import ContactTranscript

_TRACE = 16  # bytes of a file that do not occur in random bytes by chance


def thief_of(session: SessionId, own_message: str | None, peer: Json) -> ContactTranscript:
    """Return the attacker's state for a sender that was told about it, given the sender's description (`peer`)."""
    return ContactTranscript.of(session, "receiver", (own_message, None), (peer["pake"], peer.get("traits")))


def overhear(sock: socket.socket, introduced: ContactTranscript | None = None) -> bytes:
    """Send what a receiver would send, and return everything that the other end sends before it disconnects.

    Without `introduced`, the attacker does not know the descriptions of the two clients.
    """
    heard = bytearray()
    tag = os.urandom(CONTACT_TAG_BYTES) if introduced is None else introduced.tags["receiver"]
    hello = MAGIC + b"R" + tag + os.urandom(32)
    with contextlib.suppress(OSError):
        sock.sendall(hello + os.urandom(PROOF_BYTES) + os.urandom(1000))
        while piece := sock.recv(65536):
            heard += piece
    return bytes(heard)


def assert_nothing_was_learnt(heard: list[bytes], content: bytes) -> None:
    """Assert that the sender sent messages, but no byte of its file."""
    assert any(data.startswith(MAGIC + b"S") for data in heard)
    assert all(len(data) <= HELLO_BYTES + PROOF_BYTES for data in heard)
    assert not any(data[start : start + _TRACE] in content for data in heard for start in range(len(data) - _TRACE + 1))
