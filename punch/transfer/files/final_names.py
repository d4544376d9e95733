"""Final names for received files: for all of them, or for none.

A new directory is built with all of its contents in the hidden directory of the unfinished files, and renamed in one
step. Other files, and those in existing directories, get their names one by one. If one step fails, or the call is
stopped at a checkpoint, all steps before it are undone.

A killed process undoes nothing. So until all files have their names, each file keeps its hidden name as a second link,
and each new directory except the last has a mark: a symbolic link that contains its inode number. `recover` uses these
to undo the steps of a killed process.
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

from punchlab.punch.transfer.files.name_rules import FileError
from punchlab.punch.transfer.files.partial_files import PartialFiles
from punchlab.punch.transfer.files.renameat2 import exchange, rename_new
from punchlab.punch.transfer.files.safe_open import opened_below
from punchlab.punch.transfer.offer import FileInfo, Offered
from punchlab.punch.transfer.worker import checkpoint

LOCK_S = 5.0
"""How long to wait for another process that gives files their names in the same directory, in seconds."""

_NO_LINK = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.ENOSPC, errno.EDQUOT)


def cannot(name: str, error: OSError) -> FileError:
    """Return the error for a file or directory that cannot be stored."""
    if isinstance(error, FileExistsError):
        return FileError(f"{name!r} already exists (--force overwrites)")
    return FileError(f"{name!r} cannot be stored: {error.strerror}")


def name_exists(name: str, directory_fd: int) -> bool:
    """Return whether the name exists. Raises `OSError`."""
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


class FinalNames:
    """Gives names below a directory. A context manager, which undoes all steps on an exception. Raises `OSError`."""

    def __init__(self, directory_fd: int, partials: PartialFiles) -> None:
        self._fd = directory_fd
        self._partials = partials
        self._hidden = partials.made()
        self._built: dict[str, str] = {}
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

    def build_hidden(self, name: str) -> None:
        """Build the new directory `name` in the hidden directory, until `publish`."""
        hidden_name = _build_name(self._partials, name)
        os.mkdir(hidden_name, dir_fd=self._hidden)
        self._undo.append(partial(os.rmdir, hidden_name, dir_fd=self._hidden))
        self._built[name] = hidden_name

    def make_directory(self, path: str) -> None:
        """Create the directory `path` and its parents if they are missing, without following links."""
        if path in self._made:
            return
        root, parts = self._place(path)
        for depth in range(1, len(parts) + 1):
            checkpoint()
            with opened_below(root, parts[: depth - 1]) as parent, contextlib.suppress(FileExistsError):
                os.mkdir(parts[depth - 1], dir_fd=parent)
                self._undo.append(partial(_at, root, parts[:depth], os.rmdir))
        with opened_below(root, parts):
            self._made.add(path)

    def place(self, source: str, path: str, *, replace: bool) -> None:
        """Give the unfinished file `source` its final name; with `replace`, an existing file is replaced."""
        checkpoint()
        above, _, last = path.rpartition("/")
        if above:
            self.make_directory(above)
        root, parts = self._place(path)
        with opened_below(root, parts[:-1]) as place:
            if replace and name_exists(last, place):
                self._replace(source, root, parts, place)
            elif above or not self._link(source, last):
                rename_new(source, last, source_fd=self._hidden, target_fd=place)
                self._undo.append(partial(_at, root, parts, partial(self._back, source)))

    def publish(self) -> None:
        """Give the directories that were built in the hidden directory their final names."""
        for number, (name, hidden_name) in enumerate(self._built.items(), start=1):
            checkpoint()
            try:
                if number < len(self._built):
                    self._mark(name, hidden_name)
                rename_new(hidden_name, name, source_fd=self._hidden, target_fd=self._fd)
            except OSError as error:
                raise cannot(name, error) from None
            self._undo.append(partial(os.rename, name, hidden_name, src_dir_fd=self._fd, dst_dir_fd=self._hidden))

    def _mark(self, name: str, hidden_name: str) -> None:
        mark = _mark_name(self._partials, name)
        with contextlib.suppress(OSError):  # a file system without symbolic links
            self._partials.remove(mark)
            os.symlink(_inode(hidden_name, self._hidden), mark, dir_fd=self._hidden)
            self._undo.append(partial(os.unlink, mark, dir_fd=self._hidden))
            self._left.append(mark)

    def _place(self, path: str) -> tuple[int, list[str]]:
        """Return the descriptor of the directory in which `path` begins, and the components below it."""
        first, *others = path.split("/")
        hidden_name = self._built.get(first)
        return (self._fd, [first, *others]) if hidden_name is None else (self._hidden, [hidden_name, *others])

    def _replace(self, source: str, root: int, parts: Sequence[str], place: int) -> None:
        if stat.S_ISDIR(os.stat(parts[-1], dir_fd=place, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if exchange(source, parts[-1], source_fd=self._hidden, target_fd=place):
            self._undo.append(partial(_at, root, parts, partial(self._exchange_back, source)))
            self._left.append(source)

    def _link(self, source: str, target: str) -> bool:
        """Add the final name as a second link; return False if links are not supported."""
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
    with opened_below(root, parts[:-1]) as place:
        undo(parts[-1], dir_fd=place)


@contextlib.contextmanager
def locked(directory_fd: int) -> Iterator[None]:
    """Lock the directory against other processes of this kind. Raises `FileError` after `LOCK_S`."""
    until = time.monotonic() + LOCK_S
    while True:
        checkpoint()
        try:
            fcntl.flock(directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise FileError(f"another process has been storing files in this directory for {LOCK_S:g} s") from None
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


def recover(directory_fd: int, partials: PartialFiles, offered: Sequence[Offered], *, force: bool) -> None:
    """Undo the steps of a killed process of this session, as far as they concern the offered names.

    All its files then have their hidden names again, and are complete.
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
        if force or any(name_exists(name, directory_fd) for name in others):
            # That process had given all names, and only links and marks remain; or its names may stay.
            for info in linked:
                partials.remove(partials.name(info.name, info.size))
        else:
            for info in linked:
                os.unlink(info.name, dir_fd=directory_fd)
            for name in marked:
                rename_new(name, _build_name(partials, name), source_fd=directory_fd, target_fd=hidden)
    for name in names:
        checkpoint()
        with contextlib.suppress(OSError):
            partials.remove(_mark_name(partials, name))
            _restore_hidden_names(partials, name)


