"""Files and directories on their way out.

Everything is looked at before anything is offered, and opened when its turn comes. From the offer until its last byte
was read a file must stay as it was (`punch.transfer.unchanged`), or the transfer fails. No link below a directory is
followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from punchlab.punch.errors import ArgumentError
from punchlab.punch.transfer.names import FileError, check_path
from punchlab.punch.transfer.offer import MAX_ENTRIES, DirectoryInfo, Entries, FileInfo, total_size
from punchlab.punch.transfer.partial import is_partial_name
from punchlab.punch.transfer.safe_open import descended, open_directory
from punchlab.punch.transfer.unchanged import State, is_open_for_writing

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Non-blocking, so that opening a FIFO does not wait for its writer; it means nothing to a regular file."""

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Skipped(NamedTuple):
    """Something in a directory that is not sent, and what it is."""

    name: str
    reason: str


class _Place(NamedTuple):
    """Where a file is: what the user named, and the parts of the way down from there; and its state when offered."""

    path: Path
    below: tuple[str, ...]
    state: State


class _Opened(NamedTuple):
    """The state of a file before its first byte was read; `doubtful` if a later write might not show in the state."""

    state: State
    doubtful: bool


class Outgoing:
    """What is to be sent. A context manager, which closes the file that was opened last.

    `offered` and `skipped` are in the order of the arguments, and by name within a directory.
    """

    def __init__(self, paths: list[Path]) -> None:
        """Raises `ArgumentError` if something there cannot be read or sent, or two arguments have the same name."""
        self.offered: list[FileInfo | DirectoryInfo] = []
        self.skipped: list[Skipped] = []
        self._places: dict[str, _Place] = {}
        self._file: BinaryIO | None = None
        self._opened: _Opened | None = None
        self._entries = Entries()
        names: set[str] = set()
        for path in paths:
            # `.` and `..` are called what they are; a link is called what the user calls it.
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
        """Bytes in all files."""
        return total_size(self.offered) or 0

    def contents(self) -> Iterator[tuple[int, FileInfo, BinaryIO]]:
        """Each file with its number in `offered`, open until the next one is asked for. Raises `FileError`."""
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
        # In this order: a store through a mapping between the two shows in neither.
        doubtful, state = is_open_for_writing(fd), State.of(fd)
        if not place.state.became(state):
            os.close(fd)
            raise FileError(f"{info.name!r} has changed since it was offered")
        self._opened = _Opened(state, doubtful or state.is_recent())
        return open(fd, "rb", buffering=0)  # noqa: PTH123 (a descriptor, owned by the caller)

    def check(self, info: FileInfo, file: BinaryIO) -> bool:
        """Raise `FileError` if the file, which was opened last, has changed since.

        Returns whether its state does not tell, so that its content must be read a second time.
        """
        assert self._opened is not None
        before, doubtful = self._opened
        after = State.of(file.fileno())
        if not before.became(after):
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
        """Everything in the directory of that descriptor. Raises `ArgumentError`."""
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
                _check(name, path.joinpath(*below))  # before going on: the way down is bounded
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
            self._skip(Skipped(name, _KINDS.get(kind, "no regular file")), path)

    def _add_file(self, fd: int, path: Path, below: tuple[str, ...], name: str) -> None:
        found, state = os.fstat(fd), State.of(fd)
        if _size_is_unknown(fd, state):
            expected = "a file whose size is known (`punch send -` sends what can be read from it)"
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
    """The error for a file that was written to while it was read."""
    return FileError(f"{info.name!r} has changed while it was sent")


def _size_is_unknown(fd: int, state: State) -> bool:
    """Whether the file ends elsewhere than its size says, as files do that are made while they are read (proc(5))."""
    size = state.size
    as_said = not os.pread(fd, 1, size) and (size == 0 or len(os.pread(fd, 1, size - 1)) == 1)
    return not as_said and State.of(fd) == state  # otherwise it is being written to, which is found when it is opened


def _check(name: str, path: Path) -> None:
    try:
        check_path(name)
    except FileError as error:
        raise ArgumentError("FILE", str(path), f"a name that can be sent ({error})") from None


def _open_below(path: Path, below: tuple[str, ...]) -> int:
    if not below:
        return os.open(path, _OPEN)
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with descended(root, below[:-1]) as fd:
            return os.open(below[-1], _OPEN | os.O_NOFOLLOW, dir_fd=fd)
    finally:
        os.close(root)
