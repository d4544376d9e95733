"""Reads the contents of files in the order in which they are sent. All functions block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

from punchlab.punch.secure.channel import MAX_PAYLOAD
from punchlab.punch.transfer.files.file_source import FileSource, changed
from punchlab.punch.transfer.files.name_rules import FileError
from punchlab.punch.transfer.files.partial_files import hash_prefix
from punchlab.punch.transfer.offer import FileDone, FileInfo
from punchlab.punch.transfer.worker import checkpoint

BLOCK = 4 * MAX_PAYLOAD
"""Bytes that are read at once; with fewer, passing them on would cost more than reading them."""

Held = Mapping[int, tuple[int, bytes]]
"""For a file's number in the offer, the number of bytes that the receiver has, and their SHA-256."""


class Resumed(NamedTuple):
    """The next file resumes at this byte."""

    info: FileInfo
    start: int


Piece = bytes | Resumed | FileDone
"""For each file: where it resumes, its data, and at its end its size and SHA-256."""


def read_contents(source: FileSource, held: Held) -> Iterator[Piece]:
    """Yield all files, each from where the receiver's part ends. Raises `FileError`."""
    for index, info, file in source.contents():
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
            source.check(info, file)  # now, and not only at the end of a long file
            digest.update(data)
            left -= len(data)
            yield data
        _check_unchanged(source, info, file, digest.digest())
        yield FileDone(info.name, info.size, digest.hexdigest())


def size_of(piece: Piece) -> int:
    """Return the memory that a piece uses in bytes, except for a constant."""
    return len(piece) if isinstance(piece, bytes) else 0


def _check_unchanged(source: FileSource, info: FileInfo, file: BinaryIO, sha256: bytes) -> None:
    """Raise `FileError` unless the data that were read, with this SHA-256, are those of the offered file."""
    if source.check(info, file):
        try:
            again = hash_prefix(file.fileno(), info.size)
        except OSError as error:
            raise FileError(f"{info.name!r} cannot be read: {error.strerror}") from None
        if again is None or again.digest() != sha256:
            raise changed(info)


def _common_start(info: FileInfo, file: BinaryIO, held: tuple[int, bytes] | None) -> tuple[int, hashlib._Hash]:
    """Return how many bytes the receiver already has, and their running SHA-256; the file is positioned there."""
    try:
        if held is not None:
            size, sha256 = held
            digest = hash_prefix(file.fileno(), size)
            if digest is not None and digest.digest() == sha256:
                return file.seek(size), digest
        return file.seek(0), hashlib.sha256()
    except OSError as error:
        raise FileError(f"{info.name!r} cannot be read: {error.strerror}") from None
