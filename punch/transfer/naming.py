"""Final names for what has arrived: for all of it, or for nothing.

A directory that is new is built aside, in the hidden directory of the unfinished files, with everything in it, and
renamed in one step. The other files, and those that go into directories that exist, take their names one by one. If one
step fails, or the call is stopped at a checkpoint, those before it are undone.

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

from punchlab.punch.transfer.names import FileError
from punchlab.punch.transfer.offer import FileInfo, Offered
from punchlab.punch.transfer.partial import Partials
from punchlab.punch.transfer.renaming import exchange, rename_new
from punchlab.punch.transfer.safe_open import descended
from punchlab.punch.transfer.worker import checkpoint

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

    def __init__(self, directory_fd: int, partials: Partials) -> None:
        self._fd = directory_fd
        self._partials = partials
        self._hidden = partials.made()
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
                    self._partials.remove(name)
            return
        for undo in reversed(self._undo):
            with contextlib.suppress(OSError):
                undo()

    def build_aside(self, name: str) -> None:
        """From now on, what is put below the new directory `name` is put aside, until `show`."""
        aside = _aside_name(self._partials, name)
        os.mkdir(aside, dir_fd=self._hidden)
        self._undo.append(partial(os.rmdir, aside, dir_fd=self._hidden))
        self._aside[name] = aside

    def make_directory(self, path: str) -> None:
        """Make the directory `path`, and those above it, if they are missing. A link is not followed."""
        if path in self._made:
            return
        root, parts = self._place(path)
        for depth in range(1, len(parts) + 1):
            checkpoint()
            with descended(root, parts[: depth - 1]) as parent, contextlib.suppress(FileExistsError):
                os.mkdir(parts[depth - 1], dir_fd=parent)
                self._undo.append(partial(_at, root, parts[:depth], os.rmdir))
        with descended(root, parts):
            self._made.add(path)

    def place(self, source: str, path: str, *, replace: bool) -> None:
        """Give the unfinished file `source` its own name; with `replace`, in the place of another one."""
        checkpoint()
        above, _, last = path.rpartition("/")
        if above:
            self.make_directory(above)
        root, parts = self._place(path)
        with descended(root, parts[:-1]) as place:
            if replace and is_there(last, place):
                self._replace(source, root, parts, place)
            elif above or not self._link(source, last):
                rename_new(source, last, source_fd=self._hidden, target_fd=place)
                self._undo.append(partial(_at, root, parts, partial(self._back, source)))

    def show(self) -> None:
        """Give the directories that were built aside their names."""
        for number, (name, aside) in enumerate(self._aside.items(), start=1):
            checkpoint()
            try:
                if number < len(self._aside):
                    self._mark(name, aside)
                rename_new(aside, name, source_fd=self._hidden, target_fd=self._fd)
            except OSError as error:
                raise cannot(name, error) from None
            self._undo.append(partial(os.rename, name, aside, src_dir_fd=self._fd, dst_dir_fd=self._hidden))

    def _mark(self, name: str, aside: str) -> None:
        mark = _mark_name(self._partials, name)
        with contextlib.suppress(OSError):  # a file system without symbolic links
            self._partials.remove(mark)
            os.symlink(_inode(aside, self._hidden), mark, dir_fd=self._hidden)
            self._undo.append(partial(os.unlink, mark, dir_fd=self._hidden))
            self._left.append(mark)

    def _place(self, path: str) -> tuple[int, list[str]]:
        """Where the way down to `path` begins, and the parts of that way."""
        first, *others = path.split("/")
        aside = self._aside.get(first)
        return (self._fd, [first, *others]) if aside is None else (self._hidden, [aside, *others])

    def _replace(self, source: str, root: int, parts: Sequence[str], place: int) -> None:
        if stat.S_ISDIR(os.stat(parts[-1], dir_fd=place, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if exchange(source, parts[-1], source_fd=self._hidden, target_fd=place):
            self._undo.append(partial(_at, root, parts, partial(self._exchange_back, source)))
            self._left.append(source)

    def _link(self, source: str, target: str) -> bool:
        """Whether the file has its own name now, besides the hidden one."""
        try:
            os.link(source, target, src_dir_fd=self._hidden, dst_dir_fd=self._fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        self._undo.append(partial(os.unlink, target, dir_fd=self._fd))
        self._left.append(source)
        return True

    def _back(self, source: str, name: str, *, dir_fd: int) -> None:
        os.rename(name, source, src_dir_fd=dir_fd, dst_dir_fd=self._hidden)

    def _exchange_back(self, source: str, name: str, *, dir_fd: int) -> None:
        exchange(source, name, source_fd=self._hidden, target_fd=dir_fd)


def _at(root: int, parts: Sequence[str], undo: Callable[..., object]) -> None:
    with descended(root, parts[:-1]) as place:
        undo(parts[-1], dir_fd=place)


@contextlib.contextmanager
def locked(directory_fd: int) -> Iterator[None]:
    """Keep other processes from giving names in that directory. Raises `FileError` if one does for `LOCK_S`."""
    until = time.monotonic() + LOCK_S
    while True:
        checkpoint()
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


def recover(directory_fd: int, partials: Partials, offered: Sequence[Offered], *, force: bool) -> None:
    """Undo what a process of this session that was killed while it gave names has left, as far as these are concerned.

    Everything is then under the hidden names again, complete.
    """
    try:
        hidden = partials.fd
    except OSError:
        return
    names = {info.name.partition("/")[0] for info in offered}
    linked = [info for info in offered if isinstance(info, FileInfo) and _is_linked(directory_fd, partials, info)]
    marked = [name for name in names if _is_marked(directory_fd, partials, name)]
    with contextlib.suppress(OSError):
        others = names.difference(marked, (info.name for info in linked))
        if force or any(is_there(name, directory_fd) for name in others):
            # That process was done, but for removing the second links and the marks; or what it did may stay.
            for info in linked:
                partials.remove(partials.name(info.name, info.size))
        else:
            for info in linked:
                os.unlink(info.name, dir_fd=directory_fd)
            for name in marked:
                rename_new(name, _aside_name(partials, name), source_fd=directory_fd, target_fd=hidden)
    for name in names:
        checkpoint()
        with contextlib.suppress(OSError):
            partials.remove(_mark_name(partials, name))
            _take_apart(partials, name)


def _is_marked(directory_fd: int, partials: Partials, name: str) -> bool:
    try:
        return os.readlink(_mark_name(partials, name), dir_fd=partials.fd) == _inode(name, directory_fd)
    except OSError:
        return False


def _inode(name: str, directory_fd: int) -> str:
    found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    return f"{found.st_dev}:{found.st_ino}"


def _is_linked(directory_fd: int, partials: Partials, info: FileInfo) -> bool:
    if "/" in info.name:
        return False
    try:
        own = os.stat(info.name, dir_fd=directory_fd, follow_symlinks=False)
        hidden = os.stat(partials.name(info.name, info.size), dir_fd=partials.fd, follow_symlinks=False)
    except OSError:
        return False
    return (own.st_dev, own.st_ino) == (hidden.st_dev, hidden.st_ino) and own.st_uid == os.geteuid()


def _take_apart(partials: Partials, name: str) -> None:
    aside, hidden = _aside_name(partials, name), partials.fd
    for below, directories, files, fd in os.fwalk(aside, topdown=False, dir_fd=hidden):
        inner = f"{name}/{os.path.relpath(below, aside)}/".replace("/./", "/")
        for each in files:
            checkpoint()
            found = os.stat(each, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                rename_new(each, partials.name(inner + each, found.st_size), source_fd=fd, target_fd=hidden)
        for each in directories:
            os.rmdir(each, dir_fd=fd)
    os.rmdir(aside, dir_fd=hidden)


def _aside_name(partials: Partials, name: str) -> str:
    """Where the directory of that name is built."""
    return partials.name(f"{name}/", None)


def _mark_name(partials: Partials, name: str) -> str:
    return partials.name(f"{name}/", 0)
