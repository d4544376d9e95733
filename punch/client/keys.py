"""How the two clients come to share a session key that nobody between them knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from spake2 import SPAKE2_A, SPAKE2_B

from punch.code import Code
from punch.errors import InputError, WrongPeerError
from punch.frames import Role, SessionId

KEY_BYTES = 32
_PAKE_MESSAGE_BYTES = 33  # side, and an element of the Ed25519 group


class KeyExchange(Protocol):
    """A session and the key that comes of it.

    `message` goes to the peer through the edge (None: no need); `code` is what people pass on (None: nothing).
    """

    session: SessionId
    message: str | None
    code: Code | None

    def finish(self, peer_message: str | None) -> bytes:
        """The 32-byte session key. May take tens of milliseconds of CPU. Raises `WrongPeerError`."""


class PakeExchange:
    """SPAKE2 on the words of a code: who does not know them ends up with another key."""

    def __init__(self, code: Code, role: Role) -> None:
        self.code: Code | None = code
        self.session = code.session
        kind = SPAKE2_A if role == "sender" else SPAKE2_B
        self._spake = kind(
            code.secret.encode(),
            idA=f"punch sender {code.session}".encode(),
            idB=f"punch receiver {code.session}".encode(),
        )
        self.message: str | None = self._spake.start().hex()

    def finish(self, peer_message: str | None) -> bytes:
        """See `KeyExchange.finish`."""
        message = bytes.fromhex(peer_message or "")
        if len(message) != _PAKE_MESSAGE_BYTES:
            raise WrongPeerError("the peer's key-exchange message makes no sense")
        try:
            key: bytes = self._spake.finish(message)
        except Exception:  # the library raises exceptions of unrelated kinds for a message that is no group element
            raise WrongPeerError("the peer's key-exchange message makes no sense") from None
        return key


class PresharedKey:
    """Both clients hold the same 32 random bytes. The session's name is derived from them, so no code is needed.

    Each sends 32 fresh bytes, so that no two sessions have the same key.
    """

    code: Code | None = None

    def __init__(self, key: bytes) -> None:
        self.session = SessionId(_derive(key, b"punch session name", 10).hex())
        self._key = key
        self._fresh = os.urandom(KEY_BYTES)
        self.message: str | None = self._fresh.hex()

    def finish(self, peer_message: str | None) -> bytes:
        """See `KeyExchange.finish`."""
        message = bytes.fromhex(peer_message or "")
        if len(message) != KEY_BYTES:
            raise WrongPeerError("the peer uses a code, not a key file")
        return _derive(self._key + b"".join(sorted((self._fresh, message))), b"punch session key", KEY_BYTES)


def bound_key(key: bytes, role: Role, own_traits: str | None, peer_traits: str | None) -> bytes:
    """The key of a session whose clients have told each other these traits.

    Who has been told others than the peer has sent ends up with another key.
    """
    traits = (own_traits, peer_traits) if role == "sender" else (peer_traits, own_traits)
    told = b"".join(len(each).to_bytes(4, "big") + each for each in ((text or "").encode() for text in traits))
    return _derive(key, b"punch traits" + told, KEY_BYTES)


def read_key_file(path: Path, *, field: str = "key-file") -> bytes:
    """The 32 bytes of a key file. Raises `InputError`."""
    try:
        with path.open("rb") as file:
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise InputError(field, str(path), f"a readable file of {KEY_BYTES} bytes ({error.strerror})") from None
    if len(key) != KEY_BYTES:
        found = f"{len(key)}" if len(key) < KEY_BYTES else "more"
        raise InputError(field, str(path), f"a file of exactly {KEY_BYTES} random bytes, found {found}")
    return key


def _derive(key: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(key)
