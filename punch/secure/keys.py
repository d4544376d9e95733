"""How the two clients come to share a session key that nobody between them knows."""

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
from punchlab.punch.secure.channel import MEETING_TAG_BYTES
from punchlab.punch.secure.code import Code
from punchlab.punch.secure.guesses import Guesses

KEY_BYTES = 32
NAME_S = 600.0
"""How long a session of a key file has the same name, and by how much the clocks of both clients may differ."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PAKE_MESSAGE_BYTES = 33  # side, and an element of the Ed25519 group


class KeyExchange(Protocol):
    """A session and the key that comes of it.

    `message` goes to the peer through the edge (None: no need); `code` is what people pass on (None: nothing);
    `guesses` is the budget of all exchanges of the same session.
    """

    session: SessionId
    message: str | None
    code: Code | None
    guesses: Guesses

    def rename(self) -> float | None:
        """Bring `session` up to date, before it is used; for how many seconds it serves (None: for ever)."""

    def finish(self, peer_message: str | None) -> bytes:
        """The 32-byte session key. May take tens of milliseconds of CPU. Raises `WrongPeerError`."""


class PakeExchange:
    """SPAKE2 on the words of a code: who does not know them ends up with another key."""

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
        """See `KeyExchange.rename`: a code has its own."""
        return None

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
    """Both clients hold the same 32 random bytes, so no code is needed.

    The session's name is derived from them and from the time, as the time-based passwords of RFC 6238 are: there is no
    other way to a fresh name for two that share nothing else yet. A client that waits takes the next name when its time
    comes, so two clients whose clocks differ by less than `NAME_S` meet, at the latest after as long as they differ.
    An edge cannot tell that two names of different times are of one key, nor foresee the next.

    Each sends 32 fresh bytes, so that no two sessions have the same key.
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
class Introduced:
    """What the edges have said to two clients about each other, which both know, and no stranger.

    It is bound into their session key: if the edges have said different things, they end up with different keys.
    """

    session: SessionId
    digest: bytes

    @classmethod
    def of(
        cls, session: SessionId, role: Role, own: tuple[str | None, str | None], peer: tuple[str | None, str | None]
    ) -> Introduced:
        """Of the key-exchange message and the traits that each has sent."""
        sender, receiver = (own, peer) if role == "sender" else (peer, own)
        parts = [(text or "").encode() for text in (session, *sender, *receiver)]
        return cls(session, hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest())

    @property
    def tags(self) -> dict[Role, bytes]:
        """What each role's hello shows, so that a stranger is found out at once."""
        roles: tuple[Role, Role] = ("sender", "receiver")
        return {role: _derive(self.digest, f"punch hello of the {role}".encode(), MEETING_TAG_BYTES) for role in roles}

    @property
    def relay_token(self) -> str:
        """What the two name at a relay. It depends on no secret, so that no guess can be tested by it."""
        return _derive(self.digest, b"punch relay token", KEY_BYTES).hex()

    def bound(self, key: bytes) -> bytes:
        """The session key, of the key that came of the exchange."""
        return _derive(key, b"punch session key of " + self.digest, KEY_BYTES)


def read_key_file(path: Path, *, field: str = "key-file") -> bytes:
    """The 32 bytes of a key file that nobody but its owner may use. Raises `ArgumentError`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise ArgumentError(field, str(path), f"a readable file of {KEY_BYTES} bytes ({error.strerror})") from None
    if mode & _OTHERS:
        expected = f"a file that only its owner may use (chmod 600), found mode {stat.S_IMODE(mode):04o}"
        raise ArgumentError(field, str(path), expected)
    if len(key) != KEY_BYTES:
        found = f"{len(key)}" if len(key) < KEY_BYTES else "more"
        raise ArgumentError(field, str(path), f"a file of exactly {KEY_BYTES} random bytes, found {found}")
    return key


def write_key_file(path: Path, *, field: str = "FILE") -> None:
    """Make a key file, which may not be there yet, with mode 0600. Raises `ArgumentError`."""
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
