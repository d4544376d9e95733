"""The files and directories to send.

All files are examined before the offer, and each is opened when it is sent. From the offer until its last byte is read,
a file must not change (`punch.transfer.files.change_detection`), or the transfer fails. Links below a directory are not
followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from punchlab.punch.errors import ArgumentError
from punchlab.punch.transfer.files.change_detection import State, is_open_for_writing
from punchlab.punch.transfer.files.name_rules import FileError, check_path
from punchlab.punch.transfer.files.partial_files import is_partial_name
from punchlab.punch.transfer.files.safe_open import open_directory, opened_below
from punchlab.punch.transfer.offer import MAX_ENTRIES, DirectoryInfo, Entries, FileInfo, total_size

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Non-blocking, so that opening a FIFO does not wait for its writer; it has no effect on a regular file."""

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Skipped(NamedTuple):
    """A directory entry that is not sent, and why."""

    name: str
    reason: str


class _Place(NamedTuple):
    """The location of a file: the user's argument and the components below it; and the file's state when offered."""

    path: Path
    below: tuple[str, ...]
    state: State


class _Opened(NamedTuple):
    """The state of a file when it was opened; `doubtful` if a later write may leave the state unchanged."""

    state: State
    doubtful: bool


class FileSource:
    """The files and directories to send. A context manager, which closes the file that was opened last.

    `offered` and `skipped` are in the order of the arguments, and sorted by name within a directory.
    """

    def __init__(self, paths: list[Path]) -> None:
        """Examine all files. Raises `ArgumentError` if one cannot be sent, or two arguments have the same name."""
        self.offered: list[FileInfo | DirectoryInfo] = []
        self.skipped: list[Skipped] = []
        self._places: dict[str, _Place] = {}
        self._file: BinaryIO | None = None
        self._opened: _Opened | None = None
        self._entries = Entries()
        names: set[str] = set()
        for path in paths:
            # `.` and `..` get the name of their directory; a link keeps its own name.
            name = path.resolve().name if path.name in ("", "..") else path.name
            if name in names:
                raise ArgumentError("FILE", str(path), "files with different names")
            names.add(name)
            self._add(path, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def total(self) -> int:
        """The sum of the sizes of all files, in bytes."""
        return total_size(self.offered) or 0

    def contents(self) -> Iterator[tuple[int, FileInfo, BinaryIO]]:
        """Yield (number in `offered`, info, file); the file is open until the next one. Raises `FileError`."""
        for index, info in enumerate(self.offered):
            if isinstance(info, FileInfo):
                self._close()
                self._file = self._open(info)
                yield index, info, self._file

    def _open(self, info: FileInfo) -> BinaryIO:
        place = self._places[info.name]
        try:
            fd = _open_below(place.path, place.below)
        except OSError as error:
            raise FileError(f"{info.name!r} cannot be read: {error.strerror}") from None
        # In this order: a write through a memory mapping between the two calls would otherwise go undetected.
        doubtful, state = is_open_for_writing(fd), State.of(fd)
        if not place.state.unchanged_until(state):
            os.close(fd)
            raise FileError(f"{info.name!r} has changed since it was offered")
        self._opened = _Opened(state, doubtful or state.is_recent())
        return open(fd, "rb", buffering=0)  # noqa: PTH123 (a descriptor, owned by the caller)

    def check(self, info: FileInfo, file: BinaryIO) -> bool:
        """Raise `FileError` if the file that was opened last has changed since.

        Return True if its state is inconclusive, so that the content must be read a second time.
        """
        assert self._opened is not None
        before, doubtful = self._opened
        after = State.of(file.fileno())
        if not before.unchanged_until(after):
            raise changed(info)
        return doubtful or before != after

    def _add(self, path: Path, name: str) -> None:
        try:
            fd = os.open(path, _OPEN)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "a NUL in its name"
            raise ArgumentError("FILE", str(path), f"a readable file or directory ({why})") from None
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                self._add_directory(fd, path, (), name)
            elif stat.S_ISREG(mode):
                self._add_file(fd, path, (), name)
            else:
                raise ArgumentError("FILE", str(path), "a regular file or a directory")
        except OSError as error:
            raise ArgumentError("FILE", str(path), f"a readable file or directory ({error.strerror})") from None
        finally:
            os.close(fd)

    def _add_directory(self, fd: int, path: Path, below: tuple[str, ...], name: str) -> None:
        """Add the contents of the directory with descriptor `fd`. Raises `ArgumentError`."""
        before = len(self.offered)
        for each in sorted(os.listdir(fd)):
            inner, inner_name = (*below, each), f"{name}/{each}"
            try:
                self._add_entry(fd, path, inner, inner_name)
            except OSError as error:
                expected = f"a readable file or directory ({error.strerror})"
                raise ArgumentError("FILE", str(path.joinpath(*inner)), expected) from None
        if len(self.offered) == before:
            self._offer(DirectoryInfo(name), path.joinpath(*below))

    def _add_entry(self, directory_fd: int, path: Path, below: tuple[str, ...], name: str) -> None:
        kind = stat.S_IFMT(os.stat(below[-1], dir_fd=directory_fd, follow_symlinks=False).st_mode)
        if is_partial_name(below[-1]):
            self._skip(Skipped(name, "an unfinished file of punch"), path)
        elif kind == stat.S_IFDIR:
            fd = open_directory(below[-1], directory_fd)
            try:
                _check(name, path.joinpath(*below))  # before the recursion, which limits its depth
                self._add_directory(fd, path, below, name)
            finally:
                os.close(fd)
        elif kind == stat.S_IFREG:
            fd = os.open(below[-1], _OPEN | os.O_NOFOLLOW, dir_fd=directory_fd)
            try:
                self._add_file(fd, path, below, name)
            finally:
                os.close(fd)
        else:
            self._skip(Skipped(name, _KINDS.get(kind, "not a regular file")), path)

    def _add_file(self, fd: int, path: Path, below: tuple[str, ...], name: str) -> None:
        found, state = os.fstat(fd), State.of(fd)
        if _size_is_unknown(fd, state):
            expected = "a file of known size (`punch send -` sends standard input)"
            raise ArgumentError("FILE", str(path.joinpath(*below)), expected)
        self._offer(FileInfo(name, found.st_size, bool(found.st_mode & stat.S_IXUSR)), path.joinpath(*below))
        self._places[name] = _Place(path, below, state)

    def _offer(self, info: FileInfo | DirectoryInfo, path: Path) -> None:
        _check(info.name, path)
        self._count(info.name, path)
        self.offered.append(info)

    def _skip(self, skipped: Skipped, path: Path) -> None:
        self._count(skipped.name, path)
        self.skipped.append(skipped)

    def _count(self, name: str, path: Path) -> None:
        try:
            self._entries.add(name)
        except FileError:
            raise ArgumentError("FILE", str(path), f"at most {MAX_ENTRIES} files and directories in all") from None


def changed(info: FileInfo) -> FileError:
    """Return the error for a file that was written to during the transfer."""
    return FileError(f"{info.name!r} has changed during the transfer")


def _size_is_unknown(fd: int, state: State) -> bool:
    """Return whether the content does not end at the file's size, as for files generated on reading (proc(5))."""
    size = state.size
    as_stated = not os.pread(fd, 1, size) and (size == 0 or len(os.pread(fd, 1, size - 1)) == 1)
    return not as_stated and State.of(fd) == state  # if the state changes, the file is being written to


def _check(name: str, path: Path) -> None:
    try:
        check_path(name)
    except FileError as error:
        raise ArgumentError("FILE", str(path), f"a valid name ({error})") from None


def _open_below(path: Path, below: tuple[str, ...]) -> int:
    if not below:
        return os.open(path, _OPEN)
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with opened_below(root, below[:-1]) as fd:
            return os.open(below[-1], _OPEN | os.O_NOFOLLOW, dir_fd=fd)
    finally:
        os.close(root)
