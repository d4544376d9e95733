"""Which session an unfinished file belongs to.

The names of unfinished files are derived from the secret of the session, the code or the key. So a sender of another
session, which chooses the names and sizes in its offer, cannot name such a file: it cannot measure, replace or delete
it. A code has few bits, and who can list the names could try all codes: the files are in a directory of mode 0700,
whose own name is derived from what the edge knows as well.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import NamedTuple, Self

from punchlab.punch.secure.code import Code


class Owner(NamedTuple):
    """The session that unfinished files belong to: the public part of their names, and the secret part."""

    public: bytes
    secret: bytes

    @classmethod
    def of_code(cls, code: Code) -> Self:
        """The session of a code."""
        return cls(code.session.encode(), str(code).encode())

    @classmethod
    def of_key(cls, key: bytes) -> Self:
        """The sessions of a key file of 32 random bytes; nothing can be tried against its digest."""
        return cls(hashlib.sha256(b"punch unfinished files" + key).digest(), key)

    @classmethod
    def nobody(cls) -> Self:
        """A session that ends with this process: no other process finds its files."""
        return cls(os.urandom(16), os.urandom(32))

    @property
    def directory(self) -> str:
        """The name of the directory that the files wait in."""
        return f".punch-{hashlib.sha256(self.public).hexdigest()[:16]}.part"

    def name(self, name: str, size: int | None) -> str:
        """Where, in that directory, the file of that name and size (bytes; None: unknown) grows."""
        return hmac.digest(self.secret, f"{size} {name}".encode(), "sha256").hex()[:32]
