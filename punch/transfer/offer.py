"""The offer of a sender: files, empty directories, or one stream; as data, and as OFFER frames.

A name is the path from the offered directory, which is its first component. A directory with contents is not offered,
because the names of its contents imply it. It still counts (`Entries`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from punchlab.punch.errors import TamperedError
from punchlab.punch.transfer.files.name_rules import OfferError

MAX_ENTRIES = 10_000
"""Maximum number of files and directories of one transfer, including implied directories."""

MAX_SIZE = 1 << 63


class FileInfo(NamedTuple):
    """A file's name, its size in bytes, and whether its owner may execute it."""

    name: str
    size: int
    executable: bool = False


@dataclass(frozen=True, slots=True)
class DirectoryInfo:
    """The name of an empty directory."""

    name: str


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The name of a file that is read from a stream, so that its size is unknown."""

    name: str


Offered = FileInfo | DirectoryInfo | StreamInfo


class FileDone(NamedTuple):
    """A transferred file; `sha256` in hex."""

    name: str
    size: int
    sha256: str


def total_size(offered: Sequence[Offered]) -> int | None:
    """Return the sum of the sizes in bytes; None if it is unknown."""
    if any(isinstance(info, StreamInfo) for info in offered):
        return None
    return sum(info.size for info in offered if isinstance(info, FileInfo))


class Entries:
    """Counts the files and directories of an offer, including implied ones.

    At most `MAX_ENTRIES` are accepted.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._added = 0

    def add(self, name: str) -> None:
        """Count the name and the directories above it. Raises `FileError` if there are too many."""
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
    """Return the number of directories of an offer, including implied ones."""
    entries = Entries()
    for info in offered:
        entries.add(info.name)
    return len(entries) - sum(not isinstance(info, DirectoryInfo) for info in offered)


def check_distinct(offered: Sequence[Offered]) -> None:
    """Raise `FileError` if a name is offered twice, or both for a file and for a directory."""
    names = sorted(f"{info.name}/" for info in offered)
    # In this order, a name with its slash is directly followed by the names below it.
    for one, other in itertools.pairwise(names):
        if one == other:
            raise OfferError(f"{one[:-1]!r} is offered twice")
        if other.startswith(one):
            raise OfferError(f"{one[:-1]!r} is offered both as a file or empty directory and as a parent directory")


def write_offer(info: Offered, *, last: bool) -> bytes:
    """Return the payload of an OFFER."""
    match info:
        case FileInfo():
            fields = {"name": info.name, "size": info.size, "executable": info.executable}
        case DirectoryInfo():
            fields = {"name": info.name, "kind": "directory"}
        case StreamInfo():
            fields = {"name": info.name, "kind": "stream"}
    return json.dumps({**fields, "last": last}).encode()


def read_offer(payload: bytes) -> tuple[Offered, bool]:
    """Return what a payload offers, with an unchecked name, and whether it is the last. Raises `TamperedError`."""
    try:
        fields = json.loads(payload)
        name, kind, last = fields["name"], fields.get("kind", "file"), fields["last"]
        size, executable = fields.get("size"), fields.get("executable", False)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise TamperedError("an invalid offer") from None
    if isinstance(name, str) and isinstance(last, bool):
        if kind == "file" and type(size) is int and 0 <= size < MAX_SIZE and isinstance(executable, bool):
            return FileInfo(name, size, executable), last
        if kind == "directory":
            return DirectoryInfo(name), last
        if kind == "stream":
            return StreamInfo(name), last
    raise TamperedError("an invalid offer")
