"""What a sender offers: files, empty directories, or one stream; as data, and as the OFFER frames of the wire.

A name has the slashes of the sender's directories in it, and begins with that of the directory itself. Directories
with something in them are not offered: the names of what is in them imply them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from punch.client.names import FileError
from punch.errors import TamperedError

MAX_FILES = 10_000  # of one transfer, empty directories included
MAX_SIZE = 1 << 63


class FileInfo(NamedTuple):
    """A file's name, its size in bytes, and whether its owner may execute it."""

    name: str
    size: int
    executable: bool = False


@dataclass(frozen=True, slots=True)
class DirectoryInfo:
    """The name of a directory with nothing in it."""

    name: str


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The name of a file that is sent while it is made, so that nobody knows its size."""

    name: str


Offered = FileInfo | DirectoryInfo | StreamInfo


class FileDone(NamedTuple):
    """A file that has arrived; `sha256` in hex."""

    name: str
    size: int
    sha256: str


def total_size(offered: Sequence[Offered]) -> int | None:
    """Bytes in all of it; None if nobody knows."""
    if any(isinstance(info, StreamInfo) for info in offered):
        return None
    return sum(info.size for info in offered if isinstance(info, FileInfo))


def check_distinct(offered: Sequence[Offered]) -> None:
    """Raise `FileError` if a name is offered twice, or for a file and for a directory."""
    names = sorted(f"{info.name}/" for info in offered)
    # Nothing sorts between a name with its slash and the first of the names below it.
    for one, other in itertools.pairwise(names):
        if one == other:
            raise FileError(f"{one[:-1]!r} is offered twice")
        if other.startswith(one):
            raise FileError(f"{one[:-1]!r} is offered, and so is something below it")


def write_offer(info: Offered, *, last: bool) -> bytes:
    """The payload of its OFFER."""
    match info:
        case FileInfo():
            fields = {"name": info.name, "size": info.size, "executable": info.executable}
        case DirectoryInfo():
            fields = {"name": info.name, "kind": "directory"}
        case StreamInfo():
            fields = {"name": info.name, "kind": "stream"}
    return json.dumps({**fields, "last": last}).encode()


def read_offer(payload: bytes) -> tuple[Offered, bool]:
    """What is offered, and whether it is the last; the name is not checked. Raises `TamperedError`."""
    try:
        fields = json.loads(payload)
        name, kind, last = fields["name"], fields.get("kind", "file"), fields["last"]
        size, executable = fields.get("size"), fields.get("executable", False)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise TamperedError("an offer cannot be read") from None
    if isinstance(name, str) and isinstance(last, bool):
        if kind == "file" and type(size) is int and 0 <= size < MAX_SIZE and isinstance(executable, bool):
            return FileInfo(name, size, executable), last
        if kind == "directory":
            return DirectoryInfo(name), last
        if kind == "stream":
            return StreamInfo(name), last
    raise TamperedError("an offer cannot be read")
