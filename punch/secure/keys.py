"""Key exchanges that give the two clients a session key which no other party knows."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from spake2 import SPAKE2_A, SPAKE2_B

from punchlab.punch.errors import ArgumentError, WrongPeerError
from punchlab.punch.frames import Role, SessionId
from punchlab.punch.secure.channel import CONTACT_TAG_BYTES
from punchlab.punch.secure.code import Code
from punchlab.punch.secure.guesses import Guesses

KEY_BYTES = 32
NAME_S = 600.0
"""Seconds for which a session of a key file has the same name; also the maximum difference of the clients' clocks."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PAKE_MESSAGE_BYTES = 33  # side, and an element of the Ed25519 group


class KeyExchange(Protocol):
    """A session and its key exchange.

    `message` is for the peer, through the edge (None: none is needed); `code` is for the users (None: there is none);
    `guesses` is the budget of all exchanges of the session.
    """

    session: SessionId
    message: str | None
    code: Code | None
    guesses: Guesses

    def rename(self) -> float | None:
        """Update `session` before its use; return how many seconds it is valid (None: forever)."""

    def finish(self, peer_message: str | None) -> bytes:
        """Return the 32-byte session key. May take tens of milliseconds of CPU. Raises `WrongPeerError`."""


class PakeExchange:
    """SPAKE2 on the words of a code: a client without the words gets another key."""

    def __init__(self, code: Code, role: Role, guesses: Guesses | None = None) -> None:
        self.code: Code | None = code
        self.guesses = Guesses() if guesses is None else guesses
        self.session = code.session
        kind = SPAKE2_A if role == "sender" else SPAKE2_B
        self._spake = kind(
            code.secret.encode(),
            idA=f"punch sender {code.session}".encode(),
            idB=f"punch receiver {code.session}".encode(),
        )
        self.message: str | None = self._spake.start().hex()

    def rename(self) -> float | None:
        """See `KeyExchange.rename`: the name in a code does not change."""
        return None

    def finish(self, peer_message: str | None) -> bytes:
        """See `KeyExchange.finish`."""
        message = bytes.fromhex(peer_message or "")
        if len(message) != _PAKE_MESSAGE_BYTES:
            raise WrongPeerError("the peer's key-exchange message is invalid")
        try:
            key: bytes = self._spake.finish(message)
        except Exception:  # the library raises unrelated exceptions for a message that is not a group element
            raise WrongPeerError("the peer's key-exchange message is invalid") from None
        return key


class PresharedKey:
    """Both clients hold the same 32 random bytes, so no code is needed.

    The name of the session is derived from these bytes and from the time, like the time-based passwords of RFC 6238,
    because the two clients share no other data from which to derive a fresh name. A waiting client changes to the next
    name in time, so two clients whose clocks differ by less than `NAME_S` find each other after at most this
    difference. An edge cannot link names of different times to one key, nor predict the next name.

    Each client sends 32 fresh bytes, so that no two sessions have the same key.
    """

    code: Code | None = None

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self.guesses = Guesses(None)
        self._key = key
        self._clock = clock
        self._fresh = os.urandom(KEY_BYTES)
        self.message: str | None = self._fresh.hex()
        self.rename()

    def rename(self) -> float | None:
        """See `KeyExchange.rename`."""
        number, passed_s = divmod(self._clock(), NAME_S)
        self.session = SessionId(_derive(self._key, f"punch session name {number:.0f}".encode(), 10).hex())
        return NAME_S - passed_s

    def finish(self, peer_message: str | None) -> bytes:
        """See `KeyExchange.finish`."""
        message = bytes.fromhex(peer_message or "")
        if len(message) != KEY_BYTES:
            raise WrongPeerError("the peer uses a code, not a key file")
        return _derive(self._key + b"".join(sorted((self._fresh, message))), b"punch session key", KEY_BYTES)


@dataclass(frozen=True)
class ContactTranscript:
    """A digest of the contacts that the edges sent to the two clients; both know it, and no stranger does.

    It is bound into their session key: if the edges sent different contacts, the clients have different keys.
    """

    session: SessionId
    digest: bytes

    @classmethod
    def of(
        cls, session: SessionId, role: Role, own: tuple[str | None, str | None], peer: tuple[str | None, str | None]
    ) -> ContactTranscript:
        """Make it from the key-exchange messages and the traits of both clients."""
        sender, receiver = (own, peer) if role == "sender" else (peer, own)
        parts = [(text or "").encode() for text in (session, *sender, *receiver)]
        return cls(session, hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest())

    @property
    def tags(self) -> dict[Role, bytes]:
        """The tag in the hello of each role, which detects a stranger at once."""
        roles: tuple[Role, Role] = ("sender", "receiver")
        return {role: _derive(self.digest, f"punch hello of the {role}".encode(), CONTACT_TAG_BYTES) for role in roles}

    @property
    def relay_token(self) -> str:
        """The token that the two clients send to a relay. It depends on no secret, so it tests no guess."""
        return _derive(self.digest, b"punch relay token", KEY_BYTES).hex()

    def bound(self, key: bytes) -> bytes:
        """Return the session key, given the key of the exchange."""
        return _derive(key, b"punch session key of " + self.digest, KEY_BYTES)


def read_key_file(path: Path, *, field: str = "key-file") -> bytes:
    """Return the 32 bytes of a key file that only its owner can access. Raises `ArgumentError`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise ArgumentError(field, str(path), f"a readable file of {KEY_BYTES} bytes ({error.strerror})") from None
    if mode & _OTHERS:
        expected = f"a file that only its owner can access (chmod 600), found mode {stat.S_IMODE(mode):04o}"
        raise ArgumentError(field, str(path), expected)
    if len(key) != KEY_BYTES:
        found = f"{len(key)}" if len(key) < KEY_BYTES else "more"
        raise ArgumentError(field, str(path), f"a file of exactly {KEY_BYTES} random bytes, found {found}")
    return key


def write_key_file(path: Path, *, field: str = "FILE") -> None:
    """Create a key file, which must not exist, with mode 0600. Raises `ArgumentError`."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, os.urandom(KEY_BYTES))
            os.fsync(descriptor)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ArgumentError(field, str(path), f"a name for a new file ({error.strerror})") from None


def _derive(key: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(key)
