"""Names of unfinished files, which only the same session can derive.

The names are derived from the secret of the session: the code or the key. The sender of another session, which chooses
the names and sizes of its offer, cannot refer to such a file, and so cannot measure, replace or delete it. A code has
few bits, so a user who can list the names could find the code by trial. Therefore the files are in a directory of mode
0700, whose own name is derived from data that the edge also knows.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import NamedTuple, Self

from punchlab.punch.secure.code import Code


class PartialNames(NamedTuple):
    """Derives the names of a session's unfinished files, from a public and a secret value."""

    public: bytes
    secret: bytes

    @classmethod
    def of_code(cls, code: Code) -> Self:
        """Use the session of a code."""
        return cls(code.session.encode(), str(code).encode())

    @classmethod
    def of_key(cls, key: bytes) -> Self:
        """Use the sessions of a key file of 32 random bytes, which cannot be guessed from its digest."""
        return cls(hashlib.sha256(b"punch unfinished files" + key).digest(), key)

    @classmethod
    def random(cls) -> Self:
        """Use random values, so that no other process finds the files."""
        return cls(os.urandom(16), os.urandom(32))

    @property
    def directory(self) -> str:
        """The name of the directory of the unfinished files."""
        return f".punch-{hashlib.sha256(self.public).hexdigest()[:16]}.part"

    def name(self, name: str, size: int | None) -> str:
        """Return the name, in that directory, of the unfinished file for this name and size (bytes; None: unknown)."""
        return hmac.digest(self.secret, f"{size} {name}".encode(), "sha256").hex()[:32]
