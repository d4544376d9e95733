"""The contents of files on their way out, in the order in which they are sent. All of it blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

from punchlab.punch.secure.channel import MAX_PAYLOAD
from punchlab.punch.transfer.names import FileError
from punchlab.punch.transfer.offer import FileDone, FileInfo
from punchlab.punch.transfer.outgoing import Outgoing, changed
from punchlab.punch.transfer.partial import hash_prefix
from punchlab.punch.transfer.worker import checkpoint

BLOCK = 4 * MAX_PAYLOAD
"""Bytes that are read at once: fewer would cost more for passing them on than for reading them."""

Held = Mapping[int, tuple[int, bytes]]
"""Of a file, by its number in the offer, the bytes that the receiver has and their SHA-256."""


class Resumed(NamedTuple):
    """The next file goes on from this byte."""

    info: FileInfo
    start: int


Piece = bytes | Resumed | FileDone
"""What is said of a file: from where it goes on, its bytes, and at its end what it was."""


def read_contents(outgoing: Outgoing, held: Held) -> Iterator[Piece]:
    """All files, one after another, from where the receiver has them. Raises `FileError`."""
    for index, info, file in outgoing.contents():
        start, digest = _common_start(info, file, held.get(index))
        if start:
            yield Resumed(info, start)
        left = info.size - start
        while left:
            checkpoint()
            try:
                data = file.read(min(left, BLOCK))
            except OSError as error:
                raise FileError(f"{info.name!r} cannot be read: {error.strerror}") from None
            if not data:
                raise changed(info)
            outgoing.check(info, file)  # now, rather than after the rest of a long file
            digest.update(data)
            left -= len(data)
            yield data
        _check_unchanged(outgoing, info, file, digest.digest())
        yield FileDone(info.name, info.size, digest.hexdigest())


def size_of(piece: Piece) -> int:
    """The bytes that a piece has in memory, but for a constant."""
    return len(piece) if isinstance(piece, bytes) else 0


def _check_unchanged(outgoing: Outgoing, info: FileInfo, file: BinaryIO, sha256: bytes) -> None:
    """Raise `FileError` unless what was read, of that SHA-256, is the file as it was offered."""
    if outgoing.check(info, file):
        try:
            again = hash_prefix(file.fileno(), info.size)
        except OSError as error:
            raise FileError(f"{info.name!r} cannot be read: {error.strerror}") from None
        if again is None or again.digest() != sha256:
            raise changed(info)


def _common_start(info: FileInfo, file: BinaryIO, held: tuple[int, bytes] | None) -> tuple[int, hashlib._Hash]:
    """How many bytes the receiver need not get again, and their running SHA-256; the file stands there."""
    try:
        if held is not None:
            size, sha256 = held
            digest = hash_prefix(file.fileno(), size)
            if digest is not None and digest.digest() == sha256:
                return file.seek(size), digest
        return file.seek(0), hashlib.sha256()
    except OSError as error:
        raise FileError(f"{info.name!r} cannot be read: {error.strerror}") from None
