"""What a sender offers: files, empty directories, or one stream; as data, and as the OFFER frames of the wire.

A name has the slashes of the sender's directories in it, and begins with that of the directory itself. Directories
with something in them are not offered: the names of what is in them imply them. They count all the same (`Entries`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from punchlab.punch.errors import TamperedError
from punchlab.punch.transfer.names import OfferError

MAX_ENTRIES = 10_000
"""Files and directories of one transfer, those directories included that are only implied."""

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


class Entries:
    """The files and directories that an offer makes, implied ones included, counted one by one.

    At most `MAX_ENTRIES`, so that neither the names of an offer nor what they imply can be many.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._added = 0

    def add(self, name: str) -> None:
        """Count what has that name, and the directories above it. Raises `FileError` if those are too many."""
        self._added += 1
        self._names.add(name)
        above = name.rpartition("/")[0]
        while above and above not in self._names:
            self._names.add(above)
            above = above.rpartition("/")[0]
        if max(self._added, len(self._names)) > MAX_ENTRIES:
            raise OfferError(f"more than {MAX_ENTRIES} files and directories")

    def __len__(self) -> int:
        return len(self._names)


def count_directories(offered: Sequence[Offered]) -> int:
    """How many directories an offer makes, implied ones included."""
    entries = Entries()
    for info in offered:
        entries.add(info.name)
    return len(entries) - sum(not isinstance(info, DirectoryInfo) for info in offered)


def check_distinct(offered: Sequence[Offered]) -> None:
    """Raise `FileError` if a name is offered twice, or for a file and for a directory."""
    names = sorted(f"{info.name}/" for info in offered)
    # Nothing sorts between a name with its slash and the first of the names below it.
    for one, other in itertools.pairwise(names):
        if one == other:
            raise OfferError(f"{one[:-1]!r} is offered twice")
        if other.startswith(one):
            raise OfferError(f"{one[:-1]!r} is offered, and so is something below it")


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
