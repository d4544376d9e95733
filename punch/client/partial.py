"""Files that a broken tunnel has brought in part, kept under a hidden name until a new tunnel brings the rest.

The name follows from the file's own name and size, so that the same command finds it again after a crash. What is in
it is believed only after the sender has compared its SHA-256 with that of its own file's beginning.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat

HASH_BLOCK = 1 << 20
_PARTIAL = re.compile(r"\.punch-[0-9a-f]{16}\.part")


def partial_name(name: str, size: int | None) -> str:
    """Where the file of that name and size (bytes; None if nobody knows) grows."""
    return f".punch-{hashlib.sha256(f'{size} {name}'.encode()).hexdigest()[:16]}.part"


def is_partial_name(name: str) -> bool:
    """Whether a file of that name would be taken for one that is growing."""
    return _PARTIAL.fullmatch(name) is not None


def open_partial(directory_fd: int, name: str, *, create: bool) -> int:
    """A descriptor of the file, which nobody else has and nobody else receives into. Raises `OSError`.

    Whoever else may write to the directory could have put something else there: a link would lead our writes away.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    if create:
        flags |= os.O_CREAT
    fd = os.open(name, flags, 0o666, dir_fd=directory_fd)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, f"{name!r} in its way is not ours")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "another process is receiving it") from None
        # Whoever had the lock before may have given it its own name meanwhile.
        named = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        if (named.st_dev, named.st_ino) != (found.st_dev, found.st_ino):
            raise OSError(errno.EBUSY, "another process has just received it")
    except BaseException:
        os.close(fd)
        raise
    return fd


def identity(fd: int) -> tuple[int, int, int, int]:
    """What tells a file from any other, and from itself with another content: device, inode, size, time of change."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def remove_partial(directory_fd: int, name: str) -> None:
    """Remove the file if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory_fd)


def discard_partial(directory_fd: int, name: str) -> None:
    """Remove the file if it is there, ours, and no other process receives into it."""
    with contextlib.suppress(OSError):
        fd = open_partial(directory_fd, name, create=False)
        try:
            remove_partial(directory_fd, name)
        finally:
            os.close(fd)


def hash_prefix(fd: int, size: int) -> hashlib._Hash | None:
    """The running SHA-256 of the first `size` bytes; None if there are fewer. Blocks; raises `OSError`."""
    digest = hashlib.sha256()
    position = 0
    while position < size:
        block = os.pread(fd, min(HASH_BLOCK, size - position), position)
        if not block:
            return None
        digest.update(block)
        position += len(block)
    return digest
