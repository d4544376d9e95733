"""Files on their way out, and on their way in: a name that cannot leave its directory, and no half-written file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import unicodedata
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from punch.errors import InputError, PunchError

MAX_NAME_BYTES = 255
MAX_FILES = 10_000
_DANGEROUS = {"Cc", "Cs", "Zl", "Zp"}  # control characters, lone surrogates, line and paragraph separators
_BIDI_CONTROLS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they make a name look like another


class FileError(PunchError):
    """A file cannot be stored (or read to its end)."""


class FileInfo(NamedTuple):
    """A file's name and its size in bytes."""

    name: str
    size: int


class FileDone(NamedTuple):
    """A file that has arrived; `sha256` in hex."""

    name: str
    size: int
    sha256: str


def check_name(name: str) -> None:
    """Raise `FileError` unless `name` names a file in whatever directory, and nothing else, on any system."""
    shown = ascii(name if len(name) <= 80 else name[:77] + "...")
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise FileError(f"{shown} is not a plain file name")
    if any(unicodedata.category(each) in _DANGEROUS or each in _BIDI_CONTROLS for each in name):
        raise FileError(f"{shown} has control characters in it")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise FileError(f"{shown} is longer than {MAX_NAME_BYTES} bytes")


class Outgoing:
    """Files opened for sending: what was checked is what is sent. A context manager."""

    def __init__(self, paths: list[Path]) -> None:
        """Raises `InputError` if a path is no readable regular file, or two have the same name."""
        self.files: list[tuple[FileInfo, BinaryIO]] = []
        with contextlib.ExitStack() as stack:
            if len(paths) > MAX_FILES:
                raise InputError("FILE", f"{len(paths)} files", f"at most {MAX_FILES}")
            names: set[str] = set()
            for path in paths:
                file = stack.enter_context(_open_regular(path))
                name = path.name
                try:
                    check_name(name)
                except FileError as error:
                    raise InputError("FILE", str(path), f"a name that can be sent ({error})") from None
                if name in names:
                    raise InputError("FILE", str(path), "files with different names")
                names.add(name)
                self.files.append((FileInfo(name, os.fstat(file.fileno()).st_size), file))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def total(self) -> int:
        """Bytes in all files."""
        return sum(info.size for info, _ in self.files)


def _open_regular(path: Path) -> BinaryIO:
    try:
        # Non-blocking, so that opening a FIFO does not wait for its writer; it means nothing to a regular file.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "a NUL in its name"
        raise InputError("FILE", str(path), f"a readable file ({why})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError("FILE", str(path), "a regular file")
    return open(descriptor, "rb", buffering=0)  # noqa: PTH123 (a descriptor, owned by the caller)


class Inbox:
    """A directory that files arrive in. A context manager.

    A file is written under a temporary name, which goes away if it is not completed, and then takes its own in one
    step; without `force` only if nothing has that name.
    """

    def __init__(self, directory: Path, *, force: bool) -> None:
        """Raises `InputError` if the directory cannot be written to."""
        try:
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError("dir", str(directory), f"a directory ({error.strerror})") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            os.close(self._fd)
            raise InputError("dir", str(directory), "a writable directory")
        self._force = force

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    def check(self, offered: list[FileInfo]) -> None:
        """Raise `FileError` if these files cannot be stored here."""
        names: set[str] = set()
        for info in offered:
            check_name(info.name)
            if info.name in names:
                raise FileError(f"{info.name!r} is offered twice")
            names.add(info.name)
            self._check_free(info.name)
        room = os.fstatvfs(self._fd)
        wanted, free = sum(info.size for info in offered), room.f_bavail * room.f_frsize
        if wanted > free:
            raise FileError(f"no space for {wanted} bytes: {free} are free")

    def _check_free(self, name: str) -> None:
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise FileError(f"{name!r} cannot be stored: {error.strerror}") from None
        if not self._force:
            raise FileError(f"{name!r} exists already (--force overwrites)")
        if stat.S_ISDIR(found.st_mode):
            raise FileError(f"{name!r} is a directory")

    def create(self, info: FileInfo) -> Incoming:
        """Begin a file. Raises `FileError`."""
        return Incoming(self._fd, info, force=self._force)


class Incoming:
    """One file that is arriving. A context manager: what is not committed is removed. All raise `FileError`."""

    def __init__(self, directory_fd: int, info: FileInfo, *, force: bool) -> None:
        self._directory_fd = directory_fd
        self._info = info
        self._force = force
        self._hash = hashlib.sha256()
        self._size = 0
        self._temporary = f".punch-{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self._temporary, flags, 0o666, dir_fd=directory_fd)
        except OSError as error:
            raise self._failed(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=self._directory_fd)

    def write(self, data: bytes) -> None:
        """Append `data`, within the size that was offered."""
        self._size += len(data)
        if self._size > self._info.size:
            raise FileError(f"{self._info.name!r} is longer than the {self._info.size} bytes that were offered")
        self._hash.update(data)
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
        except OSError as error:
            raise self._failed(error) from None

    def commit(self, sha256: bytes) -> FileDone:
        """Verify the file and give it its name."""
        if self._size != self._info.size or self._hash.digest() != sha256:
            raise FileError(f"{self._info.name!r} arrived damaged")
        try:
            self._take_name()
        except FileExistsError:
            raise FileError(f"{self._info.name!r} exists already (--force overwrites)") from None
        except OSError as error:
            raise self._failed(error) from None
        return FileDone(self._info.name, self._size, sha256.hex())

    def _take_name(self) -> None:
        source, target, fd = self._temporary, self._info.name, self._directory_fd
        if not self._force:
            try:
                os.link(source, target, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                # No hard links here (FAT): claim the name with an empty file, which the rename below replaces.
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=fd))
            else:
                return
        os.rename(source, target, src_dir_fd=fd, dst_dir_fd=fd)

    def _failed(self, error: OSError) -> FileError:
        return FileError(f"{self._info.name!r} cannot be stored: {error.strerror}")
