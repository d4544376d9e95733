"""Somebody who knows the name of a session, but not its code: he has a proof that he made up."""

from __future__ import annotations

import contextlib
import os
import socket

from punch.client.channel import HELLO_BYTES, MAGIC, PROOF_BYTES

PROOFLESS = MAGIC + b"R" + os.urandom(32) + os.urandom(PROOF_BYTES) + os.urandom(1000)
"""What he says on a connection to a sender."""
_TRACE = 16  # bytes of a file that are in random bytes by no chance


def overhear(sock: socket.socket) -> bytes:
    """Speak as if one were the receiver; all that the other end says until it goes away."""
    heard = bytearray()
    with contextlib.suppress(OSError):
        sock.sendall(PROOFLESS)
        while piece := sock.recv(65536):
            heard += piece
    return bytes(heard)


def assert_nothing_was_learnt(heard: list[bytes], content: bytes) -> None:
    """A sender has spoken with him, and said no byte of its file."""
    assert any(data.startswith(MAGIC + b"S") for data in heard)
    assert all(len(data) <= HELLO_BYTES + PROOF_BYTES for data in heard)
    assert not any(data[start : start + _TRACE] in content for data in heard for start in range(len(data) - _TRACE + 1))
