"""Somebody who knows the name of a session, but not its code: he has a proof that he made up."""

from __future__ import annotations

import contextlib
import os
import socket

from punchlab.punch.fields import Json
from punchlab.punch.frames import SessionId
from punchlab.punch.secure.channel import CONTACT_TAG_BYTES, HELLO_BYTES, MAGIC, PROOF_BYTES
from punchlab.punch.secure.keys import ContactTranscript

_TRACE = 16  # bytes of a file that are in random bytes by no chance


def thief_of(session: SessionId, own_message: str | None, peer: Json) -> ContactTranscript:
    """What he shares with a sender that was told of him, and he of it (`peer`)."""
    return ContactTranscript.of(session, "receiver", (own_message, None), (peer["pake"], peer.get("traits")))


def overhear(sock: socket.socket, introduced: ContactTranscript | None = None) -> bytes:
    """Speak as if one were the receiver; all that the other end says until it goes away.

    Without `introduced` he does not know what the two have been told of each other.
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
    """A sender has spoken with him, and said no byte of its file."""
    assert any(data.startswith(MAGIC + b"S") for data in heard)
    assert all(len(data) <= HELLO_BYTES + PROOF_BYTES for data in heard)
    assert not any(data[start : start + _TRACE] in content for data in heard for start in range(len(data) - _TRACE + 1))
