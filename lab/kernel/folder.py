"""A folder that is opened once. Files in it are read, created, replaced and appended to without following links.

A program that can write to a folder, such as an earlier command of `punchlab sandbox`, can create links, FIFOs and
folders under any name. Each name here is that of an entry of the folder, so a link cannot lead out of it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
_NO_WAIT = os.O_NONBLOCK | os.O_NOCTTY  # open(2) of a FIFO waits for its other end otherwise


class Folder:
    """A folder, as an open `descriptor`; `path` is for messages only. A context manager that closes the descriptor.

    Every method raises `OSError` with a `strerror` that names the entry if it is a link or has the wrong type.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor, self.path = descriptor, path

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Self:
        """Open the folder at a path; with `create`, create it and its parents if they do not exist.

        Follows links in the path, except those in the working directory, because programs of other people may run
        there. Raises `OSError`.
        """
        top, names = _working_directory(path)
        if create and not names:
            top.mkdir(parents=True, exist_ok=True)
        folder = cls(os.open(top, _FOLDER), path)
        for name in names:
            with folder:
                folder = folder._inside(name, path, create=create)
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    def folder(self, name: str, *, create: bool = False) -> Self:
        """Open a folder in this folder; with `create`, create it if it does not exist."""
        return self._inside(name, self.path / name, create=create)

    def read(self, name: str) -> bytes:
        """Return the content of a regular file."""
        with io.FileIO(self._open(name, os.O_RDONLY), "r") as file:
            return file.readall()

    def append(self, name: str) -> io.FileIO:
        """Open a regular file to read it and to append to it, unbuffered; create it if it does not exist."""
        return io.FileIO(self._open(name, os.O_RDWR | os.O_APPEND | os.O_CREAT), "a+")

    def replace(self, name: str, content: bytes) -> None:
        """Replace a file, or create it, atomically. See `writer`."""
        with self.writer(name) as file:
            file.write(content)

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """A file for writing that replaces the file `name`, or becomes it, when the block ends without an exception.

        An entry that is a link or no regular file is not replaced.
        """
        self.check_replaceable(name)
        draft, file = self.draft()
        try:
            with file:
                yield file
            self.move(draft, self, name)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=self.descriptor)

    def draft(self) -> tuple[str, BinaryIO]:
        """Create a file under an unpredictable name; return the name and the file, open for writing."""
        name = f".{secrets.token_hex(16)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
        return name, os.fdopen(os.open(name, flags, 0o666, dir_fd=self.descriptor), "wb")

    def move(self, name: str, target: Folder, new: str) -> None:
        """Rename an entry of this folder to an entry of the target, which it replaces."""
        os.replace(name, _entry(new), src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor)

    def check_replaceable(self, name: str) -> None:
        """Raise `OSError` if an entry has the name and is no regular file."""
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(_entry(name), dir_fd=self.descriptor, follow_symlinks=False).st_mode
            if not stat.S_ISREG(mode):
                raise _wrong_type(name, mode)

    def files(self) -> list[str]:
        """Return the names of all entries that are no folders."""
        with os.scandir(self.descriptor) as entries:
            return [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]

    def unlink(self, name: str) -> None:
        """Remove an entry that is no folder."""
        os.unlink(_entry(name), dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Remove a folder in this folder and the files in it. Raises `OSError` if the folder has folders in it."""
        with self.folder(name) as folder:
            for entry in folder.files():
                folder.unlink(entry)
        os.rmdir(name, dir_fd=self.descriptor)

    def _inside(self, name: str, path: Path, *, create: bool) -> Self:
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_entry(name), dir_fd=self.descriptor)
        try:
            return type(self)(os.open(_entry(name), _FOLDER | _NO_LINK, dir_fd=self.descriptor), path)
        except NotADirectoryError:  # a link gives the same error
            mode = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise _wrong_type(name, mode) from None
            raise

    def _open(self, name: str, flags: int) -> int:
        """Return the descriptor of a regular file."""
        try:
            descriptor = os.open(_entry(name), flags | _NO_LINK | _NO_WAIT, 0o666, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link, a socket
                mode = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mode
                raise _wrong_type(name, mode) from None
            raise
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            raise _wrong_type(name, mode)
        return descriptor


def _working_directory(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the working directory and the names that lead from it to the path; the path and none if none do."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - without links there is one meaning of ".."
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed
        return path, ()
    if here == here.parent:  # no program of other people can write to /
        return path, ()
    for folder in reversed((absolute, *absolute.parents)):
        with contextlib.suppress(OSError):
            if folder.samefile(here):
                return Path(), absolute.relative_to(folder).parts
    return path, ()


def _entry(name: str) -> str:
    if "/" in name or name in {"", ".", ".."}:
        raise OSError(errno.EINVAL, "not the name of a file", name)
    return name


def _wrong_type(name: str, mode: int) -> OSError:
    if stat.S_ISLNK(mode):
        return OSError(errno.ELOOP, f"{name} is a symbolic link", name)
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, f"{name} is a directory", name)
    return OSError(errno.EINVAL, f"{name} is not a regular file", name)
