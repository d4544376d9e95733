"""Stores received files in a directory, without incomplete files and without names outside the directory.

Every file is written in a hidden directory of its session (`punch.transfer.files.partial_files`). Directories are
created when all files are complete. Then all files get their final names, or none (`punch.transfer.files.final_names`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from punchlab.punch.errors import ArgumentError, ConnectionLostError
from punchlab.punch.transfer.files.final_names import FinalNames, cannot, locked, name_exists, recover
from punchlab.punch.transfer.files.name_rules import FileError, OfferError, check_path
from punchlab.punch.transfer.files.partial_files import PartialFiles, hash_prefix, identity
from punchlab.punch.transfer.files.partial_names import PartialNames
from punchlab.punch.transfer.files.safe_open import opened_below
from punchlab.punch.transfer.offer import DirectoryInfo, FileDone, FileInfo, Offered, StreamInfo, check_distinct
from punchlab.punch.transfer.worker import checkpoint


class _Held(NamedTuple):
    """The received part of a file: its size, its running SHA-256, and the identity of the partial file."""

    size: int
    digest: hashlib._Hash
    identity: tuple[int, int, int, int]


class FileSink:
    """A directory that received files are stored in. A context manager. All methods block, and have checkpoints.

    `partial_names` derives the names of unfinished files; without it no later process finds them. A file has a
    temporary name until all are complete; then all get their final names, or none if one cannot. Without `force` no
    file and no top-level directory of the offer may exist already. With `force`, files are added to existing
    directories, and files and links are replaced, but not a directory by a file or the reverse. After a broken
    connection the unfinished files remain, for `held` to find. Rejected or damaged files are removed.
    """

    def __init__(self, directory: Path, *, force: bool, partial_names: PartialNames | None = None) -> None:
        """Open the directory. Raises `ArgumentError` if it is not writable."""
        try:
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ArgumentError("dir", str(directory), f"a directory ({error.strerror})") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            os.close(self._fd)
            raise ArgumentError("dir", str(directory), "a writable directory")
        self.path = str(directory.resolve())
        self._force = force
        self._partials = PartialFiles(self._fd, partial_names or PartialNames.random())
        self._held: dict[FileInfo, _Held] = {}
        self._stored: dict[Offered, FileDone | None] = {}

    @property
    def partial_names(self) -> PartialNames:
        """The names of unfinished files; set it before there are any."""
        return self._partials.partial_names

    @partial_names.setter
    def partial_names(self, partial_names: PartialNames) -> None:
        self._partials = PartialFiles(self._fd, partial_names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._partials.close()
        os.close(self._fd)

    def check(self, offered: Sequence[Offered]) -> None:
        """Raise `FileError` if the offer cannot be stored here."""
        for info in offered:
            check_path(info.name)
        check_distinct(offered)
        new = [info for info in offered if info not in self._stored]
        with locked(self._fd):
            recover(self._fd, self._partials, new, force=self._force)
        if self._force:
            for info in new:
                checkpoint()
                self._check_replaceable(info)
        else:
            for name in {info.name.partition("/")[0] for info in new}:
                checkpoint()
                self._check_free(name)
        room = os.fstatvfs(self._fd)
        wanted = sum(info.size - self._size_held(info) for info in new if isinstance(info, FileInfo))
        free = room.f_bavail * room.f_frsize
        if wanted > free:
            raise FileError(f"no space for {wanted} bytes: {free} are free")

    def _size_held(self, info: FileInfo) -> int:
        try:
            name = self._partials.name(info.name, info.size)
            found = os.stat(name, dir_fd=self._partials.fd, follow_symlinks=False)
        except OSError:
            return 0
        return min(found.st_blocks * 512, info.size)

    def _check_free(self, name: str) -> None:
        try:
            taken = name_exists(name, self._fd)
        except OSError as error:
            raise cannot(name, error) from None
        if taken:
            raise FileError(f"{name!r} already exists (--force overwrites)")

    def _check_replaceable(self, info: Offered) -> None:
        *above, last = info.name.split("/")
        try:
            with opened_below(self._fd, above) as fd:
                found = os.stat(last, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise cannot(info.name, error) from None
        if stat.S_ISDIR(found.st_mode) and not isinstance(info, DirectoryInfo):
            raise FileError(f"{info.name!r} is a directory")
        if isinstance(info, DirectoryInfo) and not stat.S_ISDIR(found.st_mode):
            raise FileError(f"{info.name!r} exists and is not a directory")

    def resumable(self, offered: Sequence[Offered]) -> list[int]:
        """Return the numbers of the files that an earlier connection may have transferred in part or in full."""
        try:
            with os.scandir(self._partials.fd) as entries:
                unfinished = {entry.name for entry in entries}
        except OSError:
            unfinished = set()
        return [
            index
            for index, info in enumerate(offered)
            if isinstance(info, FileInfo)
            and (info in self._stored or self._partials.name(info.name, info.size) in unfinished)
        ]

    def held(self, info: FileInfo) -> tuple[int, bytes] | None:
        """Return the size and SHA-256 of the part of a file that an earlier connection has transferred."""
        done = self._stored.get(info)
        if done is not None:
            return info.size, bytes.fromhex(done.sha256)
        try:
            fd = self._partials.open(self._partials.name(info.name, info.size), create=False)
        except OSError:
            return None
        try:
            before = identity(fd)
            size = min(os.fstat(fd).st_size, info.size)
            digest = hash_prefix(fd, size)
        except OSError:
            return None
        finally:
            os.close(fd)
        if digest is None or not size:
            return None
        self._held[info] = _Held(size, digest, before)
        return size, digest.digest()

    def create(self, info: FileInfo | StreamInfo, start: int = 0) -> Incoming:
        """Begin a file, or resume it at byte `start`, the size that `held` returned. Raises `FileError`."""
        if not start:
            return Incoming(self._partials, info, None)
        held = self._held.get(info) if isinstance(info, FileInfo) else None
        if held is None or held.size != start:
            raise OfferError(f"{info.name!r} cannot resume at byte {start}")
        return Incoming(self._partials, info, held)

    def already_stored(self, info: FileInfo | StreamInfo, sha256: bytes) -> FileDone | None:
        """Return a file that an earlier connection of this process has stored, if any. Raises `FileError`."""
        done = self._stored.get(info)
        if done is not None and done.sha256 != sha256.hex():
            raise OfferError(f"{info.name!r} has changed since it was stored")
        return done

    def store(self, offered: Sequence[Offered], arrived: Sequence[Incoming]) -> None:
        """Give verified files their final names, and create the offered directories. Raises `FileError`."""
        new = [info for info in offered if info not in self._stored]
        directories = [info for info in new if isinstance(info, DirectoryInfo)]
        trees = {info.name.partition("/")[0] for info in new if "/" in info.name}
        try:
            with locked(self._fd), FinalNames(self._fd, self._partials) as names:
                for name in sorted(trees | {info.name for info in directories if "/" not in info.name}):
                    self._begin_tree(names, name)
                for info in directories:
                    try:
                        names.make_directory(info.name)
                    except OSError as error:
                        raise cannot(info.name, error) from None
                for incoming in arrived:
                    incoming.take_name(functools.partial(names.place, replace=self._force))
                names.publish()
        except OSError as error:
            raise FileError(f"the files cannot be stored: {error.strerror}") from None
        self._partials.close()
        self._stored.update(dict.fromkeys(directories))
        self._stored.update((incoming.info, incoming.done) for incoming in arrived)

    def _begin_tree(self, names: FinalNames, name: str) -> None:
        try:
            if not (self._force and name_exists(name, self._fd)):
                names.build_hidden(name)
        except OSError as error:
            raise cannot(name, error) from None

    def discard(self, offered: Sequence[Offered]) -> None:
        """Remove the unfinished files of an offer, except those that another process is receiving."""
        for info in offered:
            checkpoint()
            if not isinstance(info, DirectoryInfo):
                self._partials.discard(self._partials.name(info.name, getattr(info, "size", None)))
        self._partials.close()


class Incoming:
    """One file that is being received. A context manager, which removes an unverified file unless the connection broke.

    All methods raise `FileError`.
    """

    def __init__(self, partials: PartialFiles, info: FileInfo | StreamInfo, held: _Held | None) -> None:
        self.info = info
        self._expected = info.size if isinstance(info, FileInfo) else None
        self._partials = partials
        self._hash = hashlib.sha256() if held is None else held.digest.copy()
        self._size = 0 if held is None else held.size
        self._done: FileDone | None = None
        self._identity: tuple[int, int, int, int] | None = None
        self._temporary = partials.name(info.name, self._expected)
        try:
            self._fd = partials.open(self._temporary, create=True)
        except OSError as error:
            raise self._failed(error) from None
        try:
            # The file was not locked since `held`, so another process may have received into it.
            if held is not None and identity(self._fd) != held.identity:
                raise FileError(f"the received part of {info.name!r} has changed")
            os.truncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._done is None and not (kind is not None and issubclass(kind, ConnectionLostError)):
            with contextlib.suppress(OSError):
                self._partials.remove(self._temporary)
        os.close(self._fd)

    def write(self, data: bytes) -> None:
        """Append `data`, up to the offered size."""
        self._size += len(data)
        if self._expected is not None and self._size > self._expected:
            raise OfferError(f"{self.info.name!r} is longer than the offered {self._expected} bytes")
        self._hash.update(data)
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
        except OSError as error:
            raise self._failed(error) from None

    def verify(self, sha256: bytes) -> None:
        """Check the complete file, and keep it under its temporary name."""
        if self._expected not in (None, self._size) or self._hash.digest() != sha256:
            raise OfferError(f"{self.info.name!r} is damaged: its size or SHA-256 differs from the sender's")
        self._set_mode()
        self._identity = identity(self._fd)
        self._done = FileDone(self.info.name, self._size, sha256.hex())

    def _set_mode(self) -> None:
        """Make an executable file executable for all who may read it, like `rsync --executability`."""
        mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        wanted = mode & 0o666
        if isinstance(self.info, FileInfo) and self.info.executable:
            wanted |= (mode & 0o444) >> 2
        if wanted != mode:
            with contextlib.suppress(OSError):  # a file system without these mode bits (FAT)
                os.fchmod(self._fd, wanted)

    @property
    def done(self) -> FileDone:
        """The verified file."""
        if self._done is None:
            raise FileError(f"{self.info.name!r} is not complete")
        return self._done

    def take_name(self, place: Callable[[str, str], None]) -> None:
        """Give a verified file its final name, by calling `place` with its temporary and its final name."""
        try:
            fd = self._partials.open(self._temporary, create=False)
        except OSError as error:
            raise self._failed(error) from None
        try:
            if identity(fd) != self._identity:
                raise FileError(f"{self.info.name!r} has changed after it was received")
            place(self._temporary, self.info.name)
        except OSError as error:
            raise cannot(self.info.name, error) from None
        finally:
            os.close(fd)

    def _failed(self, error: OSError) -> FileError:
        return FileError(f"{self.info.name!r} cannot be stored: {error.strerror}")
