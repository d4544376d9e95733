"""Final names for what has arrived: for all of it, or for nothing.

A directory that is new is built aside under a hidden name, with everything in it, and renamed in one step. The
other files, and those that go into directories that exist, take their names one by one. If one step fails, those before
it are undone.

A process that is killed between two steps undoes nothing. So until all have their names, a file keeps its hidden name
as a second link, and a directory that is not the last one has a mark: a symbolic link that holds its inode number.
`recover` undoes what such a process has left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Self

from punch.client.descent import descended
from punch.client.names import FileError
from punch.client.offer import FileInfo, Offered
from punch.client.partial import partial_name, remove_partial
from punch.client.renaming import exchange, rename_new

LOCK_S = 5.0
"""How long another process may take to give files their names in the same directory."""

_NO_LINK = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.ENOSPC, errno.EDQUOT)


def cannot(name: str, error: OSError) -> FileError:
    """The error for something that cannot be stored."""
    if isinstance(error, FileExistsError):
        return FileError(f"{name!r} exists already (--force overwrites)")
    return FileError(f"{name!r} cannot be stored: {error.strerror}")


def is_there(name: str, directory_fd: int) -> bool:
    """Whether anything has that name. Raises `OSError`."""
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


class Naming:
    """Gives names below a directory. A context manager: undoes everything if its block raises. Raises `OSError`."""

    def __init__(self, directory_fd: int) -> None:
        self._fd = directory_fd
        self._aside: dict[str, str] = {}
        self._undo: list[Callable[[], None]] = []
        self._left: list[str] = []
        self._made: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            for name in self._left:
                with contextlib.suppress(OSError):
                    remove_partial(self._fd, name)
            return
        for undo in reversed(self._undo):
            with contextlib.suppress(OSError):
                undo()

    def build_aside(self, name: str) -> None:
        """From now on, what is put below the new directory `name` is put aside, until `show`."""
        aside = _aside_name(name)
        os.mkdir(aside, dir_fd=self._fd)
        self._undo.append(partial(os.rmdir, aside, dir_fd=self._fd))
        self._aside[name] = aside

    def make_directory(self, path: str) -> None:
        """Make the directory `path`, and those above it, if they are missing. A link is not followed."""
        if path in self._made:
            return
        parts = self._parts(path)
        for depth in range(1, len(parts) + 1):
            with descended(self._fd, parts[: depth - 1]) as parent, contextlib.suppress(FileExistsError):
                os.mkdir(parts[depth - 1], dir_fd=parent)
                self._undo.append(partial(self._at, parts[:depth], os.rmdir))
        with descended(self._fd, parts):
            self._made.add(path)

    def place(self, source: str, path: str, *, replace: bool) -> None:
        """Give the file of the hidden name `source` its own; with `replace`, in the place of another one."""
        above, _, last = path.rpartition("/")
        if above:
            self.make_directory(above)
        parts = self._parts(path)
        with descended(self._fd, parts[:-1]) as place:
            if replace and is_there(last, place):
                self._replace(source, parts, place)
            elif above or not self._link(source, last):
                rename_new(source, last, source_fd=self._fd, target_fd=place)
                self._undo.append(partial(self._at, parts, partial(self._back, source)))

    def show(self) -> None:
        """Give the directories that were built aside their names."""
        for number, (name, aside) in enumerate(self._aside.items(), start=1):
            try:
                if number < len(self._aside):
                    self._mark(name, aside)
                rename_new(aside, name, source_fd=self._fd, target_fd=self._fd)
            except OSError as error:
                raise cannot(name, error) from None
            self._undo.append(partial(os.rename, name, aside, src_dir_fd=self._fd, dst_dir_fd=self._fd))

    def _mark(self, name: str, aside: str) -> None:
        mark = _mark_name(name)
        with contextlib.suppress(OSError):  # a file system without symbolic links
            remove_partial(self._fd, mark)
            os.symlink(_inode(aside, self._fd), mark, dir_fd=self._fd)
            self._undo.append(partial(os.unlink, mark, dir_fd=self._fd))
            self._left.append(mark)

    def _parts(self, path: str) -> list[str]:
        first, *others = path.split("/")
        return [self._aside.get(first, first), *others]

    def _replace(self, source: str, parts: Sequence[str], place: int) -> None:
        if stat.S_ISDIR(os.stat(parts[-1], dir_fd=place, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if exchange(source, parts[-1], source_fd=self._fd, target_fd=place):
            self._undo.append(partial(self._at, parts, partial(self._exchange_back, source)))
            self._left.append(source)

    def _link(self, source: str, target: str) -> bool:
        """Whether the file has its own name now, besides the hidden one."""
        try:
            os.link(source, target, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        self._undo.append(partial(os.unlink, target, dir_fd=self._fd))
        self._left.append(source)
        return True

    def _at(self, parts: Sequence[str], undo: Callable[..., object]) -> None:
        with descended(self._fd, parts[:-1]) as place:
            undo(parts[-1], dir_fd=place)

    def _back(self, source: str, name: str, *, dir_fd: int) -> None:
        os.rename(name, source, src_dir_fd=dir_fd, dst_dir_fd=self._fd)

    def _exchange_back(self, source: str, name: str, *, dir_fd: int) -> None:
        exchange(source, name, source_fd=self._fd, target_fd=dir_fd)


@contextlib.contextmanager
def locked(directory_fd: int) -> Iterator[None]:
    """Keep other processes from giving names in that directory. Raises `FileError` if one does for `LOCK_S`."""
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise FileError("another process stores files in this directory, and does not end") from None
            time.sleep(0.01)
        except OSError:  # a file system without locks
            break
        else:
            break
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(directory_fd, fcntl.LOCK_UN)


def recover(directory_fd: int, offered: Sequence[Offered], *, force: bool) -> None:
    """Undo what a process that was killed while it gave names has left, as far as these are concerned.

    Everything is then under the hidden names again, complete.
    """
    names = {info.name.partition("/")[0] for info in offered}
    linked = [info for info in offered if isinstance(info, FileInfo) and _is_linked(directory_fd, info)]
    marked = [name for name in names if _is_marked(directory_fd, name)]
    with contextlib.suppress(OSError):
        others = names.difference(marked, (info.name for info in linked))
        if force or any(is_there(name, directory_fd) for name in others):
            # That process was done, but for removing the second links and the marks; or what it did may stay.
            for info in linked:
                remove_partial(directory_fd, partial_name(info.name, info.size))
        else:
            for info in linked:
                remove_partial(directory_fd, info.name)
            for name in marked:
                rename_new(name, _aside_name(name), source_fd=directory_fd, target_fd=directory_fd)
    for name in names:
        with contextlib.suppress(OSError):
            remove_partial(directory_fd, _mark_name(name))
            _take_apart(directory_fd, name)


def _is_marked(directory_fd: int, name: str) -> bool:
    try:
        return os.readlink(_mark_name(name), dir_fd=directory_fd) == _inode(name, directory_fd)
    except OSError:
        return False


def _inode(name: str, directory_fd: int) -> str:
    found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    return f"{found.st_dev}:{found.st_ino}"


def _is_linked(directory_fd: int, info: FileInfo) -> bool:
    if "/" in info.name:
        return False
    try:
        own = os.stat(info.name, dir_fd=directory_fd, follow_symlinks=False)
        hidden = os.stat(partial_name(info.name, info.size), dir_fd=directory_fd, follow_symlinks=False)
    except OSError:
        return False
    return (own.st_dev, own.st_ino) == (hidden.st_dev, hidden.st_ino) and own.st_uid == os.geteuid()


def _take_apart(directory_fd: int, name: str) -> None:
    aside = _aside_name(name)
    for below, directories, files, fd in os.fwalk(aside, topdown=False, dir_fd=directory_fd):
        inner = f"{name}/{os.path.relpath(below, aside)}/".replace("/./", "/")
        for each in files:
            found = os.stat(each, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                hidden = partial_name(inner + each, found.st_size)
                rename_new(each, hidden, source_fd=fd, target_fd=directory_fd)
        for each in directories:
            os.rmdir(each, dir_fd=fd)
    os.rmdir(aside, dir_fd=directory_fd)


def _aside_name(name: str) -> str:
    """Where the directory of that name is built."""
    return partial_name(f"{name}/", None)


def _mark_name(name: str) -> str:
    return partial_name(f"{name}/", 0)
