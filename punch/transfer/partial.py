"""Files that a broken tunnel has brought in part, kept under a hidden name until a new tunnel brings the rest.

They are in a hidden directory of their session, and their names follow from the secret of the session and from the
file's own name and size (`punch.transfer.owner`), so that the same command finds them again after a crash, and nobody
else does. What is in one is believed only after the sender has compared its SHA-256 with that of its own file's
beginning.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat

from punchlab.punch.transfer.owner import Owner
from punchlab.punch.transfer.worker import checkpoint

HASH_BLOCK = 1 << 20
_PARTIAL = re.compile(r"\.punch-[0-9a-f]{16}\.part")


def is_partial_name(name: str) -> bool:
    """Whether something of that name would be taken for unfinished files."""
    return _PARTIAL.fullmatch(name) is not None


class Partials:
    """The unfinished files of one session in a directory. All methods raise `OSError`.

    Their own directory is made when the first of them is, and removed when there is none.
    """

    def __init__(self, directory_fd: int, owner: Owner) -> None:
        self._parent = directory_fd
        self.owner = owner
        self._fd: int | None = None

    def name(self, name: str, size: int | None) -> str:
        """The name of an unfinished file, in the directory of `fd`."""
        return self.owner.name(name, size)

    @property
    def fd(self) -> int:
        """A descriptor of their directory. Raises `FileNotFoundError` if there are none."""
        return self._opened(create=False)

    def made(self) -> int:
        """A descriptor of their directory, which is made if there is none."""
        return self._opened(create=True)

    def open(self, name: str, *, create: bool) -> int:
        """A descriptor of a file, as from `open_partial`."""
        try:
            return open_partial(self._opened(create=create), name, create=create)
        except FileNotFoundError:
            if not create:
                raise
        self._forget()  # another process of this session has just removed the directory
        return open_partial(self._opened(create=True), name, create=True)

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def discard(self, name: str) -> None:
        """Remove a file if it is there, ours, and no other process receives into it."""
        with contextlib.suppress(OSError):
            fd = self.open(name, create=False)
            try:
                self.remove(name)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Remove the directory if there is nothing in it. The object can be used again."""
        with contextlib.suppress(OSError):
            os.rmdir(self.owner.directory, dir_fd=self._parent)
        self._forget()

    def _forget(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _opened(self, *, create: bool) -> int:
        if self._fd is None:
            name = self.owner.directory
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=self._parent)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=self._parent)
            if os.fstat(fd).st_uid != os.geteuid():
                os.close(fd)
                raise OSError(errno.EEXIST, f"{name!r} in its way is not ours")
            self._fd = fd
        return self._fd


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


def hash_prefix(fd: int, size: int) -> hashlib._Hash | None:
    """The running SHA-256 of the first `size` bytes; None if there are fewer. Blocks; raises `OSError`."""
    digest = hashlib.sha256()
    position = 0
    while position < size:
        checkpoint()
        block = os.pread(fd, min(HASH_BLOCK, size - position), position)
        if not block:
            return None
        digest.update(block)
        position += len(block)
    return digest
