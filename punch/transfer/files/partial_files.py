"""Unfinished files of a broken tunnel, kept under hidden names until a new tunnel transfers the rest.

They are in a hidden directory of their session. Their names are derived from the secret of the session and from the
file's name and size (`punch.transfer.files.partial_names`), so that the same command finds them after a crash, and no
other session does. The content of such a file is used only after the sender has compared its SHA-256 with the beginning
of its own file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat

from punchlab.punch.transfer.files.partial_names import PartialNames
from punchlab.punch.transfer.worker import checkpoint

HASH_BLOCK = 1 << 20
_PARTIAL = re.compile(r"\.punch-[0-9a-f]{16}\.part")


def is_partial_name(name: str) -> bool:
    """Return whether the name is one of a directory of unfinished files."""
    return _PARTIAL.fullmatch(name) is not None


class PartialFiles:
    """The unfinished files of one session in a directory. All methods raise `OSError`.

    Their directory is created with the first of them, and removed when it is empty.
    """

    def __init__(self, directory_fd: int, partial_names: PartialNames) -> None:
        self._parent = directory_fd
        self.partial_names = partial_names
        self._fd: int | None = None

    def name(self, name: str, size: int | None) -> str:
        """Return the name of an unfinished file in the directory `fd`."""
        return self.partial_names.name(name, size)

    @property
    def fd(self) -> int:
        """A descriptor of the directory. Raises `FileNotFoundError` if it does not exist."""
        return self._opened(create=False)

    def made(self) -> int:
        """Return a descriptor of the directory, which is created if needed."""
        return self._opened(create=True)

    def open(self, name: str, *, create: bool) -> int:
        """Return a descriptor of a file, as `open_partial` does."""
        try:
            return open_partial(self._opened(create=create), name, create=create)
        except FileNotFoundError:
            if not create:
                raise
        self._close_directory()  # another process of this session has just removed the directory
        return open_partial(self._opened(create=True), name, create=True)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def discard(self, name: str) -> None:
        """Remove a file if it exists, belongs to this user, and no other process is receiving it."""
        with contextlib.suppress(OSError):
            fd = self.open(name, create=False)
            try:
                self.remove(name)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Remove the directory if it is empty. The object can be used again."""
        with contextlib.suppress(OSError):
            os.rmdir(self.partial_names.directory, dir_fd=self._parent)
        self._close_directory()

    def _close_directory(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _opened(self, *, create: bool) -> int:
        if self._fd is None:
            name = self.partial_names.directory
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=self._parent)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=self._parent)
            if os.fstat(fd).st_uid != os.geteuid():
                os.close(fd)
                raise OSError(errno.EEXIST, f"{name!r} exists and belongs to another user")
            self._fd = fd
        return self._fd


def open_partial(directory_fd: int, name: str, *, create: bool) -> int:
    """Return a locked descriptor of the file, which no other process is receiving. Raises `OSError`.

    Other users who may write to the directory could have put a link or another file there, which is rejected.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    if create:
        flags |= os.O_CREAT
    fd = os.open(name, flags, 0o666, dir_fd=directory_fd)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, f"{name!r} exists and is not a file of this program")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "another process is receiving it") from None
        # The process that held the lock before may have given the file its final name meanwhile.
        named = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        if (named.st_dev, named.st_ino) != (found.st_dev, found.st_ino):
            raise OSError(errno.EBUSY, "another process has just received it")
    except BaseException:
        os.close(fd)
        raise
    return fd


def identity(fd: int) -> tuple[int, int, int, int]:
    """Return device, inode, size and modification time, which identify a file and its content."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def hash_prefix(fd: int, size: int) -> hashlib._Hash | None:
    """Return the running SHA-256 of the first `size` bytes; None if there are fewer. Blocks; raises `OSError`."""
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