def _is_marked(directory_fd: int, partials: PartialFiles, name: str) -> bool:
    try:
        return os.readlink(_mark_name(partials, name), dir_fd=partials.fd) == _inode(name, directory_fd)
    except OSError:
        return False


def _inode(name: str, directory_fd: int) -> str:
    found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    return f"{found.st_dev}:{found.st_ino}"


def _is_linked(directory_fd: int, partials: PartialFiles, info: FileInfo) -> bool:
    if "/" in info.name:
        return False
    try:
        own = os.stat(info.name, dir_fd=directory_fd, follow_symlinks=False)
        hidden = os.stat(partials.name(info.name, info.size), dir_fd=partials.fd, follow_symlinks=False)
    except OSError:
        return False
    return (own.st_dev, own.st_ino) == (hidden.st_dev, hidden.st_ino) and own.st_uid == os.geteuid()


def _restore_hidden_names(partials: PartialFiles, name: str) -> None:
    hidden_name, hidden = _build_name(partials, name), partials.fd
    for below, directories, files, fd in os.fwalk(hidden_name, topdown=False, dir_fd=hidden):
        inner = f"{name}/{os.path.relpath(below, hidden_name)}/".replace("/./", "/")
        for each in files:
            checkpoint()
            found = os.stat(each, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                rename_new(each, partials.name(inner + each, found.st_size), source_fd=fd, target_fd=hidden)
        for each in directories:
            os.rmdir(each, dir_fd=fd)
    os.rmdir(hidden_name, dir_fd=hidden)


def _build_name(partials: PartialFiles, name: str) -> str:
    """Return the hidden name of a directory while it is built."""
    return partials.name(f"{name}/", None)


def _mark_name(partials: PartialFiles, name: str) -> str:
    return partials.name(f"{name}/", 0)
